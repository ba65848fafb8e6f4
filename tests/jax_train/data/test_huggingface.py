"""Parquet files and data sets of a hub, served on loopback, read with the library `datasets`."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jax_train import data
from jax_train.data.sources import huggingface
from jax_train.data.splits import load_splits
from jax_train.errors import UserError
from jax_train.runs import data_record
from tests import tiny
from tests.jax_models.pretrained.loopback import COMMITS, Hub

datasets = pytest.importorskip("datasets", reason="needs the extra hf: pip install datasets")
COUNTS = {"train": 12, "validation": 4, "test": 6}
NAMES = ["cat", "dog", "eel"]


def encoded(value: int, width: int = 12, height: int = 9, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[:, : width // 2, 0] = 250
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def table(count: int, start: int = 0, names=NAMES, **more):
    """Rows whose images say their number; classes stand one after the other."""
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    rows = {
        "image": [{"bytes": encoded(start + i, 12 + i), "path": None} for i in range(count)],
        "label": [i * len(names) // count for i in range(count)],
    }
    for name, (feature, values) in more.items():
        columns[name], rows[name] = feature, values
    return datasets.Dataset.from_dict(rows, features=datasets.Features(columns))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of three splits as the hub keeps them."""
    root = tmp_path_factory.mktemp("pets")
    (root / "data").mkdir()
    for number, (split, count) in enumerate(COUNTS.items()):
        place = root / "data" / f"{split}-00000-of-00001.parquet"
        table(count, 50 * number).to_parquet(str(place))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("JAX_VIT_CNN_CACHE", str(tmp_path / "decoded"))
    datasets.disable_progress_bars()


def load(path, split="train", **options):
    return data.load(f"parquet:{path}", split, **{"image_size": 6, **options})


def numbers(split):
    """What the images say: their numbers in the files."""
    return split.images[:, -1, -1, 2].tolist()


