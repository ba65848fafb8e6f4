"""What the folders of a data set are: splits, classes, or not meant for it at all."""

import shutil

import numpy as np
import pytest

from jax_train import data
from jax_train.errors import UserError
from tests.pictures import make, save


def _load(path, split="train"):
    return data.load(f"folder:{path}", split)


# A single class is never taken for a data set


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"pets/cat": 2, "pets/dog": 2}, r"a single class folder, pets .*name folder:.*/pets\."),
        ({"a/b/c/cat": 1, "a/b/c/dog": 1}, r"In .*/a/b/c are cat, dog"),
        ({"set/train/cat": 1, "set/train/dog": 1, "set/test/cat": 1}, r"In .*/set are test, train"),
        ({".": 3, "thumbnails": 3}, r"thumbnails \(3 images\), beside 3 images\..*Sort the images"),
        ({"train/images": 4, "test/images": 2}, r"train has a single class folder, images"),
        ({"train/train/cat": 1, "train/train/dog": 1}, r"name folder:.*/train/train\."),
        ({"cat": 1}, r"cat \(1 image\)\. Expected one folder of images per class"),
        ({"cat": 1, "__MACOSX": 1, ".thumbs": 1, "@eaDir/x": 1}, "a single class folder, cat"),
        ({".": 5}, r"holds no folders of images\. It holds 5 images itself"),
        ({"train": 2, "Test": 2}, r"train holds no folders\. Expected one folder of images per"),
        ({"train": 2, "test1": 2}, r"train holds no folders\. Expected one folder of images per"),
        ({"train2017": 2, "val2017": 2}, r"train2017 holds no folders"),
        ({"test/cat": 2, "Val/cat": 2}, r"named like splits \(Val, test\), but none like training"),
        ({"cat": 1, "dog": 1, "test/cat": 1, "test/dog": 1}, r"so it is a split and no class\. Mo"),
    ],
)
def test_the_folder_is_not_the_one_meant(counts, words, tmp_path):
    with pytest.raises(UserError, match=words):
        _load(make(tmp_path, counts))


# Splits


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing", None),
        ("Train", "Test", "Val"),
        ("TRAIN", "TEST", "VALID"),
        ("train", "test", "valid"),
        ("training_set", "test_set", None),
        ("train", "testing", "dev"),
        ("trainset", "testset", "validation"),
        ("seg_train", "seg_test", None),
        ("images train", "images test", "images val"),
    ],
)
def test_split_folders_are_known_by_their_usual_names(names, tmp_path):
    sizes = {"train": 3, "test": 2, "val": 1}
    folders = {split: name for split, name in zip(sizes, names, strict=True) if name}
    for split, folder in folders.items():
        make(tmp_path / folder, {"cat": sizes[split], "dog": sizes[split]})
    for split, folder in folders.items():
        loaded = _load(tmp_path, split)
        assert len(loaded) == 2 * sizes[split]
        assert loaded.class_names == ("cat", "dog")
        if folder.isidentifier():
            assert _load(tmp_path, f"{folder}[:1]").ranges == ((split, 0, 1),)


def test_val_and_validation_side_by_side_are_two_splits(tmp_path):
    make(tmp_path, {f"{s}/{c}": 1 for s in ("train", "val", "validation") for c in ("cat", "dog")})
    make(tmp_path, {"validation/cat": 3})
    assert len(_load(tmp_path, "val")) == 2
    assert _load(tmp_path, "validation[1:]").ranges == (("validation", 1, 4),)


def test_two_folders_for_one_split_are_refused_unless_one_has_its_name(tmp_path):
    make(tmp_path, {"Train/cat": 2, "Train/dog": 2, "training/cat": 1, "training/dog": 1})
    with pytest.raises(UserError, match="both Train and training are named like the split train"):
        _load(tmp_path)
    make(tmp_path, {"train/cat": 3, "train/dog": 3})
    loaded = _load(tmp_path)
    assert len(loaded) == 6
    assert loaded.notes == ("the folder is read as splits; left out: Train, training",)


def test_a_class_named_like_a_split_is_told(tmp_path):
    loaded = _load(make(tmp_path, {"car": 1, "test": 1}))
    assert loaded.class_names == ("car", "test")
    assert loaded.notes == ("the folder test is read as a class, and is named like a split",)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (("cat", "dog"), "all of a, b hold the folders cat, dog: are they classes?"),
        (
            ("test", "train"),
            "all of a, b hold the folders test, train: all images are for training",
        ),
    ],
)
def test_classes_that_hold_the_same_folders_are_told(inside, words, tmp_path):
    loaded = _load(make(tmp_path, {f"{a}/{b}": 1 for a in "ab" for b in inside}))
    assert loaded.notes == (words,)


