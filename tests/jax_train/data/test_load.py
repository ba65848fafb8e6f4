"""Loading: digits, TFDS data, the split syntax, and what two splits share."""

import json
import shutil
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from jax_train import data
from jax_train.data.sources import tfds_folder
from jax_train.errors import UserError
from tests.pictures import make

SLICES = {
    "train": slice(None),
    "train[:100]": slice(None, 100),
    "train[1000:]": slice(1000, None),
    "train[-100:]": slice(-100, None),
    "train[:-100]": slice(None, -100),
    "train[200:300]": slice(200, 300),
    "train[:90%]": slice(None, round(1437 * 0.9)),
    "train[90%:]": slice(round(1437 * 0.9), None),
    "train[10%:20%]": slice(round(143.7), round(287.4)),
    "train[-10%:]": slice(1437 - round(143.7), None),
}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train"), data.load("digits", "test")


def _copy(cifar10, tmp_path, change=None, file="dataset_info.json"):
    """A copy of the prepared data, with one JSON file changed by a function."""
    folder = shutil.copytree(cifar10.prepared, tmp_path / "data" / "cifar10" / "3.0.2")
    if change:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))
    return tmp_path / "data"


def test_digits_are_scikit_learns_scaled_and_held_out_by_class(digits):
    from sklearn.datasets import load_digits

    train, test = digits
    pixels, labels = load_digits(return_X_y=True)
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape == (1437, 8, 8, 1)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    assert (train.num_classes, train.image_shape) == (10, (8, 8, 1))
    scaled = np.floor(pixels * 255 / 16 + 0.5).astype(np.uint8)
    found = [
        (int(label), image.tobytes())
        for dataset in digits
        for image, label in zip(dataset.images, dataset.labels, strict=True)
    ]
    assert sorted(found) == sorted(
        (int(label), image.tobytes()) for image, label in zip(scaled, labels, strict=True)
    )
    shares = np.bincount(test.labels) - np.bincount(labels) / 5
    assert np.abs(shares).max() < 1
    # A tenth of the training images holds every class in about its share.
    assert np.bincount(train.labels[:143], minlength=10).min() >= 7


def test_digits_stand_in_a_fixed_order(digits):
    train, _ = digits
    again = data.load("digits", "train")
    np.testing.assert_array_equal(train.images, again.images)
    # Written down once: saved runs rely on it.
    assert train.labels[:10].tolist() == FIRST_LABELS


FIRST_LABELS = [1, 3, 9, 1, 8, 8, 9, 1, 0, 3]


@pytest.mark.parametrize("split", SLICES)
def test_slices_are_those_of_numpy(digits, split):
    whole, _ = digits
    part = data.load("digits", split)
    np.testing.assert_array_equal(part.images, whole.images[SLICES[split]])
    np.testing.assert_array_equal(part.labels, whole.labels[SLICES[split]])
    start, stop, _ = SLICES[split].indices(1437)
    assert part.ranges == (("train", start, stop),)


def test_joined_splits(digits):
    train, test = digits
    joined = data.load("digits", "test[:5]+train[-3:]")
    np.testing.assert_array_equal(
        joined.images, np.concatenate([test.images[:5], train.images[-3:]])
    )
    assert joined.ranges == (("test", 0, 5), ("train", 1434, 1437))
    assert len(data.load("digits", "all")) == 1797


def test_slices_of_tfds_data(cifar10):
    whole = data.load("cifar10", "train", cifar10.data_dir)
    part = data.load("cifar10", "train[25%:75%]", cifar10.data_dir)
    np.testing.assert_array_equal(part.images, whole.images[10:30])
    assert isinstance(part.images, np.memmap)
    assert not part.images.flags.owndata
    assert not part.labels.flags.writeable


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("trane", "Unknown split 'trane'"),
        ("train[", "Unrecognized split format"),
        ("train[:2000]", "incompatible with 1437 examples"),
        ("train[5:5]", "holds no example"),
        ("train[9:5]", "holds no example"),
        ("train[:120%]", "100"),
        ("", "is empty"),
        (None, "is empty"),
    ],
)
def test_bad_splits_list_the_good_ones(split, words):
    with pytest.raises(UserError) as caught:
        data.load("digits", split)
    assert words in str(caught.value)
    assert "train (1,437), test (360)" in str(caught.value)
    assert "'train[:90%]'" in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "count"),
    [
        ("train", "test", 0),
        ("train", "train[:90%]", 1293),
        ("train[:90%]", "train[90%:]", 0),
        ("train[:100]", "train[50:150]+train[60:70]+test", 50),
        ("test+train[:10]", "train[5:]+test", 365),
        ("train[:10]+train[:10]", "train[:10]", 10),
    ],
)
def test_count_shared(a, b, count):
    a, b = data.load("digits", a), data.load("digits", b)
    assert data.count_shared(a, b) == data.count_shared(b, a) == count


