"""Examples have a name that people find them by: the file's, or their number in the split."""

import numpy as np
import pytest
from PIL import Image

from jax_train import data


@pytest.fixture
def folder(tmp_path):
    """Splits train and test; an image's grey value is its file's number."""
    for split, numbers in (("train", range(20)), ("test", range(20, 30))):
        for number in numbers:
            file = tmp_path / "pets" / split / f"class {number % 2}" / "deep" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4), number).save(file)
    return tmp_path / "pets"


@pytest.mark.parametrize("limit", [None, 0.0])
@pytest.mark.parametrize(
    "split",
    ["test", "train[3:9]", "train[15:]+test[2:7]+train[:2]", "train[60%:] by class"],
)
def test_examples_of_a_folder_are_called_by_their_files(folder, split, limit):
    found = data.load(f"folder:{folder}", split, memory_limit=limit)
    names = found.names(np.arange(len(found)))
    images, labels = found.take(np.arange(len(found)))
    for name, image, label in zip(names, images, labels, strict=True):
        part = "train" if image[0, 0, 0] < 20 else "test"
        assert name == f"{part}/class {label}/deep/{image[0, 0, 0]}.png"
    assert found.names([1, 0]) == [names[1], names[0]]


@pytest.mark.parametrize("limit", [None, 0.0])
def test_a_slice_by_class_consists_of_what_the_whole_split_does(folder, limit):
    part, whole = (
        data.load(f"folder:{folder}", split, memory_limit=limit)
        for split in ("train[60%:] by class", "train")
    )
    assert part.bases == whole.bases == {"train"}
    ((base, _, _),) = part.ranges
    assert part.contents(base) == whole.contents("train")
    assert len(part.contents(base)) == 20


def test_without_splits_the_name_begins_with_the_class(folder):
    found = data.load(f"folder:{folder / 'train'}", "train[:3]")
    assert all(name.startswith("class ") for name in found.names(range(3)))


def test_other_examples_are_numbered():
    assert data.load("digits", "test").names([17, 3]) == ["test image 17", "test image 3"]
    assert data.load("digits", "train[5:9]").names([2]) == ["train[5:9] 2"]
