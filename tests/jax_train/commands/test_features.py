"""`features`, and `evaluate` with classifiers on them; see test_evaluate.py for those of runs."""

import csv
import dataclasses
import os
import re
import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jax_models import load_pretrained
from jax_train import __main__
from jax_train.analysis import feature_files, feature_tables, probes, projection
from jax_train.analysis.features import Features, Part, classes_of
from jax_train.errors import UserError
from tests.jax_models.pretrained import folders
from tests.jax_train.commands.refusals import check_refusal

pytestmark = pytest.mark.xdist_group("features")  # what is compiled for one serves the others
COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A ViT with a head and one without, and photos of three colours in train and test."""
    root = tmp_path_factory.mktemp("features")
    folders.hugging_face(root / "vit")
    folders.timm(root / "bare", num_classes=0)
    random = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 2)):
        for name, colour in COLOURS.items():
            folder = root / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = random.normal(0, 60, (*random.integers(20, 60, 2), 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def run(*arguments):
    """Run a command in this process; return its exit code."""
    return __main__.main([str(argument) for argument in arguments])


def test_the_file_holds_what_the_head_reads_with_names_and_labels(place, tmp_path, capsys):
    photos = tmp_path / os.fsdecode(b"photos \xff")
    os.symlink(place / "photos" / "test", photos)
    Image.new("RGB", (9, 9)).save(photos / "red" / "z.gif")
    try:
        assert run("features", place / "vit", photos, "--to", tmp_path / "a.npz") == 0
    finally:
        (photos / "red" / "z.gif").unlink()
    found = feature_files.read(tmp_path / "a.npz")
    names = [f"{colour}/{i}.png" for colour in COLOURS for i in range(2)]
    assert found.names == (*names, "red/z.gif")
    assert found.class_names == ("blue", "green", "red")
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2, 2])
    loaded = load_pretrained(place / "vit")
    images = loaded.preprocessing([place / "photos" / "test" / name for name in names])
    expected = loaded.model.pooled_features(images)
    np.testing.assert_allclose(found.features[:-1], expected, atol=1e-5)
    assert "7 images" in capsys.readouterr().out
    with np.load(tmp_path / "a.npz") as plain:  # as users read it
        assert plain["features"].dtype == np.float32
        assert str(plain["data"]) == str(photos)


def test_tokens_of_a_split_of_a_folder(place, tmp_path):
    to = tmp_path / "tokens.npz"
    data = "--data", f"folder:{place / 'photos'}", "--split", "test"
    assert run("features", place / "vit", *data, "--tokens", "--to", to) == 0
    found = feature_files.read(to)
    assert found.features.shape == (6, 17, 24)
    assert sorted(found.names) == [f"test/{c}/{i}.png" for c in COLOURS for i in range(2)]
    named = [name.split("/")[1] for name in found.names]
    assert named == [found.class_names[label] for label in found.labels]
    loaded = load_pretrained(place / "vit")
    images = loaded.preprocessing([place / "photos" / name for name in found.names])
    np.testing.assert_allclose(found.features, loaded.model.forward_features(images), atol=1e-5)


def test_damaged_files_are_listed_and_a_head_is_not_needed(place, tmp_path, capsys):
    (tmp_path / "c.png").write_bytes(b"no image")
    files = place / "photos" / "test" / "red" / "0.png", tmp_path / "c.png"
    assert run("features", place / "bare", *files, "--to", tmp_path / "a.npz") == 1
    assert "1 of 2 files cannot be read" in capsys.readouterr().out
    found = feature_files.read(tmp_path / "a.npz")
    assert found.names == (str(files[0]),)
    assert found.labels is None
    bare = load_pretrained(place / "bare")
    expected = bare.model(bare.preprocessing(files[:1]))
    np.testing.assert_allclose(found.features, expected, atol=1e-5)


def test_a_classifier_on_a_folder_is_that_on_files_of_its_features(place, tmp_path, capsys):
    photos, to = place / "photos", {s: tmp_path / f"{s}.npz" for s in ("train", "test")}
    for split, path in to.items():
        assert run("features", place / "vit", photos / split, "--to", path) == 0
    table = tmp_path / "table.csv"
    capsys.readouterr()
    of_files = ["--knn", *to.values(), "--k", 3, "--csv", table]
    assert run("evaluate", *of_files) == 0
    said = capsys.readouterr().out
    assert "3 nearest neighbours of 21" in said
    assert "6 images; 24 features" in said
    assert all(len(line) <= 80 for line in said.splitlines() if str(tmp_path) not in line)
    assert run("evaluate", place / "vit", "--data", f"folder:{photos}", "--knn", "--k", 3) == 0
    # Below what they are of; and but for the line on the CSV file.
    assert capsys.readouterr().out.split("\n\n", 1)[1].strip() in said
    rows = list(csv.DictReader(table.open()))
    assert [(row["class"], row["images"]) for row in rows] == [(c, "2") for c in COLOURS]


def test_data_without_a_test_split_leave_a_part_for_it(place, capsys):
    data = f"folder:{place / 'photos' / 'train'}"
    assert run("evaluate", place / "vit", "--data", data, "--linear") == 0
    said = capsys.readouterr().out
    assert "train[90%:] by class" in said
    assert "3 images" in said
    assert "chosen on 3 of 18 training images" in said


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["b/1.png", "a/x/2.png"], [1, 0], ("a", "b")),
        (["train/b/1.png", "test/a/2.png", "train/a/2.png"], [1, 0, 0], ("a", "b")),
        (["b/1.png", "2.png"], None, ()),
        (["b/1.png", "b/2.png"], None, ()),
        (["train/1.png", "test/2.png"], None, ()),
    ],
)
def test_classes_follow_from_folders(names, labels, classes):
    found = classes_of(names)
    assert found[1] == classes
    assert (None if labels is None else found[0].tolist()) == labels


# Classifiers


def draw(count, seed=0, classes=("a", "b", "c"), width=5, **changes):
    """Features of classes that overlap."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(classes), count).astype(np.int32)
    features = random.normal(size=(count, width)) + 1.3 * np.eye(len(classes), width)[labels]
    names = tuple(f"{seed}-{i}.png" for i in range(count))
    texts = {"model": "vit", "weights": "abc", "source": "runs/vit", "data": "some"}
    made = Features(features.astype(np.float32), names, labels, tuple(classes), **texts)
    return dataclasses.replace(made, **changes)


