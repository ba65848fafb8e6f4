"""Streamed data sets: the same examples as in memory, decoded only when they are due."""

import contextlib
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from jax_train import data
from jax_train.data import examples, statistics
from jax_train.data import streamed as data_streamed
from jax_train.data.sources import images as source_images
from jax_train.data.sources import tfds
from jax_train.errors import UserError

DIGITS_TRAIN = 1437 * 64 / 1e9  # gigabytes


def _both(name, split, data_dir=None, **options):
    """The split in memory and streamed; the first has its own cache, so the second decodes."""
    streamed = data.load(name, split, data_dir, memory_limit=0, **options)
    assert isinstance(streamed, data.StreamedDataset)
    return data.load(name, split, data_dir, **options), streamed


def _check(memory, streamed, order, **options):
    steps = list(streamed.batches(order, **options))
    assert len(steps) == len(order)
    for indices, (images, labels) in zip(order, steps, strict=True):
        np.testing.assert_array_equal(images, memory.images[indices])
        np.testing.assert_array_equal(labels, memory.labels[indices])
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert images.shape == (*np.shape(indices), *memory.image_shape)


def _orders(count):
    """Orders of every kind: shuffled, with repetitions, in rows of one and two dimensions."""
    rng = np.random.default_rng(0)
    whole = rng.permutation(count)
    return {
        "single": whole[:9],
        "rows": whole[: count // 4 * 4].reshape(-1, 4),
        "chunks": rng.integers(0, count, (3, 2, 5)),
        "one step": rng.integers(0, count, (1, 2 * count + 1)),
        "many blocks": np.tile(whole, 4)[: count * 4 // 7 * 7].reshape(-1, 7),
        "no steps": np.zeros((0, 4), int),
        "no rows": np.zeros((3, 0), int),
    }


def _folder(root, count=12):
    """Images of several sizes, one of them turned by its EXIF tag, in two classes."""
    rng = np.random.default_rng(3)
    for i in range(count):
        path = root / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i % 3 == 0 else 1
        pixels = rng.integers(0, 256, (8 + i % 4, 12, 3), np.uint8)
        Image.fromarray(pixels).save(path, exif=exif)
    return f"folder:{root}"


def _threads():
    return [t for t in threading.enumerate() if t.name.startswith("decode")]


def _wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@contextlib.contextmanager
def _counted(streamed):
    """The data set with every index read noted, and the notes."""
    read = []

    def counting(records):
        return replace(records, read=lambda i: read.extend(i.tolist()) or records.read(i))

    yield (
        replace(streamed, records={base: counting(r) for base, r in streamed.records.items()}),
        read,
    )


@pytest.mark.parametrize("kind", _orders(40))
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_those_in_memory(cifar10, kind, threads):
    memory, streamed = _both("cifar10", "train", cifar10.data_dir)
    _check(memory, streamed, _orders(40)[kind], threads=threads)


@pytest.mark.parametrize(
    "split", ["train[3:20]+test", "test+train[-5:]+train[:5]", "train[25%:75%]", "train+train[:9]"]
)
def test_splits_are_those_in_memory(cifar10, split):
    memory, streamed = _both("cifar10", split, cifar10.data_dir)
    about = ("name", "split", "class_names", "source", "ranges", "num_classes", "image_shape")
    for attribute in about:
        assert getattr(streamed, attribute) == getattr(memory, attribute)
    assert len(streamed) == len(memory)
    for order in _orders(len(memory)).values():
        _check(memory, streamed, order)
    assert data.count_shared(memory, streamed) == data.count_shared(memory, memory)


def test_pixels_are_the_true_ones(cifar10, small):
    _, streamed = _both("cifar10", "test", cifar10.data_dir)
    ((images, labels),) = streamed.batches(np.arange(20)[None])
    truth = cifar10.truth["test"]
    assert small.by_label_and_pixels(images, labels) == small.by_label_and_pixels(*truth)


def test_digits():
    memory, streamed = _both("digits", "test[:50]+train[100:]")
    for order in _orders(len(memory)).values():
        _check(memory, streamed, order, threads=2, prefetch=1)


@pytest.mark.parametrize("bytes_at_once", [1, 1000, 10**9])
def test_a_folder_of_mixed_sizes_in_blocks_of_any_size(tmp_path, monkeypatch, bytes_at_once):
    monkeypatch.setattr(examples, "_BLOCK_BYTES", bytes_at_once)
    memory, streamed = _both(_folder(tmp_path), "train[2:]", image_size=7)
    assert streamed.image_shape == (7, 7, 3)
    for order in _orders(len(memory)).values():
        _check(memory, streamed, order)


def test_a_folder_of_one_size_takes_the_shape_of_its_first_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, shown upright
    for i in range(6):
        path = tmp_path / ("cat", "dog")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 9), 40 * i, np.uint8)).save(path, exif=exif)
    memory, streamed = _both(f"folder:{tmp_path}", "train")
    assert streamed.image_shape == memory.image_shape == (9, 6, 1)
    _check(memory, streamed, np.arange(6)[None])


