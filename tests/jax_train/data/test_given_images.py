"""Image files reach a model as a `folder:` data set would bring them; what is no image is named."""

import os
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from configs import common
from jax_train import data
from jax_train.data import decoding, given_images
from jax_train.errors import UserError
from jax_train.runs import trained

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (23, 37, 3), np.uint8)
GREY = RNG.integers(0, 256, (23, 37), np.uint8)


def rgba(alpha=0):
    pixels = np.dstack([COLOUR, np.full(GREY.shape, 255, np.uint8)])
    pixels[5:9, :, 3] = 255 - alpha
    return Image.fromarray(pixels)


def palette(**options):
    image = Image.fromarray(COLOUR).quantize(16)
    image.info.update(options)
    return image


def turned():
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    return image


# name -> (image, options of `save`)
FILES = {
    "grey.png": (Image.fromarray(GREY), {}),
    "grey.jpg": (Image.fromarray(GREY), {}),
    "bilevel.png": (Image.fromarray(GREY > 99), {}),
    "grey-alpha.png": (rgba(120).convert("LA"), {}),
    "16bit.png": (Image.fromarray(GREY.astype(np.uint16) * 251), {}),
    "16bit.tif": (Image.fromarray(GREY.astype(np.uint16) * 251), {}),
    "colour.png": (Image.fromarray(COLOUR), {}),
    "colour.jpeg": (Image.fromarray(COLOUR), {}),
    "colour.webp": (Image.fromarray(COLOUR), {}),
    "colour.BMP": (Image.fromarray(COLOUR), {}),
    "rgba.png": (rgba(), {}),
    "see-through.png": (rgba(200), {}),
    "palette.png": (palette(), {}),
    "palette-alpha.png": (palette(transparency=3), {"transparency": 3}),
    "palette.gif": (palette(), {}),
    "cmyk.jpg": (Image.fromarray(COLOUR).convert("CMYK"), {}),
    "cmyk.tiff": (Image.fromarray(COLOUR).convert("CMYK"), {}),
    "turned.jpg": (turned(), {"exif": turned().info["exif"]}),
    "animation.gif": (
        palette(),
        {"save_all": True, "append_images": [Image.new("P", (37, 23), 7)] * 3},
    ),
}
GREY_FILES = [name for name, (image, _) in FILES.items() if image.mode in ("1", "L", "LA", "I;16")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with all of FILES."""
    folder = tmp_path_factory.mktemp("files")
    for name, (image, options) in FILES.items():
        image.save(folder / name, **options)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    """Pillow's warnings must not reach the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_is_read_as_a_folder_data_set_reads_it(channels, files, tmp_path):
    names = GREY_FILES if channels == 1 else list(FILES)
    assert len(GREY_FILES) == 6
    for place, name in enumerate(names):
        folder = tmp_path / "set" / ("one", "two")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(files / name, folder / name)
    loaded = data.load(f"folder:{tmp_path / 'set'}", "train", image_size=16)
    assert loaded.image_shape == (16, 16, channels)
    read = given_images.read_images([files / name for name in names], (16, 16, channels))
    assert (read.dtype, read.shape) == (np.uint8, (len(names), 16, 16, channels))
    key = bytes
    assert sorted(map(key, read)) == sorted(map(key, loaded.images))


def test_colour_becomes_grey_by_luma(files):
    read = given_images.read_images([files / "colour.png", files / "rgba.png"], (23, 37, 1))
    expected = np.asarray(Image.fromarray(COLOUR).convert("L"))
    np.testing.assert_array_equal(read[..., 0], [expected, expected])


def test_pixels_of_16_bits_keep_their_upper_ones_and_turned_images_stand_upright(files):
    read = given_images.read_images([files / "16bit.png", files / "16bit.tif"], (23, 37, 1))
    expected = (GREY.astype(np.uint16) * 251) >> 8
    np.testing.assert_array_equal(read[..., 0], [expected, expected])
    upright = given_images.read_images([files / "turned.jpg"], (37, 23, 3))[0]
    stored = np.asarray(Image.open(files / "turned.jpg"))
    np.testing.assert_array_equal(upright, np.rot90(stored, -1))


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_that_are_no_square(channels, files):
    read = given_images.read_images([files / "colour.png"], (10, 6, channels))[0]
    image = Image.fromarray(COLOUR).convert("L" if channels == 1 else "RGB")
    expected = ImageOps.fit(image, (6, 10), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(read, np.asarray(expected).reshape(10, 6, channels))


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (3, 2)])
def test_extreme_sizes(size, tmp_path):
    Image.new("RGB", size, (9, 80, 200)).save(tmp_path / "a.png")
    for shape in ((8, 8, 3), (5, 7, 3)):
        read = given_images.read_images([tmp_path / "a.png"], shape)
        np.testing.assert_array_equal(read, np.broadcast_to(np.uint8([9, 80, 200]), (1, *shape)))