def by_hand(train, test, k, weigh):
    """Votes [M,K], one image at a time."""
    shares = np.zeros((len(test.labels), len(train.class_names)))
    for row, image in enumerate(test.features.astype(np.float64)):
        known = train.features.astype(np.float64)
        similar = known @ image / np.linalg.norm(known, axis=1) / np.linalg.norm(image)
        for i in sorted(range(len(similar)), key=lambda i: -similar[i])[:k]:
            shares[row, train.labels[i]] += weigh(similar[i])
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("how", "weigh"),
    [
        ({}, lambda similar: np.exp(similar / 0.07)),
        ({"temperature": 0.5}, lambda similar: np.exp(similar / 0.5)),
        ({"votes": "equal"}, lambda similar: 1.0),
    ],
)
def test_the_nearest_neighbours_vote(how, weigh):
    train, test = draw(60), draw(300, seed=1)
    found = probes.nearest_neighbours(train, test, k=7, **how)
    shares = by_hand(train, test, 7, weigh)
    true = shares[np.arange(300), test.labels]
    np.testing.assert_allclose(found.true_probabilities, true, atol=1e-4)
    np.testing.assert_array_equal(found.predictions, shares.argmax(axis=1))
    right = (found.predictions == test.labels).mean()
    assert 0.5 < right < 0.95
    assert found.figures["top1"] == pytest.approx(right)
    assert found.confusion.sum() == 300


def test_no_temperature_is_too_low():
    train, test = draw(60), draw(50, seed=1)
    cold = probes.nearest_neighbours(train, test, k=7, temperature=1e-9)
    nearest = probes.nearest_neighbours(train, test, k=1)
    np.testing.assert_array_equal(cold.predictions, nearest.predictions)
    assert np.isnan(nearest.figures["loss"])  # some true classes have no vote
    assert 0.3 < nearest.figures["top1"] < 1