def test_images_that_serve_twice_through_links_are_told(tmp_path):
    make(tmp_path, {"train/cat": 2, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    (tmp_path / "valid").symlink_to("test")
    (tmp_path / "test" / "cat" / "link.png").symlink_to(tmp_path / "train" / "cat" / "0.png")
    (tmp_path / "train" / "cow").symlink_to("cat")
    assert _load(tmp_path).notes == (
        "1 image of test are also in train, through links",
        "1 image of val are also in train, through links",
        "3 images of val are also in test, through links",
        "2 images of train stand there twice, through links",
    )


def test_classes_that_differ_by_the_writing_only_are_told(tmp_path):
    loaded = _load(make(tmp_path, {"Cat": 1, "cat ": 1, "dog": 1}))
    assert loaded.notes == ("the classes Cat and cat  differ by the writing only",)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("test", "it holds no class folders"),
        ("test/unknown", "its only folder, unknown, is no class of train"),
        ("test/cat", "it holds no image"),
    ],
)
def test_an_unlabelled_test_folder_is_no_obstacle(place, why, tmp_path):
    make(tmp_path, {"train/cat": 10, "train/dog": 10, place: 0 if "cat" in place else 3})
    loaded = _load(tmp_path, "train[90%:] by class")
    assert len(loaded) == 2
    assert loaded.notes[0] == f"the folder of test is not used: {why}"
    with pytest.raises(UserError, match=f"has no split test: .*because {why}"):
        _load(tmp_path, "test")


def test_a_split_may_lack_classes_and_keeps_the_numbers_of_train(tmp_path):
    make(tmp_path, {f"train/{name}": 2 for name in ("ant", "bee", "cat")})
    make(tmp_path, {"test/cat": 2, "test/bee": 0})
    loaded = _load(tmp_path, "test")
    assert loaded.class_names == ("ant", "bee", "cat")
    assert loaded.labels.tolist() == [2, 2]


# What is none of the images


def test_a_run_folder_is_no_data(tmp_path):
    make(tmp_path, {"checkpoints": 1, "explain": 1})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="is the folder of a run"):
        _load(tmp_path)


@pytest.mark.parametrize("path", ["~nobody of that name/x", "x" * 5000, "a\0b", "\udcff"])
def test_paths_of_any_form_that_are_no_folder(path):
    with pytest.raises(UserError, match=r"there is no folder|no home folder"):
        _load(path)


def test_run_folders_beside_the_classes_are_no_class(tmp_path, monkeypatch):
    make(tmp_path, {"cat": 2, "dog": 2, "runs/pets/checkpoints/1": 1, "runs/pets/explain": 2})
    (tmp_path / "runs" / "pets" / "config.json").write_text("{}")
    (tmp_path / "runs" / "comparison.html").write_text("")
    monkeypatch.chdir(tmp_path)
    loaded = _load(".")
    assert loaded.class_names == ("cat", "dog")
    assert "1 x run folder" in loaded.notes[0]
    shutil.move("runs/pets", "train")  # a run folder named like a split
    shutil.rmtree("runs")
    assert _load(".").class_names == ("cat", "dog")
    shutil.rmtree("train")  # a run that was killed at its start
    (tmp_path / "runs" / "pets").mkdir(parents=True)
    (tmp_path / "runs" / "pets" / ".lock").write_text("")
    assert _load(".").class_names == ("cat", "dog")


def test_linked_folders_are_followed_without_loops(tmp_path):
    make(tmp_path / "set", {"cat": 2, "dog/far": 3})
    make(tmp_path, {"more": 4, "bird": 5})
    whole = _load(tmp_path / "set")
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "more")
    (tmp_path / "set" / "cat" / "again").symlink_to(tmp_path / "more")  # once is enough
    (tmp_path / "set" / "bird").symlink_to(tmp_path / "bird")
    loaded = _load(tmp_path / "set")
    assert loaded.class_names == ("bird", "cat", "dog")
    assert np.bincount(loaded.labels).tolist() == [5, 6, 3]
    (tmp_path / "bird" / "back").symlink_to(tmp_path / "set")
    assert np.bincount(_load(tmp_path / "set").labels).tolist() == [5, 6, 3]
    shutil.rmtree(tmp_path / "bird")
    (tmp_path / "set" / "bird").unlink()
    (tmp_path / "set" / "cat" / "more").unlink()
    (tmp_path / "set" / "cat" / "again").unlink()
    for place, target in (
        ("cat/self", "self"),
        ("cat/up", ".."),
        ("dog/near", "far"),  # there already, under its own name
        ("dog/far/root", tmp_path / "set"),
        ("all", "."),
        ("gone", "nowhere"),
    ):
        (tmp_path / "set" / place).symlink_to(target)
    loaded = _load(tmp_path / "set")
    assert loaded.class_names == ("cat", "dog")
    np.testing.assert_array_equal(loaded.images, whole.images)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    make(tmp_path, {"cat": 2, "dog": 2, ".": 3, "dog/.cache": 2})
    for name in ("a.txt", "b.txt", "Thumbs.db", "noending"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    save(tmp_path / "dog" / ".hidden.png", np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "dog" / "broken").symlink_to("nowhere")
    (note,) = _load(tmp_path).notes
    assert note == (
        "left out: 3 x beside the class folders, 2 x .txt, 1 x .db, 1 x without ending, "
        "1 x hidden, 1 x broken link or no file"
    )