def test_a_folder_of_parquet_files_is_read_with_its_splits(stored):
    train, val, test = (load(stored, split) for split in ("train", "val", "test"))
    assert train.class_names == val.class_names == tuple(NAMES)
    assert [len(split) for split in (train, val, test)] == list(COUNTS.values())
    assert train.image_shape == (6, 6, 3)
    assert sorted(numbers(train)) == list(range(12))
    assert sorted(numbers(val)) == list(range(50, 54))
    for split, count, start in ((train, 12, 0), (test, 6, 100)):
        assert split.labels.tolist() == [(n - start) * 3 // count for n in numbers(split)]
    assert len(set(train.labels[:6])) > 1  # shuffled: stored they are one class after the other
    assert numbers(train) == numbers(load(stored))
    np.testing.assert_array_equal(load(stored, "validation").images, val.images)
    assert train.names([3])[0] == f"train row {numbers(train)[3]}"


def test_rows_stream_and_are_cropped_as_files_are(stored):
    memory, streamed = load(stored), load(stored, memory_limit=0)
    assert streamed.streamed
    assert streamed.can_fit
    found = np.concatenate([images for images, _ in streamed.batches(np.arange(12).reshape(4, 3))])
    np.testing.assert_array_equal(found, memory.images)
    np.testing.assert_array_equal(streamed.labels, memory.labels)


def test_contents_say_which_files_they_are(stored, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy")
    found = load(stored).contents("train")
    assert list(found) == ["data/train-00000-of-00001.parquet"]
    assert load(copy).contents("train") == found
    table(12, 3).to_parquet(str(copy / "data" / "train-00000-of-00001.parquet"))
    changed = load(copy)
    assert sorted(numbers(changed)) == list(range(3, 15))  # the caches know that it is another
    assert changed.contents("train") != found
    config = tiny.config(**{"data.name": f"parquet:{copy}"})
    assert data_record.located(config).name == f"parquet:{copy}"


def test_labels_may_be_texts_or_numbers_and_images_bytes(tmp_path):
    for kind, values, names in (
        ("texts", ["b", "a", "b"], ("a", "b")),
        ("numbers", [10, 2, 10], ("2", "10")),
    ):
        root = tmp_path / kind
        root.mkdir()
        for split, rows in (("train", 3), ("test", 2)):
            images = [encoded(i, 6, 6) for i in range(rows)]
            plain = datasets.Dataset.from_dict({"picture": images, "class": values[:rows]})
            plain.to_parquet(str(root / f"{split}.parquet"))
        split = load(root)
        assert split.class_names == names
        assert [names[label] for label in split.labels] == [str(values[n]) for n in numbers(split)]


def test_columns_are_named_where_several_can_be(tmp_path):
    both = {
        "other": (datasets.Image(), [{"bytes": encoded(70 + i), "path": None} for i in range(6)]),
        "coarse": (datasets.ClassLabel(names=["x", "y"]), [0, 1] * 3),
    }
    table(6, **both).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match=r"several columns of images: image, other.*image_column=i"):
        load(tmp_path, image_column=None)
    with pytest.raises(UserError, match=r"several columns of labels: label, coarse.*label_column="):
        load(tmp_path, image_column="other")
    found = load(tmp_path, image_column="other", label_column="coarse")
    assert found.class_names == ("x", "y")
    assert sorted(numbers(found)) == list(range(70, 76))
    with pytest.raises(UserError, match=r"image_column='othr': expected .* Did you mean other\?"):
        load(tmp_path, image_column="othr", label_column="coarse")
    with pytest.raises(UserError, match=r"label_column='image': expected a column of labels"):
        load(tmp_path, image_column="other", label_column="image")


def test_another_column_of_labels_is_not_answered_from_the_cache(tmp_path):
    coarse = {"coarse": (datasets.ClassLabel(names=["x", "y"]), [0, 1] * 3)}
    table(6, **coarse).to_parquet(str(tmp_path / "train.parquet"))
    assert load(tmp_path, label_column="label").class_names == tuple(NAMES)
    found = load(tmp_path, label_column="coarse")
    assert found.class_names == ("x", "y")
    assert found.labels.tolist() == [n % 2 for n in numbers(load(tmp_path, label_column="label"))]


def test_splits_without_labels_are_told_and_not_used(tmp_path):
    table(6).to_parquet(str(tmp_path / "train.parquet"))
    features = table(1).features
    hidden = table(3).to_dict() | {"label": [-1, -1, -1]}
    hidden = datasets.Dataset.from_dict(hidden, features=features)
    hidden.to_parquet(str(tmp_path / "test.parquet"))
    train = load(tmp_path)
    assert any("split test is not used: 3 images have the label -1" in n for n in train.notes)
    with pytest.raises(UserError, match=r"has no split test: .*the label -1"):
        load(tmp_path, "test")


def test_a_missing_label_is_no_class_called_none(tmp_path):
    images = [encoded(i, 6, 6) for i in range(4)]
    for split, missing in (("train", "None"), ("test", None)):
        plain = {"image": images, "label": ["None", "cat", missing, "cat"]}
        datasets.Dataset.from_dict(plain).to_parquet(str(tmp_path / f"{split}.parquet"))
    train = load(tmp_path)
    assert train.class_names == ("None", "cat")
    assert np.bincount(train.labels).tolist() == [2, 2]
    assert any("test is not used: 1 image has the label None, which" in n for n in train.notes)


def test_names_of_files_are_taken_as_they_are(tmp_path):
    for name, start in (("a[1]*", 0), ("a1x", 50)):  # the first as a pattern fits the second
        (tmp_path / name).mkdir()
        table(6, start).to_parquet(str(tmp_path / name / "train[0].parquet"))
    assert sorted(numbers(load(tmp_path / "a[1]*"))) == list(range(6))


def test_only_files_that_are_meant_are_read(tmp_path):
    (tmp_path / "train.parquet").mkdir()  # as Spark writes them
    table(6).to_parquet(str(tmp_path / "train.parquet" / "part-0.parquet"))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    table(6, 50).to_parquet(str(tmp_path / ".ipynb_checkpoints" / "train-checkpoint.parquet"))
    (tmp_path / "._train.parquet").write_bytes(b"\0\5\x16\7")  # in zip files of a Mac
    table(6, 70).to_parquet(str(tmp_path / "more.parquet"))
    found = load(tmp_path)
    assert sorted(numbers(found)) == list(range(6))
    assert found.notes == ("left out, being named like no split: more.parquet",)


def test_damaged_rows_are_named_or_left_out(tmp_path):
    rows = table(6).cast_column("image", datasets.Image(decode=False)).to_dict()
    rows["image"][1] = {"bytes": encoded(1)[:40], "path": None}
    rows["image"][5] = {"bytes": b"", "path": None}
    broken = datasets.Dataset.from_dict(rows, features=table(1).features)
    broken.to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match=r"2 image files .*train row [15] \((damaged|empty)"):
        load(tmp_path)
    assert sorted(numbers(load(tmp_path, on_damaged="skip"))) == [0, 2, 3, 4]