def test_the_strength_of_the_linear_classifier_is_chosen_on_training_images():
    from sklearn.linear_model import LogisticRegression

    train, test = draw(90), draw(200, seed=1)
    found = probes.linear(train, test)
    strength = float(found.method.split("C=")[1].split(",")[0])
    mean, std = train.features.mean(axis=0), train.features.std(axis=0)
    known, new = ((of.features - mean) / std for of in (train, test))
    model = LogisticRegression(C=strength, max_iter=1000).fit(known, train.labels)
    shares = model.predict_proba(new)[np.arange(200), test.labels]
    np.testing.assert_allclose(found.true_probabilities, shares, atol=1e-3)
    assert found.figures["loss"] == pytest.approx(-np.log(shares).mean(), rel=1e-3)
    # Other test images, or none that fit, change nothing of the choice.
    turned = dataclasses.replace(test, labels=(test.labels + 1) % 3)
    assert probes.linear(train, turned).method == found.method
    fit, held = probes._held_out(train.labels)
    assert sorted([*fit, *held]) == list(range(90))
    assert np.bincount(train.labels[held]).tolist() == (np.bincount(train.labels) // 5).tolist()


def test_classes_of_one_image_choose_nothing():
    train = draw(3, labels=np.arange(3, dtype=np.int32))
    found = probes.linear(train, draw(20, seed=1))
    assert "C=1" in found.method
    assert any("two training images" in note for note in found.notes)


def test_labels_go_by_name_and_shared_images_are_told():
    train = draw(40)
    turned = ("c", "a", "b")
    labels = np.array([turned.index(train.class_names[k]) for k in train.labels], np.int32)
    same = dataclasses.replace(train, class_names=turned, labels=labels)
    found = probes.nearest_neighbours(train, same, k=1)
    assert found.figures["top1"] == 1
    assert found.notes == ("40 test images are among the training images, by their features",)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ({"labels": None}, {}, ["one.npz has no labels", "one folder per class"]),
        ({}, {"weights": "def"}, ["different models", "abc", "def"]),
        ({}, {"width": 6}, ["different models", "6 features"]),
        ({"features": np.zeros((30, 4, 5), np.float32)}, {}, ["tokens", "--tokens"]),
        ({"labels": np.ones(30, np.int32)}, {}, ["all of one class, 'b'"]),
        ({}, {"classes": ("a", "b", "cow", "dog")}, ["classes cow, dog", "a, b, c"]),
    ],
)
def test_features_that_do_not_go_together(train, test, words):
    with pytest.raises(UserError) as refused:
        probes.check(draw(30, **train), draw(30, seed=1, **test), ("one.npz", "two.npz"))
    for word in words:
        assert word in str(refused.value)


# Files


def write(path, found):
    """Write features as the command does."""
    with feature_files.Spool(path) as spool:
        for start in (0, 20):
            part = found.features[start : start + 20]
            spool.add([Part(part, np.arange(start, start + len(part)), None)])
        feature_files.write("--to", path, found, spool)
    return path


