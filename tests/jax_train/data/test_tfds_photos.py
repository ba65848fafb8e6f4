"""Photos of many sizes in records of tensorflow-datasets are read as those of a folder are."""

import numpy as np
import pytest
from PIL import Image

from jax_train import data
from jax_train.data.crops import Crops
from jax_train.data.source import Fit
from jax_train.data.sources.by_name import resizes
from jax_train.data.splits import open_store
from jax_train.errors import UserError
from tests import records, tiny

SIZES = ((37, 23), (19, 53), (31, 31), (61, 40))  # width, height
CROPS = Crops(
    seed=3, epoch=1, size=(9, 13), area=(0.2, 0.6), aspect=(0.75, 1.33), interpolation="bicubic"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The folder of files, by class, and TFDS's data folder with the same as records."""
    root, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    splits = {"train": [], "validation": []}
    for split, files in splits.items():
        for number in range(8):
            label = number % 2
            path = root / "files" / split / ("cat", "dog")[label] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            width, height = SIZES[number % 4]
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(path, quality=95)
            files.append((path, label))
    assert records.write(root / "tfds", splits, ("cat", "dog")) == "photos"
    return root / "files", root / "tfds"


def load(photos, split="train", **options):
    options = {"image_size": 16, "memory_limit": 0, **options}
    return data.load("photos", split, photos[1], **options)


@pytest.mark.parametrize("split", ["train", "val", "validation[50%:]+train"])
def test_records_are_the_files(photos, small, split):
    found = load(photos, split)
    assert (found.streamed, found.can_fit, found.image_shape) == (True, True, (16, 16, 3))
    memory = load(photos, split, memory_limit=None)
    everything = np.arange(len(found))
    for one, other in zip(found.take(everything), memory.take(everything), strict=True):
        np.testing.assert_array_equal(one, other)
    if "+" not in split:
        files = data.load(f"folder:{photos[0]}", split, image_size=16)
        assert found.class_names == files.class_names
        examples = (small.by_label_and_pixels(*of.take(everything)) for of in (found, files))
        assert len(set(map(tuple, examples))) == 1


def test_crops_are_of_whole_images(photos):
    found = load(photos)
    files = data.load(f"folder:{photos[0]}", "train", image_size=16, memory_limit=0)
    whole = {pixels.tobytes(): row for row, pixels in enumerate(files.take(np.arange(8))[0])}
    order = np.arange(8)[None]
    ((cropped, _),) = found.batches(order, crops=CROPS, copies=np.full((1, 8), 2))
    assert cropped.shape == (8, 9, 13, 3)
    squares, labels = found.take(np.arange(8))
    for row, square in enumerate(squares):
        file = files.names([whole[square.tobytes()]])[0]
        with Image.open(photos[0] / file) as image:
            np.testing.assert_array_equal(cropped[row], CROPS.fit(row, 2)(image))
    assert set(labels) == {0, 1}


def test_a_fit_stands_in_for_the_size(photos):
    fit = Fit((5, 7, 1), lambda image: np.asarray(image.resize((7, 5)))[..., None])
    config = tiny.config(**{"data.name": "photos", "data.data_dir": str(photos[1])})
    found = open_store(config, fit=fit).load("train")
    assert (found.image_shape, found.can_fit) == ((5, 7, 1), True)
    assert found.take(np.arange(8))[0].shape == (8, 5, 7, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_size": None}, r"image_size=None: expected a side in pixels.*=256"),
        ({"on_damaged": "skip"}, r"on_damaged='skip': expected 'stop' for photos"),
    ],
)
def test_what_is_refused(photos, options, words):
    with pytest.raises(UserError, match=words):
        load(photos, **options)


def test_a_damaged_record_is_named(photos, tmp_path):
    path = tmp_path / "1.jpg"
    path.write_bytes(b"no image")
    records.write(tmp_path / "tfds", {"train": [(path, 0)]}, ("cat", "dog"))
    found = data.load("photos", "train", tmp_path / "tfds", image_size=8, memory_limit=0)
    with pytest.raises(UserError, match=r"image of example 0 is damaged .*Remove the folder"):
        found.take(np.arange(1))


def test_which_data_sets_are_brought_to_a_size(photos, cifar10, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    assert resizes("photos", photos[1])
    assert not resizes("cifar10", cifar10.data_dir)
    assert resizes("imagenet2012", tmp_path)  # not there yet
    assert not resizes("pets", tmp_path)