def test_large_images_are_no_warning_after_given_ones(tmp_path, monkeypatch):
    Image.new("L", (12, 12)).save(tmp_path / "a.png")
    decoding.formats.cache_clear()  # as in a new process
    given_images.read_images([tmp_path / "a.png"], (2, 2, 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):  # refused where it is decoded, not warned of
        decoding.open_image(tmp_path / "a.png")


def test_the_order_is_that_of_the_paths(tmp_path):
    for i in range(97):
        Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    order = np.random.default_rng(1).permutation(97)
    read = given_images.read_images([tmp_path / f"{i}.png" for i in order], (2, 2, 1))
    np.testing.assert_array_equal(read[:, 0, 0, 0], order)


# What is refused


def png(width, height):
    """A PNG whose header claims a size that its pixels do not have."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def broken(folder, kind):
    """Make a file that is no whole image, and return its path."""
    path = folder / f"{kind}.png"
    whole = folder / "whole.png"
    Image.fromarray(COLOUR).save(whole)
    contents = {
        "cut": whole.read_bytes()[:-300],
        "header": whole.read_bytes()[:20],
        "empty": b"",
        "text": b"<!DOCTYPE html><html>Not found",
        "random": RNG.bytes(5000),
        "bomb": png(20_000, 20_000),
        "large": png(9500, 9500),  # above Pillow's limit, which only warns up to twice of it
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", whole.read_bytes())
    elif kind == "float":
        path = path.with_suffix(".tif")
        Image.fromarray(GREY.astype(np.float32)).save(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return path


BROKEN = {
    "cut": "damaged or cut short",
    "header": "damaged or cut short",
    "empty": "empty: 0 bytes",
    "text": "no image but text that starts with '<!DOCTYPE html>",
    "random": "no whole image",
    "zip": "no whole image",
    "bomb": "too large",
    "large": "too large",
    "float": "floating-point pixels",
    "folder": "a folder, a pipe or a device",
    "pipe": "a folder, a pipe or a device",
    "device": "a folder, a pipe or a device",
    "missing": "cannot be opened: No such file",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_image_is_named(kind, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(COLOUR).save(good)
    bad = broken(tmp_path, kind)
    begin = time.monotonic()
    with pytest.raises(UserError) as error:
        given_images.read_images([good, bad, good], (8, 8, 1))
    assert f"1 image file cannot be decoded: {bad} ({BROKEN[kind]}" in str(error.value)
    assert time.monotonic() - begin < 3


def test_all_damaged_files_are_in_one_error(tmp_path):
    bad = [broken(tmp_path, kind) for kind in ("cut", "empty", "missing")]
    with pytest.raises(UserError, match="3 image files cannot be decoded") as error:
        given_images.read_images(bad, (8, 8, 3))
    assert all(str(path) in str(error.value) for path in bad)


def test_other_numbers_of_channels_are_refused(files):
    with pytest.raises(UserError, match="4 channels"):
        given_images.read_images([files / "rgba.png"], (8, 8, 4))


# What is noted


@pytest.mark.parametrize(
    ("name", "shape", "kinds"),
    [
        ("colour.png", (20, 20, 3), set()),
        ("colour.png", (20, 20, 1), {"colour"}),
        ("cmyk.jpg", (20, 20, 1), {"colour"}),
        ("palette.gif", (20, 20, 1), {"colour"}),
        ("grey.png", (20, 20, 1), set()),
        ("grey.png", (20, 20, 3), {"grey"}),
        ("16bit.png", (20, 20, 3), {"grey"}),
        ("rgba.png", (20, 20, 3), set()),
        ("see-through.png", (20, 20, 3), {"transparent"}),
        ("grey-alpha.png", (20, 20, 1), {"transparent"}),
        ("palette-alpha.png", (20, 20, 3), {"transparent"}),
        ("colour.png", (6, 9, 3), set()),  # 23 / 6 < 4
        ("colour.png", (5, 9, 3), {"resized"}),
        ("colour.png", (90, 92, 3), set()),
        ("colour.png", (93, 93, 3), {"resized"}),
    ],
)
def test_differences_that_matter_are_counted(name, shape, kinds, files):
    assert set(given_images.count_differences([files / name], shape)) == kinds


def test_grey_stored_as_colour_is_no_difference(files, tmp_path):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "a.jpg")
    Image.fromarray(GREY).convert("RGB").save(tmp_path / "b.png")
    paths = [tmp_path / "a.jpg", tmp_path / "b.png", files / "colour.png", files / "grey.jpg"]
    assert given_images.count_differences(paths, (8, 8, 1)) == {"colour": 1}


# Which files


def test_folders_are_searched_and_named_files_are_taken(tmp_path):
    for name in (
        "b/2.png",
        "b/10.JPG",
        "a.gif",
        "c/d/e.webp",
        ".hidden/x.png",
        "b/.y.png",
        "z.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    inside = [tmp_path / name for name in ("a.gif", "b/10.JPG", "b/2.png", "c/d/e.webp")]
    assert given_images.find_images([tmp_path]) == inside
    named = [tmp_path / "z.txt", tmp_path / "b", str(tmp_path / "a.gif")]
    assert given_images.find_images(named) == [tmp_path / "z.txt", *inside[1:3], inside[0]]


def test_a_folder_without_images_and_a_missing_path_are_refused(tmp_path):
    with pytest.raises(UserError, match="No image in the folder"):
        given_images.find_images([tmp_path])
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"1 x \.txt"):
        given_images.find_images([tmp_path])
    with pytest.raises(UserError, match="no such file or folder"):
        given_images.find_images([tmp_path / "*.png"])


# The shape a run takes


def run_of(**fields):
    config = common.get_config()
    config.data.mean, config.data.std = (0.5,), (0.5,)
    config.unlock()
    config.update_from_flattened_dict(fields)
    return SimpleNamespace(config=config, record=None, folder=Path("runs/some"))


def test_the_shape_comes_from_the_config_or_the_data(tmp_path):
    assert trained.image_shape(run_of(**{"model.img_size": 8})) == (8, 8, 1)
    assert trained.image_shape(run_of(**{"model.img_size": 72, "augment.resize": 72})) == (8, 8, 1)
    assert trained.image_shape(run_of()) == (8, 8, 1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.fromarray(COLOUR).save(tmp_path / name / "a.png")
    folder = {"data.name": f"folder:{tmp_path}", "data.test_split": "train"}
    assert trained.image_shape(run_of(**folder)) == (23, 37, 3)
    assert trained.image_shape(run_of(**folder, **{"data.image_size": 64})) == (64, 64, 1)


def test_data_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match="runs/some takes is that of its data") as error:
        trained.image_shape(run_of(**{"data.name": f"folder:{tmp_path / 'none'}"}))
    assert "there is no folder" in str(error.value)