def test_sizes_that_differ_are_named_when_met(tmp_path):
    streamed = data.load(_folder(tmp_path), "train", memory_limit=0)
    with pytest.raises(UserError, match=r"pixels \(width x height\), but .*--config\.data\.image"):
        list(streamed.batches(np.arange(12)[None]))


def test_arrays_are_the_callers_own():
    _, streamed = _both("digits", "train")
    (first, _), (second, _) = streamed.batches(np.zeros((2, 3), int))
    first[:] = 1
    assert not np.array_equal(first, second)


def test_little_is_read_ahead_and_in_order(monkeypatch):
    monkeypatch.setattr(data_streamed, "_BLOCK_IMAGES", 4)
    _, streamed = _both("digits", "train")
    order = np.arange(1400).reshape(-1, 8)
    with _counted(streamed) as (counted, read):
        steps = counted.batches(order, threads=2, prefetch=3)
        assert not read  # nothing before it is asked for
        for i, (_, labels) in zip(range(5), steps, strict=False):
            assert len(labels) == 8
            # 3 steps ahead, and the block that is handed over meanwhile.
            assert _wait_until(lambda done=i: len(read) >= 8 * (done + 4))
            time.sleep(0.02)
            assert len(read) <= 8 * (i + 4) + 4
        steps.close()
    assert sorted(read) == list(range(len(read)))


@pytest.mark.parametrize("end", ["close", "drop", "error", "use up"])
def test_threads_end_with_the_iterator(end):
    _, streamed = _both("digits", "train")
    assert _wait_until(lambda: not _threads())
    order = np.tile(np.arange(1437), 3).reshape(-1, 9)
    steps = streamed.batches(order[:3] if end == "use up" else order, threads=3)
    next(steps)
    assert _threads()
    if end == "close":
        steps.close()
    elif end == "error":
        with pytest.raises(KeyError):
            steps.throw(KeyError())
    elif end == "use up":
        assert len(list(steps)) == 2
    else:
        del steps
        gc.collect()
    assert _wait_until(lambda: not _threads())