def test_nothing_is_shared_between_two_data_sets(digits, cifar10):
    other = data.load("cifar10", "train", cifar10.data_dir)
    assert data.count_shared(digits[0], other) == 0
    renamed = data.load("cifar10:3.0.2", "train[:7]", cifar10.data_dir)
    assert data.count_shared(renamed, other) == 7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar_10", "Did you mean --config.data.name=cifar10 ?"),
        ("fashion_minst", "Did you mean --config.data.name=fashion_mnist ?"),
        ("a b", "no known data set"),
        ("", "such as --config.data.name=cifar10"),
        ("kmnist", "file_format='array_record'"),
        ("/tmp", "For a folder of images write --config.data.name=folder:/tmp."),
        ("./my pets", "write --config.data.name='folder:./my pets'."),
        ("~/pets", "write --config.data.name='folder:~/pets'."),
        ("..", "write --config.data.name=folder:..."),
        (r"C:\pets", r"write --config.data.name='folder:C:\pets'."),
        ("Folder:pets", "write --config.data.name=folder:pets."),
        ("file:///tmp", "write --config.data.name=folder:/tmp."),
        (
            "cifar10:1.0.0",
            "can be prepared is 3.0.2. Leave the version out: --config.data.name=cifar10.",
        ),
    ],
)
def test_unknown_names(tmp_path, name, words):
    with pytest.raises(UserError) as caught:
        data.load(name, "train", tmp_path)
    assert words in str(caught.value)


def test_missing_data_is_said_at_once_without_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError) as caught:
        data.load("mnist", "train", download=False)
    message = str(caught.value)
    assert "config.data.download is False" in message
    assert "python -m jax_train prepare mnist --archive FOLDER" in message


