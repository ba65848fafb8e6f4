"""The cache of decoded images: used when whole and fresh, rebuilt otherwise, never in the way."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jax_train import data
from jax_train.data.cache import Arrays, cached
from jax_train.errors import UserError
from jax_train.files import cache_root


@pytest.fixture
def build():
    """A function that builds small arrays and counts its calls."""

    def function():
        function.calls += 1
        images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1)
        return Arrays(images, np.array([1, 0], np.int32), ("cat", "dög"))

    function.calls = 0
    return function


def _entry(cache):
    (meta,) = cache.rglob("meta.json")
    return meta.parent


def _check(arrays):
    np.testing.assert_array_equal(arrays.images.ravel(), np.arange(18))
    assert arrays.labels.tolist() == [1, 0]
    assert arrays.class_names == ("cat", "dög")


def test_a_whole_entry_is_not_built_again(build, cache):
    for _ in range(3):
        arrays = cached("x", "now", build)
        _check(arrays)
        assert isinstance(arrays.images, np.memmap)
        assert not arrays.images.flags.writeable
    assert build.calls == 1
    assert not list(cache.glob("*/.*"))  # no temporary folder is left


def test_another_source_has_an_entry_of_its_own(build, cache):
    cached("x", "now", build)
    cached("y", "now", build)
    assert build.calls == 2
    cached("x", "now", build)
    assert build.calls == 2


def test_a_stale_entry_is_replaced(build, cache):
    cached("x", "old", build)
    _check(cached("x", "new", build))
    assert build.calls == 2
    assert len(list(cache.rglob("meta.json"))) == 1


def _truncate(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: _truncate(entry / "images.npy", 100),
        lambda entry: _truncate(entry / "labels.npy", 0),
        lambda entry: _truncate(entry / "images.npy", 1000),  # longer than it was
        lambda entry: (entry / "images.npy").unlink(),
        lambda entry: (entry / "meta.json").unlink(),
        lambda entry: _truncate(entry / "meta.json", 20),
        lambda entry: _edit(entry / "meta.json", format=0),
        lambda entry: _edit(entry / "meta.json", fingerprint="other"),
        lambda entry: _edit(entry / "meta.json", class_names=["cat"]),
        lambda entry: shutil.copy(entry / "labels.npy", entry / "images.npy"),
        lambda entry: (entry / "images.npy").write_bytes(b"\0" * 146),
    ],
)
def test_a_damaged_entry_is_rebuilt(build, cache, damage):
    cached("x", "now", build)
    damage(_entry(cache))
    _check(cached("x", "now", build))
    assert build.calls == 2
    _check(cached("x", "now", build))
    assert build.calls == 2
    assert not list(cache.glob("*/.*"))


def test_a_file_of_the_right_size_and_wrong_shape_is_rebuilt(build, cache):
    cached("x", "now", build)
    file = _entry(cache) / "images.npy"
    size = file.stat().st_size
    np.save(file, np.zeros((3, 3, 2, 1), np.uint8))
    assert file.stat().st_size == size
    _check(cached("x", "now", build))
    assert build.calls == 2


def test_a_build_that_was_killed_leaves_no_entry(build, cache):
    code = (
        "import os, numpy as np\nfrom jax_train.data import cache as data_cache\n"
        "data_cache._move_into_place = lambda *_: os._exit(9)\n"
        "arrays = data_cache.Arrays(np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32), 'a')\n"
        "data_cache.cached('x', 'now', lambda: arrays)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    (left,) = cache.glob("*/.tmp-*")
    _check(cached("x", "now", build))
    assert left.exists()  # it could belong to a process at work
    os.utime(left, (0, 0))
    cached("x", "new", build)
    assert not left.exists()


def test_an_entry_that_came_first_is_kept(build, cache):
    """Another process finishes the same entry while this one is still decoding."""

    def slow():
        cached("x", "now", build)
        return build()

    _check(cached("x", "now", slow))
    assert build.calls == 2
    assert not list(cache.glob("*/.*"))


def test_two_processes_at_once(cifar10, cache):
    code = (
        "from jax_train import data\n"
        f"d = data.load('cifar10', 'train', {str(cifar10.data_dir)!r})\n"
        "print(int(d.images.sum(dtype='int64')), type(d.images).__name__)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    total = int(cifar10.truth["train"][0].sum(dtype=np.int64))
    assert [run.communicate(timeout=60) for run in runs] == [(f"{total} memmap\n", "")] * 4
    assert len(list(cache.rglob("meta.json"))) == 1


def test_a_full_disk_gives_one_line_and_the_data(build, cache, monkeypatch, caplog):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    _check(cached("x", "now", build))
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_cache_that_cannot_be_made_gives_one_clean_line(tmp_path):
    (tmp_path / "file").write_text("")
    code = (
        "import numpy as np\nfrom jax_train.data import cache as data_cache\n"
        "arrays = data_cache.Arrays(np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32), 'a')\n"
        f"got = data_cache.cached('x', 'm', lambda: arrays, {str(tmp_path / 'file' / 'c')!r})\n"
        "print(got.images.shape)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "(2, 3, 3, 1)\n"
    assert len(run.stderr.splitlines()) == 1
    assert "are not cached" in run.stderr


def test_load_reads_the_source_once(cifar10, monkeypatch):
    from jax_train.data import loading

    reads = []
    real = loading._gather
    monkeypatch.setattr(
        loading, "_gather", lambda *args: reads.append(args[0].split) or real(*args)
    )
    for split in ("train", "train[:50%]", "train[50%:]", "test", "train+test"):
        data.load("cifar10", split, cifar10.data_dir)
    assert reads == ["train", "test"]


def test_a_touched_source_is_read_again(cifar10, tmp_path, small):
    root = tmp_path / "data"
    folder = shutil.copytree(cifar10.prepared, root / "cifar10" / "3.0.2")
    before = data.load("cifar10", "test", root)
    # The same files by name; the records of another data set.
    for name in ("train", "test"):
        (file,) = folder.glob(f"*{name}.array_record*")
        file.write_bytes(b"damaged")
    with pytest.raises(UserError):
        data.load("cifar10", "test", root)
    assert len(before) == 20  # a map of the earlier entry stays readable


def test_where_the_cache_is(monkeypatch, tmp_path, cache):
    assert cache_root() == cache
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("JAX_VIT_CNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "jax-vit-cnn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "jax-vit-cnn"