@pytest.mark.parametrize(("end", "first"), [("npz", os.fsdecode(b"a \xff.png")), ("parquet", "a")])
def test_a_file_is_read_as_it_was_written(end, first, tmp_path):
    names = (first, *(f"ein Bild \u00fc {i}.png" for i in range(29)))
    made = draw(30, names=names, classes=("a", os.fsdecode(b"caf\xe9"), "c"))
    found = feature_files.read(write(tmp_path / f"a.{end}", made))
    jax.tree.map(np.testing.assert_array_equal, vars(found), vars(made))
    again = write(tmp_path / f"b.{end}", made)
    assert again.read_bytes() == (tmp_path / f"a.{end}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"a.{end}", f"b.{end}"}


def test_a_table_is_a_row_an_image_in_blocks(tmp_path, monkeypatch):
    import pyarrow.parquet

    monkeypatch.setattr(feature_tables, "_ROWS", 7)
    made = draw(30)
    tokens = dataclasses.replace(made, features=made.features.repeat(4, axis=1).reshape(30, 4, 5))
    for found in (tokens, dataclasses.replace(tokens, labels=None, class_names=())):
        path = write(tmp_path / "a.parquet", found)
        jax.tree.map(np.testing.assert_array_equal, vars(feature_files.read(path)), vars(found))
    rows = pyarrow.parquet.read_table(write(path, made)).to_pylist()
    assert len(rows) == 30
    assert rows[9]["name"] == made.names[9]
    assert rows[9]["class_name"] == made.class_names[rows[9]["label"]]
    np.testing.assert_array_equal(np.float32(rows[9]["features"]), made.features[9])


def test_without_the_library_a_table_is_refused_before_anything_is_read(
    place, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    to = tmp_path / "a.parquet"
    code = run("features", place / "vit", place / "photos", "--to", to)
    check_refusal(capsys, code, "pip install pyarrow")
    check_refusal(capsys, run("evaluate", "--knn", to, to), "pip install pyarrow")


# Pictures


def test_alike_images_are_near_each_other_in_the_plane():
    made = draw(90, width=8)
    features = made.features + 3 * np.eye(3, 8, dtype=np.float32)[made.labels]
    for by in ("tsne", "pca"):
        points = projection.project(features, by)
        assert points.shape == (90, 2)
        np.testing.assert_array_equal(points, projection.project(features, by))
        distances = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(90)
        same = made.labels[distances.argmin(axis=1)] == made.labels
        assert same.mean() > 0.9  # by chance a third
    with pytest.raises(UserError, match="nothing to be seen in 4 images"):
        projection.project(made.features[:4], "tsne")


def test_too_few_images_for_a_map_are_told_before_features_are_made(
    place, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("jax_train.analysis.features.extract", None)
    photos = sorted((place / "photos" / "train" / "red").iterdir())[:4]
    made = "--to", tmp_path / "a.npz", "--map", tmp_path / "map.png"
    check_refusal(capsys, run("features", place / "vit", *photos, *made), "--map", "at least 5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labelled", [True, False])
def test_a_map_is_drawn(labelled, place, tmp_path, capsys):
    images = place / "photos" / "train" / ("" if labelled else "red")
    assert run("features", place / "vit", images, "--map", tmp_path / "map.png", "--by", "pca") == 0
    assert "map.png: The first two principal components" in capsys.readouterr().out
    with Image.open(tmp_path / "map.png") as picture:
        told = picture.text["Description"]
    assert told.startswith("21 images of 3 classes as points" if labelled else "7 images as points")
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_the_page_shows_what_is_nearest(place, tmp_path, capsys):
    searched, query = tmp_path / "photos", tmp_path / "query.png"
    shutil.copytree(place / "photos" / "train", searched)
    shutil.copy(searched / "green" / "3.png", query)
    (searched / "blue" / "0.png").write_bytes(b"no image")  # what comes after keeps its place
    page = tmp_path / "near.html"
    asked = "--nearest", query, searched / "red" / "1.png", "--page", page, "--k", 3
    assert run("features", place / "vit", searched, *asked) == 1
    assert "1 of 21 files cannot be read" in capsys.readouterr().out
    text = page.read_text()
    found = re.findall(r"hint\">(\w+/\d\.png), (\w+)</span>\s*<span.*?cosine ([\d.]+)", text)
    assert len(found) == 6
    assert found[0] == ("green/3.png", "green", "1.000")
    assert found[3] == ("red/1.png", "red", "1.000")
    assert float(found[1][2]) >= float(found[2][2])
    own = re.findall(r'src="(data:[^"]+)"', text)
    assert own[0] == own[1]  # the query and itself among the others
    assert len(own) == 8
    assert not (tmp_path / "near").exists()


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed with the spool
    monkeypatch.setattr(feature_files.tempfile, "TemporaryFile", lambda dir: full)
    with pytest.raises(UserError, match=rf"kept in {tmp_path}.*No space left.*Make room"):
        write(tmp_path / "a.npz", draw(30))
    assert full.closed
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path, capsys):
    good, bad = write(tmp_path / "good.npz", draw(30)), tmp_path / "bad.npz"
    cases = {b"PK no zip": "cannot be read", good.read_bytes()[:-300]: "cannot be read"}
    for content, words in cases.items():
        bad.write_bytes(content)
        check_refusal(capsys, run("evaluate", "--knn", good, bad), "bad.npz", words)
    for changes, words in (
        ({"other": np.ones(3)}, "no array 'features'"),
        ({"features": np.ones((3, 2)), "names": np.array(["a"])}, "1 names for 3 features"),
        ({"features": np.full((1, 2), np.nan), "names": np.array(["a"])}, "not finite"),
    ):
        texts = dict.fromkeys(("model", "weights", "source", "data"), "x")
        np.savez(bad, **(texts if "features" in changes else {}), **changes)
        check_refusal(capsys, run("evaluate", "--knn", good, bad), "bad.npz", words)
    missing = tmp_path / "missing.npz"
    check_refusal(capsys, run("evaluate", "--knn", good, missing), "missing.npz", "no such file")
    check_refusal(capsys, run("evaluate", "--knn", good, good, "--k", 31), "--k 31", "30 training")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["features", "{root}/vit", "--to", "{to}"], ["Which images?", "--split"]),
        (["features", "{root}/no", "{root}/photos", "--to", "{to}"], ["no run folder"]),
        (["features", "{root}/vit", "{root}/empty", "--to", "{to}"], ["No image in the folder"]),
        (["features", "{root}/vit", "{root}/photos", "--to", "{root}"], ["--to", "is a folder"]),
        (
            ["features", "{root}/vit", "{root}/photos", "--split", "test", "--to", "{to}"],
            ["--split", "not both"],
        ),
        (["features", "{root}/vit", "--split", "test", "--to", "{to}"], ["no data of its own"]),
        (["features", "{root}/vit", "{root}/photos"], ["Nothing is to be made", "--map"]),
        (["features", "{root}/vit", "{root}/photos", "--to", "a.csv"], [".npz or .parquet"]),
        (["features", "{root}/vit", "{root}/photos", "--map", "a.jpg"], ["--map", "in .png"]),
        (["features", "{root}/vit", "{root}/photos", "--page", "a.html"], ["belong together"]),
        (["features", "{root}/vit", "{root}/photos", "--to", "{to}", "--k", "3"], ["--nearest"]),
        (["features", "{root}/vit", "{root}/photos", "--to", "{to}", "--by", "pca"], ["--map"]),
        (
            ["features", "{root}/vit", "{root}/photos", "--map", "a.png", "--tokens"],
            ["--tokens goes with --to alone"],
        ),
        (
            ["features", "{root}/vit", "{root}/photos", "--map", "a.png", "--by", "umap"],
            ["pip install umap-learn"],
        ),
        (["evaluate", "{root}/vit", "--knn"], ["no data of its own"]),
        (["evaluate", "{root}/vit", "--k", "3"], ["--k 3", "add --knn"]),
        (["evaluate", "{root}/vit", "{root}/vit"], ["TEST.npz", "add --knn"]),
        (["evaluate", "{root}/vit", "--knn", "--linear"], ["one of them"]),
        (["evaluate", "{root}/vit", "--knn", "--tta", "flip"], ["--tta flip"]),
        (["evaluate", "{root}/vit", "--knn", "--k", "0"], ["--k 0", "at least 1"]),
        (["evaluate", "{root}/vit", "--linear", "--k", "3"], ["--k 3", "--knn"]),
        (["evaluate", "{root}/vit", "--knn", "--temperature", "nan"], ["above 0"]),
        (["evaluate", "a.npz", "--knn"], ["two files of features"]),
        (["evaluate", "a.npz", "b.npz", "--knn", "--split", "test"], ["--split test"]),
        (["evaluate", "a.npz", "b.npz", "--knn", "--model", "vit"], ["--model vit"]),
    ],
)
def test_refusals(arguments, words, place, tmp_path, capsys):
    (place / "empty").mkdir(exist_ok=True)
    known = {"root": place, "to": tmp_path / "a.npz"}
    check_refusal(capsys, run(*(one.format(**known) for one in arguments)), *words)
    assert not (tmp_path / "a.npz").exists()