def test_what_is_no_data_of_images_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*Expected a folder with parquet"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"No parquet file in .*write --config.data.name=folder:"):
        load(tmp_path)
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).to_parquet(str(tmp_path / "train.parquet"))
    with pytest.raises(UserError, match=r"no column of images; its columns are: a, b"):
        load(tmp_path)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"parquet:.*, which cannot be read: ") as caught:
        load(tmp_path)
    assert str(caught.value).endswith("Expected whole parquet files of the same columns.")


# The hub


@pytest.fixture
def hub(stored, tmp_path, monkeypatch):
    """A server with `org/pets` in two revisions; the older one has fewer rows."""
    for branch in COMMITS:
        shutil.copytree(stored, tmp_path / "served" / "datasets" / "org" / "pets" / branch)
    old = tmp_path / "served" / "datasets" / "org" / "pets" / "old" / "data"
    table(6, 200).to_parquet(str(old / "train-00000-of-00001.parquet"))
    server = Hub(tmp_path / "served")
    constants = pytest.importorskip("huggingface_hub.constants")
    for target in (constants, datasets.config):
        monkeypatch.setattr(target, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.close()


def from_hub(name="org/pets", split="train", **options):
    return data.load(f"hf:{name}", split, image_size=6, **options)


def test_a_data_set_of_the_hub_is_read_and_its_revision_recorded(hub):
    train = from_hub()
    assert sorted(numbers(train)) == list(range(12))
    assert train.contents("train") == {f"org/pets@{COMMITS['main']}/train": [12, None]}
    for revision in ("old", COMMITS["old"]):
        older = from_hub(f"org/pets@{revision}")
        assert sorted(numbers(older)) == list(range(200, 206))
        assert older.contents("train") == {f"org/pets@{COMMITS['old']}/train": [6, None]}
    assert older.source != train.source


def test_a_run_goes_on_with_the_revision_it_began_with(hub, tmp_path):
    fields = {f"data.{name}_split": name for name in ("train", "val", "test")}
    config = tiny.config(**{"data.name": "hf:org/pets", "data.image_size": 6, **fields})
    record = data_record.describe(config, load_splits(config))
    first = f"hf:org/pets@{COMMITS['main']}"
    assert record.name == first
    assert data_record.pinned(config, tmp_path) is config  # no run is there
    (tmp_path / data_record.FILE).write_text(json.dumps(record._asdict()))
    for name, expected in (
        ("hf:org/pets", first),
        ("hf:org/pets@main", first),
        (f"hf:org/pets@{COMMITS['old']}", f"hf:org/pets@{COMMITS['old']}"),
        ("hf:org/other", "hf:org/other"),
        ("digits", "digits"),
    ):
        config.data.name = name
        assert data_record.pinned(config, tmp_path).data.name == expected
    config.data.name = first
    assert data_record.describe(config, load_splits(config)) == record


def test_what_is_in_the_cache_serves_without_a_network(hub, monkeypatch):
    before = from_hub()
    assert not before.notes
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    asked = len(hub.requests)
    after = from_hub()
    np.testing.assert_array_equal(after.images, before.images)
    assert after.contents("train") == before.contents("train")
    assert "read from the cache of datasets: http://127.0.0.1:9 cannot be reached" in after.notes[0]
    from_hub(f"org/pets@{COMMITS['main']}", download=False)
    assert len(hub.requests) == asked
    with pytest.raises(UserError, match=rf"newest revision in the cache is {COMMITS['main']}"):
        from_hub(f"org/pets@{COMMITS['old']}")
    with pytest.raises(
        UserError, match=r"org/other, which is not in the cache .*cannot be reached"
    ):
        from_hub("org/other")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/nothing", "does not exist on the hub, or is private"),
        ("org/pets@none", "has no such revision: check the part after '@'"),
        ("org/pets/large", "cannot be read: BuilderConfig 'large' not found"),
        ("org/pets/a/b", "expected hf:ORG/NAME, with /CONFIG and @REVISION"),
        ("", "expected hf:ORG/NAME"),
    ],
)
def test_what_is_not_on_the_hub_is_refused_in_one_paragraph(hub, name, words):
    with pytest.raises(UserError) as caught:
        from_hub(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_it_is_named(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"")
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from jax_train import data\n"
        f"data.load({f'parquet:{tmp_path}'!r}, 'train')"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "which is read with the library datasets: pip install" in found.stderr


def test_the_fixed_order_is_one_of_numpys_own_bits():
    order = huggingface._order(7)
    assert order.tolist() == np.argsort(np.random.Philox(key=7).random_raw(7)).tolist()