def test_an_iterator_left_open_does_not_keep_python_from_ending():
    code = (
        "import numpy as np\nfrom jax_train import data\n"
        "d = data.load('digits', 'train', memory_limit=0)\n"
        "steps = d.batches(np.zeros((10_000, 64), int))\n"
        "print(next(steps)[0].shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "(64, 8, 8, 1)\n", "")


def test_streaming_needs_no_tensorflow_and_says_nothing(cifar10):
    code = (
        "import sys\nfrom importlib.machinery import PathFinder\n"
        "class Without(PathFinder):\n"  # as if it were not installed
        "    @classmethod\n"
        "    def find_spec(cls, name, *args):\n"
        "        if name.split('.')[0] != 'tensorflow':\n"
        "            return PathFinder.find_spec(name, *args)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Without\n"
        "import numpy as np\nfrom jax_train import data\n"
        f"d = data.load('cifar10', 'train', {str(cifar10.data_dir)!r}, memory_limit=0)\n"
        "print(sum(len(labels) for _, labels in d.batches(np.arange(40).reshape(-1, 8))))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("40\n", "")


@pytest.mark.parametrize(
    ("order", "options", "kind"),
    [
        (np.array([[0, 1437]]), {}, IndexError),
        (np.array([[-1, 0]]), {}, IndexError),
        (np.array([[0.5]]), {}, TypeError),
        (np.array([[True]]), {}, TypeError),
        (np.array(3), {}, TypeError),
        (np.array([[0]]), {"threads": 0}, ValueError),
        (np.array([[0]]), {"prefetch": 0}, ValueError),
    ],
)
def test_wrong_arguments_are_told_before_iterating(order, options, kind):
    _, streamed = _both("digits", "train")
    with pytest.raises(kind, match="expected"):
        streamed.batches(order, **options)


@pytest.mark.parametrize("damage", ["missing", "truncated", "overwritten"])
def test_damaged_records(cifar10, tmp_path, damage):
    folder = shutil.copytree(cifar10.prepared, tmp_path / "cifar10" / "3.0.2")
    (file,) = folder.rglob("*train.array_record*")
    content = file.read_bytes()
    half = content[: len(content) // 2]
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(half if damage == "truncated" else half + bytes(len(content) - len(half)))
    with pytest.raises(UserError, match=r"split train of .*cannot be read.*prepare it again"):
        list(data.load("cifar10", "train", tmp_path, memory_limit=0).batches(np.arange(40)[None]))
    assert _wait_until(lambda: not _threads())


def test_a_record_that_does_not_fit_is_named_by_its_index(cifar10, tmp_path):
    whole = data.load("cifar10", "train", cifar10.data_dir)
    folder = shutil.copytree(cifar10.prepared, tmp_path / "cifar10" / "3.0.2")
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["label"]["classLabel"]["numClasses"] = "3"
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").unlink()
    streamed = data.load("cifar10", "train[5:]", tmp_path, memory_limit=0)
    wrong = int(np.flatnonzero(whole.labels[5:] >= 3)[0])
    with pytest.raises(UserError, match=f"Example {wrong + 5} of the split train of .* has label"):
        list(streamed.batches(np.array([[wrong]])))


def test_damaged_files_are_named(tmp_path):
    name = _folder(tmp_path)
    streamed = data.load(name, "train", image_size=4, memory_limit=0)
    (tmp_path / "cat" / "4.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"1 image file cannot .*cat/4\.png .*Replace or remove"):
        list(streamed.batches(np.arange(12)[None]))


def test_images_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    name = _folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120)
    streamed = data.load(name, "train", image_size=4, memory_limit=0)
    with pytest.raises(UserError, match="too large: 12x11 pixels; expected up to 120"):
        list(streamed.batches(np.arange(12)[None]))


@pytest.mark.parametrize(
    ("limit", "streams"),
    [
        (None, False),
        (1, False),
        (float("inf"), False),
        (DIGITS_TRAIN, False),
        (DIGITS_TRAIN - 1e-9, True),
        (0, True),
    ],
)
def test_the_limit_is_what_just_fits(limit, streams):
    loaded = data.load("digits", "train", memory_limit=limit)
    assert isinstance(loaded, data.StreamedDataset) == streams
    assert isinstance(loaded, data.Dataset) != streams


@pytest.mark.parametrize("limit", [-1, float("nan"), -float("inf"), "8", True])
def test_bad_limits(limit):
    with pytest.raises(UserError, match=r"config\.data\.memory_limit=.*: expected gigabytes"):
        data.load("digits", "train", memory_limit=limit)


def test_nothing_is_decoded_to_find_the_size_out_nor_cached(cifar10, cache, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(tfds, "_decode", refuse)
    streamed = data.load("cifar10", "train+test", cifar10.data_dir, memory_limit=1e-6)
    assert (len(streamed), streamed.image_shape) == (60, (32, 32, 3))
    monkeypatch.undo()
    list(streamed.batches(np.arange(60)[None]))
    assert not list(cache.rglob("images.npy"))


def test_the_size_is_known_from_the_cache_without_opening(cifar10, monkeypatch):
    data.load("cifar10", "train", cifar10.data_dir)
    monkeypatch.setattr(tfds, "_open_tfds", None)
    loaded = data.load("cifar10", "train", cifar10.data_dir, memory_limit=1)
    assert isinstance(loaded.images, np.memmap)


def test_a_small_part_of_a_large_split_is_decoded_alone(cifar10, tmp_path, monkeypatch):
    whole = data.load("cifar10", "train", cifar10.data_dir)
    decoded = []
    real = tfds._decode
    monkeypatch.setattr(tfds, "_decode", lambda *args: decoded.append(args[2]) or real(*args))
    limit = 10 * 32 * 32 * 3 / 1e9
    for _ in range(2):
        part = data.load(
            "cifar10", "train[4:9]", cifar10.data_dir, cache_dir=tmp_path, memory_limit=limit
        )
        np.testing.assert_array_equal(part.images, whole.images[4:9])
        np.testing.assert_array_equal(part.labels, whole.labels[4:9])
        assert sorted(decoded) == [4, 5, 6, 7, 8]  # the second time it comes from the cache
    assert isinstance(part.images, np.memmap)


@pytest.mark.parametrize("limit", [0, 1])
def test_splits_of_different_sizes_do_not_join(tmp_path, limit):
    for split, size, name in (("train", 6, "cat"), ("train", 6, "dog"), ("test", 9, "cat")):
        path = tmp_path / split / name / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.zeros((size, 6), np.uint8)).save(path)
    with pytest.raises(UserError, match=r"different shapes.*--config\.data\.image_size=64"):
        data.load(f"folder:{tmp_path}", "train+test", memory_limit=limit)


def _true_counts(images):
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.T])


@pytest.mark.parametrize("split", ["train", "train[3:20]+test", "test+test"])
def test_channel_counts(cifar10, split):
    memory, streamed = _both("cifar10", split, cifar10.data_dir)
    expected = _true_counts(memory.images)
    for dataset in (memory, streamed, streamed):
        counts = statistics.channel_counts(dataset)
        assert (counts.shape, counts.dtype) == ((3, 256), np.int64)
        np.testing.assert_array_equal(counts, expected)


def test_channel_counts_of_blocks(monkeypatch):
    monkeypatch.setattr(examples, "_BLOCK_BYTES", 1000)
    for dataset in _both("digits", "train"):
        counts = statistics.channel_counts(dataset)
        np.testing.assert_array_equal(counts, _true_counts(data.load("digits", "train").images))


def _passes(dataset):
    """How many examples are read to count."""
    with _counted(dataset) as (counted, read):
        counts = statistics.channel_counts(counted)
    return len(read), counts.tolist()


def test_channel_counts_are_cached_until_a_file_changes(tmp_path, cache):
    name = _folder(tmp_path)

    def load(split, size=4):
        return data.load(name, split, image_size=size, memory_limit=0)

    read, counts = _passes(load("train[1:]"))
    assert read == 11
    assert _passes(load("train[1:]")) == (0, counts)
    assert _passes(load("train"))[0] == 12
    assert _passes(load("train", 5))[0] == 12
    assert _passes(load("train[1:]")) == (0, counts)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(tmp_path / "cat" / "0.png")
    assert _passes(load("train[1:]"))[0] == 11
    assert len(list(cache.rglob("*.json"))) == 3  # the earlier state of one is gone
    assert not list(cache.glob("*/.*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry | {"format": 0},
        lambda entry: entry | {"fingerprint": "other"},
        lambda entry: entry | {"value": entry["value"][:2]},
        lambda entry: entry | {"value": [[0] * 256] * 3},
        lambda entry: entry | {"value": [["a"] * 256] * 3},
        lambda entry: entry | {"value": [[0.5] * 256] * 3},
        lambda entry: entry | {"value": [[1], [2, 3]]},
        lambda entry: entry | {"value": None},
        lambda entry: [entry],
        None,
    ],
)
def test_damaged_counts_are_counted_again(cifar10, cache, change):
    streamed = data.load("cifar10", "test", cifar10.data_dir, memory_limit=0)
    read, counts = _passes(streamed)
    assert read == 20
    (file,) = cache.rglob("*.json")
    file.write_text(json.dumps(change(json.loads(file.read_text()))) if change else "{")
    assert _passes(streamed) == (20, counts)
    assert _passes(streamed) == (0, counts)


def test_counts_without_a_cache_give_one_line(cifar10, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    streamed = data.load(
        "cifar10", "test", cifar10.data_dir, memory_limit=0, cache_dir=tmp_path / "file" / "c"
    )
    assert statistics.channel_counts(streamed).sum() == 20 * 32 * 32 * 3
    (record,) = caplog.records
    assert "Counts of the pixel values are not cached" in record.getMessage()


def test_whether_a_folder_is_grey_is_found_out_once(tmp_path, monkeypatch):
    calls = []
    real = source_images._all_grey
    monkeypatch.setattr(source_images, "_all_grey", lambda *args: calls.append(0) or real(*args))
    streamed = data.load(_folder(tmp_path), "train", image_size=4, memory_limit=0)
    list(streamed.batches(np.arange(12)[None]))
    assert calls == [0]
