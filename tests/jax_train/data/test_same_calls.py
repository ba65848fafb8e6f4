"""In memory and streamed: the same calls with the same answers, whatever the source."""

import numpy as np
import pytest
from PIL import Image

from jax_train import data
from jax_train.data.sources.by_name import scheme_of
from jax_train.data.statistics import channel_counts, channel_statistics
from jax_train.errors import UserError

SOURCES = ["digits", "folder", "folder of one size", "tfds"]


@pytest.fixture(params=SOURCES)
def both(request, cifar10, tmp_path):
    """A split in memory, and the same streamed."""
    options = {}
    if request.param.startswith("folder"):
        name, split = f"folder:{tmp_path}", "train[3:]+train[:5]"
        options = {} if request.param.endswith("size") else {"image_size": 6}
        rng = np.random.default_rng(0)
        for i in range(14):
            path = tmp_path / f"class {i % 3}" / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            size = (8, 9 + (i % 4 if options else 0), 3)
            Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    elif request.param == "tfds":
        name, split, options = "cifar10", "test+train[5:30]", {"data_dir": cifar10.data_dir}
    else:
        name, split = "digits", "train[:50]+test[-9:]"
    streamed = data.load(name, split, memory_limit=0, **options)
    return data.load(name, split, **options), streamed


def _assert_same(found, expected):
    for array, other, kind in zip(found, expected, (np.uint8, np.int32), strict=True):
        np.testing.assert_array_equal(array, other)
        assert array.dtype == other.dtype == kind
        assert array.shape == other.shape


def test_they_say_what_they_are(both):
    memory, streamed = both
    assert (memory.streamed, streamed.streamed) == (False, True)
    assert (type(memory).streamed, type(streamed).streamed) == (False, True)
    assert memory.image_shape == streamed.image_shape == memory.images.shape[1:]
    assert len(memory) == len(streamed) == len(memory.images)
    assert memory.class_names == streamed.class_names


@pytest.mark.parametrize(
    "index", [[], [0], [3, 3, 1], range(5), np.array([7, 2], np.uint8), np.zeros(0, int)]
)
def test_take(both, index):
    rows = np.asarray(index, int)
    expected = both[0].images[rows], both[0].labels[rows]
    for dataset in both:
        _assert_same(dataset.take(index), expected)
        assert dataset.take(index)[0].shape == (len(rows), *dataset.image_shape)


def test_batches(both):
    memory, streamed = both
    rng = np.random.default_rng(1)
    for shape in ((4, 5), (2, 3, 2), (6,), (0, 3), (2, 0)):
        order = rng.integers(0, len(memory), shape)
        steps = list(memory.batches(order))
        assert len(steps) == len(order)
        for rows, step, other in zip(order, steps, streamed.batches(order), strict=True):
            _assert_same(step, (memory.images[rows], memory.labels[rows]))
            _assert_same(other, step)


@pytest.mark.parametrize(
    ("index", "kind"),
    [([-1], IndexError), ([10**6], IndexError), ([0.5], TypeError), (3, TypeError)],
)
def test_wrong_indices_are_told_at_once(both, index, kind):
    for dataset in both:
        with pytest.raises(kind, match="expected"):
            dataset.take(index)
        if np.ndim(index):
            with pytest.raises(kind, match="expected"):
                dataset.batches([index])


def test_batches_can_be_closed(both):
    for dataset in both:
        steps = dataset.batches(np.zeros((9, 4), int))
        next(steps)
        steps.close()
        assert not list(steps)


def test_blocks_and_counts(both):
    memory, streamed = both
    for dataset in both:
        images, labels = map(np.concatenate, zip(*dataset.blocks(), strict=True))
        _assert_same((images, labels), (memory.images, memory.labels))
    np.testing.assert_array_equal(channel_counts(memory), channel_counts(streamed))
    assert channel_statistics(memory) == channel_statistics(streamed)


@pytest.mark.parametrize(
    ("name", "title", "resizes"),
    [
        ("digits", "digits", False),
        ("folder:/a/b c/pets", "pets", True),
        ("folder:pets/", "pets", True),
        ("folder:/", "folder:/", True),
        ("folder", "folder", True),  # of TFDS, until it is there to be looked at
        ("digits:1", "digits:1", True),
        ("cifar10:3.0.2", "cifar10:3.0.2", False),
    ],
)
def test_what_a_name_says(name, title, resizes):
    scheme = scheme_of(name)
    assert (scheme.title(name), scheme.resizes(name, None)) == (title, resizes)


@pytest.mark.parametrize("name", ["", None, 3])
def test_what_is_no_name(name):
    with pytest.raises(UserError, match=r"config\.data\.name is .*=cifar10"):
        scheme_of(name)