def test_default_data_dir_is_that_of_tfds(cifar10, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10.data_dir))
    assert len(data.load("cifar10", "test")) == 20


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("interpolation", "bicubc", "Did you mean bicubic?"),
        ("on_damaged", "ignore", "expected one of stop, skip"),
        ("max_megapixels", -1, "expected "),
        ("threads", 0, "expected "),
        ("label_column", "", "expected "),
        ("download", "no", "expected "),
    ],
)
def test_wrong_options_are_refused_before_an_image_is_read(tmp_path, option, value, words):
    make(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(UserError) as caught:
        data.load(f"folder:{tmp_path}", "train", image_size=4, **{option: value})
    assert f"data.{option}={value!r}" in str(caught.value)
    assert words in str(caught.value)


def test_image_size_is_for_folders():
    with pytest.raises(UserError, match=r"config\.data\.image_size is 16") as caught:
        data.load("digits", "train", image_size=16)
    assert "--config.augment.resize=64" in str(caught.value)


def test_a_tfds_that_is_half_there_is_no_fault_of_the_data(cifar10, monkeypatch):
    """It logs what it lacks and comes without its functions."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", ModuleType("tensorflow_datasets"))
    with pytest.raises(UserError, match="tensorflow-datasets cannot be imported") as caught:
        data.load("cifar10", "train", data_dir=str(cifar10))
    assert "pip install" in str(caught.value)
    assert "emove" not in str(caught.value)


def test_versions_and_configs_on_disk(cifar10, tmp_path):
    root = _copy(cifar10, tmp_path)
    for version in ("3.0.1", "3.0.10"):
        shutil.copytree(root / "cifar10" / "3.0.2", root / "cifar10" / version)
    (root / "cifar10" / "9.9.9").mkdir()
    find = tfds_folder.find_prepared
    assert find("cifar10", root).name == "3.0.10"  # as numbers, and complete
    assert find("cifar10", root, version="3.0.1").name == "3.0.1"
    assert find("cifar10", root, version="3.*.*").name == "3.0.10"
    assert find("cifar10", root, version="2.*.*") is None
    shutil.copytree(root / "cifar10" / "3.0.2", root / "other" / "plain" / "1.0.0")
    assert find("other", root) is None
    assert find("other", root, "plain").name == "1.0.0"
    (root / "other" / ".config").mkdir()
    recorded = json.dumps({"default_config_name": "plain"})
    (root / "other" / ".config" / "metadata.json").write_text(recorded)
    assert find("other", root).parent.name == "plain"
    for damaged in ("[]", "null", '{"default_config_name": 5}', '{"default'):
        (root / "other" / ".config" / "metadata.json").write_text(damaged)
        assert find("other", root) is None


def _set_format(info):
    info["fileFormat"] = "tfrecord"


def _drop_splits(info):
    info["splits"] = []


def _set_size(info):
    info["splits"][0]["shardLengths"] = ["41"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set_format, "as tfrecord.*--config.data.data_dir=FOLDER"),
        (_drop_splits, "no split"),
        (_set_size, "cannot be read"),
        (lambda info: info.pop("splits"), "not a readable description"),
    ],
)
def test_descriptions_that_do_not_fit(cifar10, tmp_path, change, words):
    root = _copy(cifar10, tmp_path, change)
    with pytest.raises(UserError, match=words):
        data.load("cifar10", "train", root)


def _features(change):
    return lambda content: change(content["featuresDict"]["features"])


def _open_shape(features):
    features["image"]["image"]["shape"]["dimensions"] = ["-1", "-1", "3"]


def _few_classes(features):
    features["label"]["classLabel"]["numClasses"] = "3"


def _other_size(features):
    features["image"]["image"]["shape"]["dimensions"] = ["16", "16", "3"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _open_shape,
            "image_size=None: expected a side .*many sizes.*--config.data.image_size=256",
        ),
        (_other_size, r"has shape \(32, 32, 3\), not \(16, 16, 3\)"),
        (lambda features: features.pop("label"), "0 features that can be the class label"),
    ],
)
def test_features_that_do_not_fit(cifar10, tmp_path, change, words):
    root = _copy(cifar10, tmp_path, _features(change), "features.json")
    with pytest.raises(UserError, match=words):
        data.load("cifar10", "train", root)


def _second_image(features):
    features["id"] = features["image"]  # its records hold no image


def test_other_images_of_an_example_are_not_decoded(cifar10, tmp_path, caplog):
    root = _copy(cifar10, tmp_path, _features(_second_image), "features.json")
    assert len(data.load("cifar10", "train", root)) == 40
    assert not caplog.records  # TFDS's own decoder asks for OpenCV


def test_label_out_of_range_names_the_example(cifar10, tmp_path):
    whole = data.load("cifar10", "train", cifar10.data_dir)
    root = _copy(cifar10, tmp_path, _features(_few_classes), "features.json")
    (root / "cifar10" / "3.0.2" / "label.labels.txt").unlink()  # the names would count
    with pytest.raises(UserError) as caught:
        data.load("cifar10", "train", root)
    first = int(np.flatnonzero(whole.labels >= 3)[0])
    assert f"Example {first} of the split train" in str(caught.value)
    assert f"label {whole.labels[first]}" in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten"])
def test_damaged_records(cifar10, tmp_path, damage):
    root = _copy(cifar10, tmp_path)
    (file,) = root.rglob("*train.array_record*")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        half = content[: len(content) // 2]
        file.write_bytes(half if damage == "truncated" else half + bytes(len(content) - len(half)))
    with pytest.raises(UserError, match=r"cannot be read.*prepare it again"):
        data.load("cifar10", "train", root)


BLOCKER = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):  # as if the packages were not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in BLOCKED else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def _run(code, blocked):
    code = BLOCKER.replace("BLOCKED", repr(blocked)) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_reading_needs_no_tensorflow_and_says_nothing(cifar10):
    code = (
        "from jax_train import data\n"
        f"print(len(data.load('cifar10', 'train[:50%]', {str(cifar10.data_dir)!r})))"
    )
    run = _run(code, ("tensorflow", "tf_keras"))
    assert (run.stdout, run.stderr) == ("20\n", "")


def test_cached_data_is_read_without_tfds(cifar10):
    data.load("cifar10", "train", cifar10.data_dir)
    code = (
        "from jax_train import data\n"
        f"print(len(data.load('cifar10', 'train', {str(cifar10.data_dir)!r})))"
    )
    run = _run(code, ("tensorflow", "tensorflow_datasets", "PIL", "sklearn", "jax", "torch"))
    assert (run.stdout, run.stderr) == ("40\n", "")


def test_importing_is_light():
    code = (
        "import sys, jax_train.data, jax_train.data.sources.prepare\n"
        "heavy = {'tensorflow_datasets', 'sklearn', 'PIL', 'jax', 'torch', 'requests', 'tqdm'}\n"
        "heavy |= {'tensorflow', 'array_record', 'flax', 'orbax'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
