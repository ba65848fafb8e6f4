"""Small archives in the original formats of further data sets, prepared without TensorFlow."""

import io
import os
import sys
import time

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jax_train import data
from jax_train.__main__ import main
from jax_train.commands import prepare as command
from jax_train.data.sources import prepare
from jax_train.data.sources.by_name import scheme_of
from jax_train.errors import UserError


def photo(value, width=9, height=7):
    file = io.BytesIO()
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(file, "PNG")  # Pillow reads by the content
    return file.getvalue()


def prepared(small, tmp_path, name, paths):
    return prepare.prepare(name, tmp_path / "data", paths, checksums=small.checksums(*paths))


def contents(tmp_path, name, split):
    """(class, value of the pixels) of each image of a prepared set of photos."""
    found = data.load(name, split, str(tmp_path / "data"), image_size=4)
    assert found.image_shape == (4, 4, 3)
    names = [found.class_names[label] for label in found.labels]
    return sorted(zip(names, found.images[:, 0, 0, 1].tolist(), strict=True))


def test_names_and_checksums_are_those_of_tfds(tmp_path):
    import tensorflow_datasets as tfds

    assert list(prepare.KNOWN) == command.NAMES
    for name, recipe in prepare.KNOWN.items():
        infos = tfds.builder_cls(name)(data_dir=tmp_path).url_infos
        for file in recipe.files:
            assert len(infos[recipe.url + file].checksum) == 64
    assert "tensorflow" not in sys.modules


def test_fashion_mnist(small, tmp_path):
    paths, truth = small.write_mnist(tmp_path / "files")
    prepared(small, tmp_path, "fashion_mnist", paths)
    for split, (images, labels) in truth.items():
        loaded = data.load("fashion_mnist", split, tmp_path / "data")
        assert loaded.class_names[0] == "T-shirt/top"
        expected = small.by_label_and_pixels(images, labels)
        assert small.by_label_and_pixels(loaded.images, loaded.labels) == expected


def write_svhn(folder, change=lambda images, labels: (images, labels)):
    folder.mkdir()
    rng, paths, truth = np.random.default_rng(3), [], {}
    for split, count in (("train", 12), ("test", 11), ("extra", 13)):
        images = rng.integers(0, 256, (32, 32, 3, count), np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)  # 10 is the digit 0
        truth[split] = images.transpose(3, 0, 1, 2), labels % 10
        paths.append(folder / f"{split}_32x32.mat")
        images, labels = change(images, labels)
        savemat(paths[-1], {"X": images, "y": labels[:, None]}, do_compression=True)
    return paths, truth


def test_svhn(small, tmp_path):
    paths, truth = write_svhn(tmp_path / "files")
    prepared(small, tmp_path, "svhn_cropped", paths)
    for split, (images, labels) in truth.items():
        loaded = data.load("svhn_cropped", split, tmp_path / "data")
        assert loaded.class_names == tuple("0123456789")
        expected = small.by_label_and_pixels(images, labels)
        assert small.by_label_and_pixels(loaded.images, loaded.labels) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda images, labels: (images, labels + 3), r"y - 1 = 1[0-2]; expected 0 to 9"),
        (lambda images, labels: (images[:16], labels), r"X is uint8\[16, 32, 3, 12\] with 12"),
        (lambda images, labels: (images, labels[:5]), r"uint8\[32, 32, 3, 12\] with 5 labels"),
    ],
)
def test_svhn_that_is_another_file(small, tmp_path, change, words):
    paths, _ = write_svhn(tmp_path / "files", change)
    with pytest.raises(UserError, match=words):
        prepared(small, tmp_path, "svhn_cropped", paths)
    paths[0].write_bytes(b"no MATLAB file")
    with pytest.raises(UserError, match=r"train_32x32.mat is no MATLAB file with X and y"):
        prepared(small, tmp_path, "svhn_cropped", paths)
    assert not list((tmp_path / "data").rglob("*array_record*"))


def food(train, test, numbers=range(1, 7), dishes=("sushi", "tiramisu")):
    root = "food-101"
    members = {
        f"{root}/images/{dish}/{10 * place + n}.jpg": photo(10 * place + n)
        for place, dish in enumerate(dishes)
        for n in numbers
    }
    members[f"{root}/README.txt"] = b"read me"
    lists = {f"{root}/meta/{s}.txt": keys for s, keys in (("train", train), ("test", test))}
    return members | {name: "\n".join(keys).encode() for name, keys in lists.items()}


FOOD = ["sushi/1", "sushi/3", "tiramisu/12", "tiramisu/13"], ["sushi/2", "tiramisu/11"]


def test_food101(small, tmp_path, capsys):
    path = small.write_tar(tmp_path / "food-101.tar.gz", food(*FOOD))
    killed = tmp_path / "data" / "food101" / ".photos-abc"  # two days ago
    killed.mkdir(parents=True)
    os.utime(killed, times=(time.time() - 2 * 24 * 3600,) * 2)
    folder = prepared(small, tmp_path, "food101", [path])
    assert contents(tmp_path, "food101", "train") == [
        *(("sushi", 1), ("sushi", 3), ("tiramisu", 12), ("tiramisu", 13))
    ]
    assert contents(tmp_path, "food101", "test") == [("sushi", 2), ("tiramisu", 11)]
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert files[:2] == ["test/sushi/2.jpg", "test/tiramisu/11.jpg"]
    assert len(files) == 6  # those that no list names are left out
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos"]
    assert main(["prepare", "food101", "--data_dir", str(tmp_path / "data")]) == 0
    assert "was prepared already" in capsys.readouterr().out
    streamed = data.load("food101", "train", str(tmp_path / "data"), image_size=4, memory_limit=0)
    assert streamed.can_fit
    assert scheme_of("food101").located("food101", "data")[0] == "food101"


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (food(["sushi/1"], ["sushi/99"]), "names the photo 'sushi/99', which is not in the"),
        (food(["sushi/1"], ["../x/1"]), r"test.txt names '\.\./x/1': no photo of it"),
        (food(["sushi/1"], ["sushi/.."]), r"test.txt names 'sushi/\.\.': no photo of it"),
        (food(["sushi/1"], []), r"no meta/test.txt with photos"),
        ({"food-101/images/../../x.jpg": b""}, "a path that leads out of the archive"),
    ],
)
def test_food101_that_is_another_archive(small, tmp_path, members, words):
    path = small.write_tar(tmp_path / "food-101.tar.gz", members)
    with pytest.raises(UserError, match=words):
        prepared(small, tmp_path, "food101", [path])
    assert not list((tmp_path / "data" / "food101").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        UserError, match=r"food-101.tar.gz is damaged or cut short|names|leads|no m"
    ):
        prepared(small, tmp_path, "food101", [path])


