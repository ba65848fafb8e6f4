"""Slices by class, and the splits that 'auto' stands for."""

import numpy as np
import pytest

from jax_train import data
from jax_train.data.source import Source
from jax_train.data.sources.folder import folder_source
from jax_train.data.split import automatic, is_split, with_view
from jax_train.errors import UserError
from tests.pictures import make

PARTS = ("train[:80%] by class", "train[80%:90%] by class", "train[90%:] by class")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """60 cats, 11 cows and 6 dogs."""
    return make(tmp_path_factory.mktemp("pets"), {"cat": 60, "cow": 11, "dog": 6})


def _load(root, split, **options):
    return data.load(f"folder:{root}", split, **options)


@pytest.mark.parametrize("memory_limit", [None, 0])
def test_slices_by_class_are_parts_with_a_share_of_each_class(pets, memory_limit):
    whole = _load(pets, "train")
    loaded = [_load(pets, text, memory_limit=memory_limit) for text in PARTS]
    counts = [np.bincount(part.labels, minlength=3).tolist() for part in loaded]
    assert counts == [[48, 8, 4], [6, 1, 1], [6, 2, 1]]
    found = []
    for part in loaded:
        images, labels = map(np.concatenate, zip(*part.blocks(), strict=True))
        np.testing.assert_array_equal(labels, part.labels)
        found += [(int(k), image.tobytes()) for k, image in zip(labels, images, strict=True)]
    assert len(set(loaded[0].labels[:20])) > 1  # mixed, not sorted by class
    expected = zip(whole.labels, whole.images, strict=True)
    assert sorted(found) == sorted((int(k), image.tobytes()) for k, image in expected)


@pytest.mark.parametrize("count", range(1, 40))
def test_parts_of_any_class_are_disjoint_and_none_is_empty_without_need(count):
    source = folder_source_of([count, 60])
    sizes = []
    for text in PARTS:
        base, index = with_view(text, source).views[text]
        assert base == "train"
        sizes.append(int((source.labels("train")[index] == 0).sum()))
    assert sum(sizes) == count
    assert sizes[0] >= 1
    assert count < 6 or min(sizes) >= 1
    assert abs(sizes[0] - 0.8 * count) < 1 or count == 1


def folder_source_of(counts):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    sizes = {"train": (len(labels),)}
    return Source(
        "folder:x", "x", sizes, None, None, None, labels=lambda _: labels.astype(np.int32)
    )


def test_what_a_slice_by_class_shares_with_others_is_counted(pets):
    whole, part = _load(pets, "train"), _load(pets, "train[90%:] by class")
    assert data.count_shared(whole, part) == data.count_shared(part, whole) == 9
    tail = _load(pets, "train[50%:] by class")
    assert data.count_shared(tail, part) == 9
    assert data.count_shared(_load(pets, "train[:80%] by class"), part) == 0
    some = _load(pets, "train[-40:]")
    same = {image.tobytes() for image in some.images} & {i.tobytes() for i in part.images}
    assert data.count_shared(some, part) == len(same) > 0


@pytest.mark.parametrize("text", ["train[:] by class", *PARTS])
def test_slices_by_class_are_splits(text):
    assert is_split(text)


@pytest.mark.parametrize(
    "text", ["train by class", "train[:5] by class", "train[:80%] by clas", "a[:9%] by class+b"]
)
def test_what_is_no_slice_by_class(text):
    assert not is_split(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("digits", "train[:80%] by class"),
        (None, "val[:80%] by class"),
        (None, "train[90%:80%] by class"),
        (None, "train[:101%] by class"),
    ],
)
def test_slices_by_class_that_cannot_be_are_refused(pets, name, text):
    with pytest.raises(UserError, match=r"cannot be read\. The splits of .* and their sizes are"):
        data.load(name or f"folder:{pets}", text)


def test_few_images_leave_no_example_in_a_slice(tmp_path):
    make(tmp_path, {"cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"'train\[90%:\] by class' of .* holds no example"):
        _load(tmp_path, "train[90%:] by class")


AUTO = dict.fromkeys(("train", "val", "test"), "auto")


@pytest.mark.parametrize(
    ("counts", "wanted", "expected"),
    [
        ({"": 10}, {}, PARTS),
        ({"train": 9, "test": 2, "val": 1}, {}, ("train", "val", "test")),
        ({"Training": 9, "valid": 3}, {}, ("train[:90%] by class", "val", "train[90%:] by class")),
        ({"train": 9, "test": 2}, {}, ("train[:90%] by class", "train[90%:] by class", "test")),
        ({"train": 9, "test": 2}, {"val": ""}, ("train", "", "test")),
        ({"": 10}, {"val": ""}, ("train[:90%] by class", "", "train[90%:] by class")),
        ({"": 10}, {"train": "train[:9]"}, ("train[:9]", *PARTS[1:])),
        (
            {"": 3},
            {},
            ("train[:60%] by class", "train[60%:80%] by class", "train[80%:] by class"),
        ),
        ({"": 2}, {}, ("train[:80%] by class", "", "train[80%:] by class")),
    ],
)
def test_auto_is_the_folders_own_splits_or_slices_by_class(counts, wanted, expected, tmp_path):
    make(
        tmp_path, {f"./{split}/{name}": n for split, n in counts.items() for name in ("cat", "dog")}
    )
    source = folder_source(str(tmp_path), None)
    texts = automatic(source, AUTO | wanted)
    assert tuple(texts.values()) == expected
    loaded = [_load(tmp_path, text) for text in expected if text]
    assert all(np.bincount(part.labels, minlength=2).all() for part in loaded)


def test_auto_is_the_datas_own_split_by_whatever_name():
    sizes = {"train": (9,), "validation": (4,)}  # as TFDS calls it
    source = Source("x", "x", sizes, None, None, None, aliases={"val": "validation"})
    assert tuple(automatic(source, AUTO).values()) == ("train[:90%]", "val", "train[90%:]")


def test_auto_of_other_data_is_its_test_split_and_a_tenth_of_train(cifar10):
    from jax_train.data.loading import Store

    options = {"memory_limit": None, "image_size": None, "cache_dir": None, "download": False}
    source = Store("cifar10", cifar10.data_dir, **options).source
    texts = automatic(source, AUTO)
    assert tuple(texts.values()) == ("train[:90%]", "train[90%:]", "test")
