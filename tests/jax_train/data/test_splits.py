"""The splits of a run, and what is told of them at its start."""

import numpy as np
import pytest
from PIL import Image

from configs import common, folder
from jax_train import data
from tests.pictures import make, save


def config_of(root, recipe=folder, **fields):
    config = recipe.get_config()
    config.data.name, config.data.image_size = f"folder:{root}", None
    config.data.update(fields)
    return config


def test_the_recipe_takes_the_folders_own_splits(tmp_path):
    make(tmp_path, {f"{s}/{c}": 4 for s in ("Train", "Val", "Test") for c in ("cat", "dog")})
    splits = data.load_splits(config_of(tmp_path))
    assert [split.split for split in vars(splits).values()] == ["train", "val", "test"]
    assert splits.notes() == []


def test_the_recipe_cuts_a_share_of_each_class_where_there_are_no_split_folders(tmp_path):
    make(tmp_path, dict.fromkeys("abcd", 6))
    splits = data.load_splits(config_of(tmp_path))
    counts = [np.bincount(split.labels).tolist() for split in vars(splits).values()]
    assert counts == [[4] * 4, [1] * 4, [1] * 4]
    assert splits.notes() == []


def test_slices_of_old_runs_keep_their_meaning(tmp_path):
    make(tmp_path, {"cat": 9, "dog": 9})
    whole = data.load(f"folder:{tmp_path}", "train")
    texts = {"train_split": "train[:80%]", "val_split": "train[80%:90%]"}
    config = config_of(tmp_path, **texts, test_split="train[90%:]")
    splits = data.load_splits(config)
    parts = [split.images for split in vars(splits).values()]
    np.testing.assert_array_equal(np.concatenate(parts), whole.images)


@pytest.mark.parametrize("memory_limit", [16.0, 0.0])
def test_classes_without_images_are_told(tmp_path, memory_limit):
    make(tmp_path, {f"train/{name}": 3 for name in "abc"} | {"test/b": 2})
    splits = data.load_splits(config_of(tmp_path, val_split="", memory_limit=memory_limit))
    (note,) = splits.notes()
    assert note == "note: no test image of 2 of 3 classes (a, c); macro figures leave them out"
    config = config_of(tmp_path, val_split="", train_split="train[:1]", test_split="train[1:]")
    assert "no training image of 2 of 3 classes" in data.load_splits(config).notes()[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0, 255), "have the value 0, of 0 to 255"),  # 8 bits in 16
        ((0, 4095), "values from 0 to 15"),  # 12 bits in 16
        ((65535, 65535), "have the value 255"),
        ((0, 65535), None),
        ((20000, 30000), None),
    ],
)
def test_values_that_cannot_be_meant_are_told(tmp_path, values, words):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for i in range(9):
            pixels = random.integers(values[0], values[1] + 1, (9, 9), np.uint16)
            save(tmp_path / name / f"{i}.png", pixels)
    notes = data.load_splits(config_of(tmp_path, memory_limit=0.0 if words else 16.0)).notes()
    assert len(notes) == (3 if words else 0)
    for note, name in zip(notes, ("training", "validation", "test"), strict=False):
        assert f"nearly all pixels of the {name} images" in note
        assert words in note


def test_one_bright_pixel_hides_nothing(tmp_path):
    for name in ("cat", "dog"):
        for i in range(3):
            image = Image.new("L", (90, 90), i)
            image.putpixel((4, 5), 255)
            save(tmp_path / name / f"{i}.png", image)
    config = config_of(tmp_path, recipe=common, train_split="train", val_split="")
    config.data.test_split = "train"
    assert any("values from 0 to 2" in note for note in data.load_splits(config).notes())


def test_digits_and_other_data_of_few_values_give_no_note():
    assert data.load_splits(common.get_config()).notes() == []