def test_imagenette(small, tmp_path):
    root = "imagenette2-320"
    members = {
        f"{root}/{split}/{wnid}/{wnid}_{n}.JPEG": photo(n)
        for split, numbers in (("train", (1, 2)), ("val", (3,)))
        for wnid, numbers in (("n01440764", numbers), ("n03888257", [n + 10 for n in numbers]))
        for n in numbers
    }
    members[f"{root}/noisy_imagenette.csv"] = b"path"
    path = small.write_tar(tmp_path / "imagenette2-320.tgz", members)
    prepared(small, tmp_path, "imagenette", [path])
    assert contents(tmp_path, "imagenette", "train") == [
        *(("parachute", 11), ("parachute", 12), ("tench", 1), ("tench", 2))
    ]
    assert contents(tmp_path, "imagenette", "validation") == [("parachute", 13), ("tench", 3)]
    members[f"{root}/train/n00000000/1.JPEG"] = photo(1)
    other = small.write_tar(tmp_path / "o.tgz", members)
    with pytest.raises(UserError, match=r"n00000000/1.JPEG': expected train or val, and one of n"):
        prepare.prepare(
            "imagenette",
            tmp_path / "more",
            [other],
            checksums={"imagenette2-320.tgz": small.checksums(other)["o.tgz"]},
        )


def test_oxford_flowers(small, tmp_path):
    photos = {f"jpg/image_{n:05d}.jpg": photo(n) for n in range(1, 9)}
    paths = [small.write_tar(tmp_path / "102flowers.tgz", photos)]
    labels = np.array([[1, 2, 1, 2, 1, 2, 102, 1]], np.uint8)
    splits = {"trnid": [[1, 2, 7]], "valid": [[3, 4]], "tstid": [[6, 5, 8]]}
    for name, values in (("imagelabels", {"labels": labels}), ("setid", splits)):
        paths.append(tmp_path / f"{name}.mat")
        savemat(paths[-1], {key: np.array(value) for key, value in values.items()})
    prepared(small, tmp_path, "oxford_flowers102", paths)
    pink, orchid, last = "pink primrose", "hard-leaved pocket orchid", "blackberry lily"
    assert contents(tmp_path, "oxford_flowers102", "train") == sorted(
        [(pink, 1), (orchid, 2), (last, 7)]
    )
    assert contents(tmp_path, "oxford_flowers102", "val") == sorted([(pink, 3), (orchid, 4)])
    assert len(contents(tmp_path, "oxford_flowers102", "test")) == 3
    savemat(paths[2], splits | {"tstid": [[9]]})
    with pytest.raises(UserError, match=r"setid.mat, tstid: not all from 1 to 8"):
        prepare.prepare(
            "oxford_flowers102", tmp_path / "more", paths, checksums=small.checksums(*paths)
        )


def test_oxford_pets(small, tmp_path):
    keys = ["Abyssinian_1", "Abyssinian_2", "american_bulldog_10", "american_bulldog_11"]
    photos = {f"images/{key}.jpg": photo(n) for n, key in enumerate(keys)}
    photos["images/Abyssinian_100.mat"] = b"left from the annotation"
    lists = {
        "annotations/trainval.txt": "".join(f"{key} 1 1 1\n" for key in keys[::2]).encode(),
        "annotations/test.txt": "".join(f"{key} 1 1 1\n" for key in keys[1::2]).encode(),
        "annotations/list.txt": b"#Image CLASS-ID SPECIES BREED ID\n",
    }
    paths = [
        small.write_tar(tmp_path / "images.tar.gz", photos),
        small.write_tar(tmp_path / "annotations.tar.gz", lists),
    ]
    prepared(small, tmp_path, "oxford_iiit_pet", paths)
    assert contents(tmp_path, "oxford_iiit_pet", "train") == [
        *(("Abyssinian", 0), ("american_bulldog", 2))
    ]
    assert contents(tmp_path, "oxford_iiit_pet", "test") == [
        *(("Abyssinian", 1), ("american_bulldog", 3))
    ]
    lists["annotations/test.txt"] = b"poodle_1 1 1 1\n"
    small.write_tar(paths[1], lists)
    with pytest.raises(UserError, match=r"annotations/test.txt names 'poodle_1': no photo of it"):
        prepare.prepare(
            "oxford_iiit_pet", tmp_path / "more", paths, checksums=small.checksums(*paths)
        )


def test_photos_that_are_missing_say_how_to_get_them(tmp_path):
    with pytest.raises(UserError) as caught:
        data.load("food101", "train", str(tmp_path), image_size=4, download=False)
    text = str(caught.value)
    assert "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz" in text
    assert "python -m jax_train prepare food101" in text
