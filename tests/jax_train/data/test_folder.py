"""Folders of images by class: which files, in which order, in which form; and what is refused."""

import io
import os
import pickle
import random
import shutil
import struct
import sys
import time
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from jax_train import data
from jax_train.data import decoding
from jax_train.data.sources.folder import folder_source
from jax_train.data.statistics import channel_counts
from jax_train.errors import UserError
from tests.pictures import make, save


def _flat(color, size=(6, 8)):
    return np.full((*size, len(color)) if len(color) > 1 else size, color, np.uint8)


def _numbered(root, names, classes=("cat", "dog")):
    """One RGB image per name and class; its red value is its number within the class."""
    for label, name in enumerate(classes):
        for i, file in enumerate(names):
            save(root / name / file, _flat((i, label, 0)))


def _load(path, split="train", **options):
    return data.load(f"folder:{path}", split, **options)


def _only(path, **options):
    """The one image below a folder, as it is loaded, there being a second class with the same."""
    (file,) = (file for file in path.rglob("*") if file.is_file())
    (path / "another").mkdir()
    shutil.copy(file, path / "another" / file.name)
    loaded = _load(path, **options)
    first, second = loaded.images
    np.testing.assert_array_equal(first, second)
    return first


def test_labels_names_and_pixels(tmp_path):
    _numbered(tmp_path, [f"{i}.png" for i in range(5)], ("dog", "cat", "bird"))
    loaded = _load(tmp_path)
    assert loaded.class_names == ("bird", "cat", "dog")
    assert (loaded.images.shape, loaded.images.dtype) == ((15, 6, 8, 3), np.uint8)
    assert loaded.labels.dtype == np.int32
    # Written as 0 dog, 1 cat, 2 bird; numbered in the order of the names.
    np.testing.assert_array_equal(2 - loaded.images[:, 0, 0, 1], loaded.labels)
    found = {(int(i[0, 0, 0]), int(i[0, 0, 1])) for i in loaded.images}
    assert found == {(i, label) for i in range(5) for label in range(3)}


def test_order_is_mixed_and_the_same_whatever_the_disk_says(tmp_path):
    names = [f"{i}.png" for i in range(40)]
    _numbered(tmp_path / "a", names)
    random.Random(0).shuffle(names)
    for i in names:
        for label, name in ((1, "dog"), (0, "cat")):
            number = int(i.removesuffix(".png"))
            save(tmp_path / "b" / name / i, _flat((number, label, 0)))
    a, b = _load(tmp_path / "a"), _load(tmp_path / "b")
    np.testing.assert_array_equal(a.images, b.images)
    share = a.labels[:40].mean()
    assert 0.3 < share < 0.7  # sorted by name, the first half would be all cats
    part = _load(tmp_path / "a", "train[25%:50%]")
    np.testing.assert_array_equal(part.images, a.images[20:40])


def test_splits_by_folder(tmp_path):
    for split, count in (("train", 4), ("test", 2), ("val", 3)):
        _numbered(tmp_path / split, [f"{split}{i}.png" for i in range(count)])
    assert [len(_load(tmp_path, split)) for split in ("train", "test", "val")] == [8, 4, 6]
    joined = _load(tmp_path, "train+test")
    assert joined.ranges == (("train", 0, 8), ("test", 0, 4))
    assert _load(tmp_path, "validation[:2]").ranges == (("val", 0, 2),)
    with pytest.raises(UserError, match=r"train \(8\), test \(4\), val \(6\)"):
        _load(tmp_path, "trane")


def test_folders_beside_the_splits_are_mentioned(tmp_path):
    _numbered(tmp_path / "train", ["1.png"])
    _numbered(tmp_path / "unlabelled", ["1.png"])
    loaded = _load(tmp_path)
    assert len(loaded) == 2
    assert loaded.notes == ("the folder is read as splits; left out: unlabelled",)


def test_a_class_may_be_called_train(tmp_path):
    _numbered(tmp_path, ["1.png"], ("train", "car"))
    assert _load(tmp_path).class_names == ("car", "train")


def test_splits_of_different_sizes_do_not_join(tmp_path):
    _numbered(tmp_path / "train", ["1.png"])
    for name in ("cat", "dog"):
        save(tmp_path / "test" / name / "1.png", _flat((1, 2, 3), (9, 9)))
    assert _load(tmp_path, "test").image_shape == (9, 9, 3)
    with pytest.raises(UserError, match="different shapes"):
        _load(tmp_path, "train+test")
    assert len(_load(tmp_path, "train+test", image_size=4)) == 4


def test_hidden_and_other_files_are_left_out(tmp_path):
    _numbered(tmp_path, ["1.PNG", "sub/2.png", ".hidden.png", ".cache/3.png"])
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / ".git" / "x").mkdir(parents=True)
    (tmp_path / "README.md").write_text("")
    loaded = _load(tmp_path)
    assert loaded.class_names == ("cat", "dog")
    assert sorted(loaded.images[:, 0, 0, 0]) == [0, 0, 1, 1]


def test_transparency_and_palettes_come_out_as_rgb(tmp_path):
    save(tmp_path / "rgba" / "a" / "1.png", _flat((10, 20, 30, 0)))
    np.testing.assert_array_equal(_only(tmp_path / "rgba"), _flat((10, 20, 30)))
    (tmp_path / "p" / "a").mkdir(parents=True)
    palette = Image.fromarray(_flat((200, 100, 50))).quantize(4)
    palette.save(tmp_path / "p" / "a" / "1.png", transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(_only(tmp_path / "p"), _flat((200, 100, 50)))


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", _flat((77,)))
    save(tmp_path / "train" / "b" / "1.png", _flat((77,)) > 0)  # one bit
    save(tmp_path / "test" / "a" / "1.png", _flat((77, 255)))  # grey with transparency
    save(tmp_path / "test" / "b" / "1.png", _flat((3,)))
    loaded = _load(tmp_path)
    assert loaded.images.shape == (2, 6, 8, 1)
    assert sorted(loaded.images[:, 0, 0, 0]) == [77, 255]
    save(tmp_path / "test" / "b" / "2.png", _flat((1, 2, 3)))
    loaded = _load(tmp_path)  # training and test images keep to one number of channels
    assert loaded.images.shape == (2, 6, 8, 3)
    assert loaded.images[:, 0, 0].tolist() in ([[77] * 3, [255] * 3], [[255] * 3, [77] * 3])


def test_colours_are_seen_in_images_above_pillows_limit(tmp_path, monkeypatch):
    _numbered(tmp_path, ["1.png"])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # 48 pixels; it refuses twice its limit
    assert _load(tmp_path, max_megapixels=0.001).image_shape == (6, 8, 3)


@pytest.mark.parametrize("file", ["1.png", "1.tif"])
def test_16_bit_grey_keeps_its_upper_byte(tmp_path, file):
    save(tmp_path / "a" / file, np.array([[0x0000, 0x1234], [0x80FF, 0xFFFF]], np.uint16))
    assert _only(tmp_path)[..., 0].tolist() == [[0x00, 0x12], [0x80, 0xFF]]


def test_exif_turns_the_image_upright(tmp_path):
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    save(tmp_path / "a" / "1.png", pixels, exif=exif)
    np.testing.assert_array_equal(_only(tmp_path), np.rot90(pixels, -1))


def test_resize_and_crop(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (10, 42, 3), np.uint8)
    save(tmp_path / "a" / "1.png", wide)
    resized = Image.fromarray(wide).resize((21, 5), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((8, 0, 13, 5)))
    found = _only(tmp_path, image_size=5)
    assert np.abs(found.astype(int) - expected).max() <= 1  # of rounding
    shutil.rmtree(tmp_path / "another")
    save(tmp_path / "b" / "1.png", wide.transpose(1, 0, 2))
    save(tmp_path / "b" / "2.png", _flat((250, 0, 0), (3, 3)))
    loaded = _load(tmp_path, image_size=7)
    assert loaded.image_shape == (7, 7, 3)
    assert any(np.array_equal(i, _flat((250, 0, 0), (7, 7))) for i in loaded.images)


def test_sizes_that_differ_are_named(tmp_path):
    _numbered(tmp_path, [f"{i}.png" for i in range(6)])
    odd = save(tmp_path / "cat" / "odd.png", _flat((1, 2, 3), (16, 12)))
    with pytest.raises(UserError, match="12x16") as caught:
        _load(tmp_path)
    message = str(caught.value)
    assert "8x6" in message
    assert str(odd) in message
    assert "--config.data.image_size=64" in message


def test_damaged_files_are_named_up_to_five(tmp_path):
    _numbered(tmp_path, [f"{i}.png" for i in range(8)])
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog" / "5.png").write_bytes(b"no image at all")
    with pytest.raises(UserError, match="2 image files") as caught:
        _load(tmp_path)
    assert str(tmp_path / "cat" / "3.png") in str(caught.value)
    assert str(tmp_path / "dog" / "5.png") in str(caught.value)
    for i in range(8):
        (tmp_path / "dog" / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"9 image files .* and 4 more\. All are listed in"):
        _load(tmp_path)


@pytest.mark.parametrize("image_size", [None, 4])
def test_damaged_files_are_named_wherever_they_stand_in_the_split(tmp_path, image_size):
    _numbered(tmp_path, [f"{i}.png" for i in range(30)])
    records = folder_source(str(tmp_path), image_size).open("train")
    order = [int(i[0, 0, 0]) + 30 * int(i[0, 0, 1]) for i in records.read(np.arange(60))[0]]
    for place in (0, 29, 59):  # the first one gives the size of the others
        number, name = order[place] % 30, ("cat", "dog")[order[place] // 30]
        (tmp_path / name / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match="3 image files cannot be decoded: ") as caught:
        _load(tmp_path, image_size=image_size)
    assert str(caught.value).count(".png (empty: 0 bytes)") == 3
    with pytest.raises(UserError, match="3 image files cannot be decoded: "):
        channel_counts(_load(tmp_path, image_size=image_size, memory_limit=0))


def test_images_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    _numbered(tmp_path, ["1.png"])
    bomb = save(tmp_path / "cat" / "bomb.png", _flat((0, 0, 0), (15, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # warns only, up to twice the limit
    with pytest.raises(UserError, match="too large: ") as caught:
        _load(tmp_path, image_size=4)
    assert str(bomb) in str(caught.value)
    assert "1.png" not in str(caught.value)


def _encoded(kind, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (23, 29, 3), np.uint8))
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png_that_declares(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = _encoded("PNG")
    return whole[:8] + b"\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("a.png", b"", "empty: 0 bytes"),
        ("a.png", b"just text\n", "no image but text that starts with 'just text'"),
        ("a.jpg", b'<svg width="9"/>', "no image but text that starts with '<svg"),
        ("a.webp", b"<!DOCTYPE html>\n<p>404", "no image but text that starts with '<!DOC"),
        ("a.png", _encoded("PNG")[:-400], "damaged or cut short: "),
        ("a.png", _encoded("PNG")[:20], "damaged or cut short: "),
        ("a.jpg", _encoded("JPEG")[:-60], "damaged or cut short: image file is truncated"),
        ("a.jpg", _encoded("JPEG")[:400], "damaged or cut short: "),
        ("a.gif", _encoded("GIF")[:-60], "damaged or cut short: "),
        ("a.png", _png_that_declares(40_000, 50_000), "too large: "),
        ("a.png", _png_that_declares(2**31 - 1, 2**31 - 1), "too large: "),
        ("a.tif", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image but text"),
        ("a.png", pickle.dumps({"a": 1}), "no whole image of the formats"),
    ],
)
def test_fake_and_damaged_images_are_named_with_what_is_wrong(tmp_path, file, content, words):
    _numbered(tmp_path, ["good.png"])
    (tmp_path / "cat" / file).write_bytes(content)
    began = time.monotonic()
    with pytest.raises(UserError, match="1 image file cannot be decoded") as caught:
        _load(tmp_path, image_size=4)
    assert time.monotonic() - began < 5
    message = str(caught.value)
    assert f"{tmp_path / 'cat' / file} ({words}" in message
    assert "Error" not in message
    assert "good.png" not in message


def test_the_first_frame_of_an_animation_is_taken_whatever_the_file_is_called(tmp_path):
    frames = [Image.fromarray(_flat((value, 0, 0))) for value in (7, 99)]
    for name in ("1.gif", "2.png"):
        path = tmp_path / "a" / name
        path.parent.mkdir(exist_ok=True)
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    save(tmp_path / "b" / "1.png", _flat((7, 0, 0)))
    np.testing.assert_array_equal(_load(tmp_path).images, [_flat((7, 0, 0))] * 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif", [b"no EXIF at all", b"MM\0*\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff\x01\x12"]
)
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is_stored(tmp_path, exif):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(_encoded("JPEG", exif=b"Exif\0\0" + exif))
    assert _only(tmp_path).shape == (23, 29, 3)


def test_exif_that_breaks_its_reader_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda _: struct.unpack(">H", b""))
    path = save(tmp_path / "a" / "1.png", _flat((1, 2, 3)))
    _numbered(tmp_path, ["1.png"], ["b"])
    with pytest.raises(UserError, match="its EXIF data is damaged; save it without") as caught:
        _load(tmp_path)
    assert str(path) in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    _numbered(tmp_path, ["1.png"])
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with pytest.raises(UserError, match=r"cat/pipe\.png \(a folder, a pipe or a device"):
        _load(tmp_path)


def test_floating_point_images_are_refused(tmp_path):
    for name in "ab":
        save(tmp_path / name / "1.tif", np.ones((4, 4), np.float32))
    with pytest.raises(UserError, match="floating-point"):
        _load(tmp_path)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="there is no folder"):
        _load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="there is no folder"):
        data.load("folder:", "train")
    with pytest.raises(UserError, match="holds no folders"):
        _load(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.txt").write_text("")
    (tmp_path / "cat" / "b.txt").write_text("")
    save(tmp_path / "dog" / "1.png", _flat((1, 2, 3)))
    with pytest.raises(UserError, match=r"1 of the 2 class folders .*: cat\. .*2 x \.txt"):
        _load(tmp_path)
    (tmp_path / "flat" / "test").mkdir(parents=True)
    save(tmp_path / "flat" / "train" / "1.png", _flat((1, 2, 3)))
    with pytest.raises(UserError, match="train holds no folders"):
        _load(tmp_path / "flat")


def test_class_folders_of_the_splits_must_agree(tmp_path):
    _numbered(tmp_path / "train", ["1.png"], ("cat", "dog"))
    _numbered(tmp_path / "test", ["1.png"], ("cat", "bird"))
    with pytest.raises(UserError, match="dog missing; bird not in train"):
        _load(tmp_path)


@pytest.mark.parametrize("size", [0, -3, 2.5, True, "32"])
def test_image_size_must_be_a_positive_whole_number(tmp_path, size):
    with pytest.raises(
        UserError, match=r"config\.data\.image_size is .*--config\.data\.image_size=64"
    ):
        _load(tmp_path, image_size=size)


@pytest.mark.parametrize("size", [10**7, 10**10])  # beyond all addresses, and beyond counting
def test_a_size_that_no_memory_has_room_for_is_refused(tmp_path, size):
    _numbered(tmp_path, ["1.png"])
    with pytest.raises(UserError, match=r"2 images of .*Let them stream .*image_size=64"):
        _load(tmp_path, image_size=size)
    streamed = _load(tmp_path, image_size=size, memory_limit=0)
    with pytest.raises(
        UserError, match=r"1 images? of .*Take fewer at once, .*data\.image_size=64"
    ):
        streamed.take(np.array([0]))


def test_cached_until_a_file_changes(tmp_path, monkeypatch):
    calls = []
    real = decoding.decode_image

    def counting(*args, **options):
        calls.append(0)
        return real(*args, **options)

    monkeypatch.setattr(decoding, "decode_image", counting)
    _numbered(tmp_path / "d", ["1.png", "2.png"])
    first = _load(tmp_path / "d")
    assert len(calls) == 1 + 4  # one for the size
    again = _load(tmp_path / "d")
    assert len(calls) == 5
    np.testing.assert_array_equal(again.images, first.images)
    for _ in range(2):  # another size is kept beside it
        _load(tmp_path / "d", image_size=4)
        _load(tmp_path / "d")
    assert len(calls) == 9
    save(tmp_path / "d" / "cat" / "1.png", _flat((99, 0, 0)))
    assert 99 in _load(tmp_path / "d").images
    (tmp_path / "d" / "cat" / "2.png").unlink()
    assert len(_load(tmp_path / "d")) == 3


def test_shared_between_splits_whatever_the_size(tmp_path):
    _numbered(tmp_path, [f"{i}.png" for i in range(5)])
    a = _load(tmp_path, "train[:6]")
    b = _load(tmp_path, "train[4:]", image_size=4)
    assert data.count_shared(a, b) == 2


# Which files are images


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("a.avif", "AVIF"),
        ("a.jp2", "JPEG2000"),
        ("a.tga", "TGA"),
        ("a.apng", "PNG"),
        ("a.pcx", "PCX"),
        ("noending", "JPEG"),
        ("a.txt", "WEBP"),
        ("a.jpg", "AVIF"),
        ("a.png~", "PNG"),
        ("a.JPG.download", "JPEG"),
    ],
)
def test_what_pillow_can_read_is_read_by_its_content(tmp_path, file, kind):
    make(tmp_path, {"cat": 1, "dog": 1}, (16, 16))
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dog" / file, kind)
    loaded = _load(tmp_path, image_size=16)
    assert np.bincount(loaded.labels).tolist() == [1, 2]
    assert loaded.notes == ()


def test_raw_files_of_cameras_are_left_out(tmp_path):
    make(tmp_path, {"cat": 1, "dog": 1})
    Image.new("RGB", (8, 6)).save(tmp_path / "cat" / "0.DNG", "TIFF")
    loaded = _load(tmp_path)
    assert len(loaded) == 2
    assert loaded.notes == ("left out: 1 x .dng",)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_kinds_that_pillow_lacks_are_left_out_with_the_cure(tmp_path):
    make(tmp_path, {"cat": 1, "dog": 1})
    for name in ("a.heic", "b.HEIC", "noending"):
        (tmp_path / "cat" / name).write_bytes(HEIC)
    assert _load(tmp_path).notes == (
        "left out: 2 x .heic (pip install pillow-heif), "
        "1 x without ending (pip install pillow-heif)",
    )
    (tmp_path / "cat" / "c.jpg").write_bytes(HEIC)  # as some telephones name it
    with pytest.raises(UserError, match=r"c\.jpg \(of the kind HEIF, which .* pillow-heif\)"):
        _load(tmp_path)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path, monkeypatch):
    from PIL import ImageFile

    class Reader(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode, self.tile = (8, 6), "RGB", []
            self.im = Image.new("RGB", (8, 6), (9, 8, 7)).im

    def register():
        Image.register_open("HEIF", Reader, lambda start: start[4:12] == b"ftypheic")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    make(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "1.heic").write_bytes(HEIC)
    (tmp_path / "cat" / "2").write_bytes(HEIC)
    decoding.formats.cache_clear()
    try:
        loaded = _load(tmp_path)
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")
        decoding.formats.cache_clear()
    assert np.bincount(loaded.labels).tolist() == [3, 1]
    assert (loaded.images == (9, 8, 7)).all(axis=(1, 2, 3)).sum() == 2


@pytest.mark.parametrize("name", ["a.eps", "a.ps", "noending"])
def test_no_other_program_is_run_for_an_image(tmp_path, monkeypatch, name):
    make(tmp_path, {"cat": 1, "dog": 1})
    Image.new("RGB", (8, 6)).save(tmp_path / "cat" / name, "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("it ran"))
    assert len(_load(tmp_path)) == 2
    shutil.move(tmp_path / "cat" / name, tmp_path / "cat" / "a.png")
    with pytest.raises(UserError, match=r"no image but text that starts with '%!PS"):
        _load(tmp_path)


# Large photographs


def _photo(path, side, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(side, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(rows[:, None], rows, np.uint8(99)), axis=-1)
    Image.fromarray(pixels).save(path, kind, quality=100)
    return pixels


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(("pixels", "decoded"), [(1600, 40), (1599, 20), (401, 20), (400, 20)])
def test_jpegs_above_the_limit_are_halved_while_decoding(tmp_path, monkeypatch, pixels, decoded):
    from PIL import JpegImagePlugin

    sizes = []
    real = JpegImagePlugin.JpegImageFile.load_prepare
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile,
        "load_prepare",
        lambda self: sizes.append(self.size) or real(self),
    )
    for name in ("cat", "dog"):
        whole = _photo(tmp_path / name / "1.jpg", 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    found = _load(tmp_path, image_size=10).images[0]
    assert set(sizes) == {(decoded, decoded)}
    expected = whole.reshape(10, 4, 10, 4, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() < 9


@pytest.mark.filterwarnings("ignore:Image size")
def test_the_limit_can_be_set(tmp_path, monkeypatch):
    for name, kind in (("cat", "JPEG"), ("dog", "PNG")):
        _photo(tmp_path / name / "1", 40, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    with pytest.raises(UserError, match=r"2 image files .*40x40 pixels; expected up to 399, or co"):
        _load(tmp_path, image_size=10)
    assert len(_load(tmp_path, image_size=10, max_megapixels=0.0016)) == 2
    with pytest.raises(UserError, match=r"1 image file cannot .*dog/1 \(too large"):
        _load(tmp_path, image_size=10, max_megapixels=0.0008)


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_limit_that_is_set_is_not_that_of_other_data(tmp_path, monkeypatch):
    for name in ("cat", "dog"):
        _photo(tmp_path / "d" / name / "1.jpg", 40)
        _photo(tmp_path / "other" / name / "1.png", 40, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    how = {"image_size": 10, "memory_limit": 0}
    before = _load(tmp_path / "d", **how).take(np.arange(2))[0]
    whole = _load(tmp_path / "d", max_megapixels=1, **how).take(np.arange(2))[0]
    assert (before != whole).any()  # halved while decoding
    np.testing.assert_array_equal(_load(tmp_path / "d", **how).take(np.arange(2))[0], before)
    with pytest.raises(UserError, match="40x40 pixels; expected up to 1,000"):
        _load(tmp_path / "other", image_size=10)


# Damaged files


@pytest.mark.parametrize("memory_limit", [None, 0])
@pytest.mark.parametrize("image_size", [None, 4])
def test_all_damaged_files_are_listed_and_can_be_left_out(
    tmp_path, cache, image_size, memory_limit
):
    make(tmp_path, {f"{s}/{c}": 9 for s in ("train", "test") for c in ("cat", "dog")})
    bad = {tmp_path / s / "cat" / f"{i}.png" for s in ("train", "test") for i in range(4)}
    for path in bad:
        path.write_bytes(path.read_bytes()[:99])
    bad.add(tmp_path / "train" / "dog" / "gone.jpg")
    options = {"image_size": image_size, "memory_limit": memory_limit}
    with pytest.raises(UserError, match=r"8 image files .* and 3 more.*on_damaged=skip") as caught:
        channel_counts(_load(tmp_path, **options))
    (tmp_path / "train" / "dog" / "gone.jpg").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"gone\.jpg \(cannot be opened"):
        _load(tmp_path, **options)
    loaded = _load(tmp_path, on_damaged="skip", **options)
    assert np.bincount(loaded.labels).tolist() == [5, 9]
    assert channel_counts(loaded).sum() == 14 * 3 * (16 if image_size else 48)
    assert len(_load(tmp_path, "test", on_damaged="skip", **options)) == 14
    (place,) = (cache / "damaged").iterdir()
    assert loaded.notes == (f"9 damaged files left out, listed in {place}",)
    assert f"All are listed in {place}." in str(caught.value)
    listed = place.read_text().splitlines()
    assert {line.partition(" (")[0] for line in listed} == set(map(str, bad))


def test_damaged_files_are_looked_for_once(tmp_path, monkeypatch):
    make(tmp_path, {"cat": 3, "dog": 2})
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    assert len(_load(tmp_path, on_damaged="skip")) == 4
    monkeypatch.setattr(decoding, "decode_image", lambda *_: pytest.fail("decoded again"))
    assert len(_load(tmp_path, on_damaged="skip")) == 4


def test_a_damaged_file_has_no_say_in_the_channels_of_the_others(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png", _flat((77,)))
    coloured = save(tmp_path / "cat" / "2.png", _flat((1, 2, 3)))
    coloured.write_bytes(coloured.read_bytes()[:45])
    for _ in range(2):  # tried, and known from before
        loaded = _load(tmp_path, on_damaged="skip", memory_limit=0)
        assert (len(loaded), loaded.image_shape) == (2, (6, 8, 1))


def test_damaged_files_are_tried_again_by_new_readers(tmp_path, monkeypatch):
    make(tmp_path, {"cat": 3, "dog": 2})
    with monkeypatch.context() as before:
        before.setattr(decoding, "formats", lambda suffix="": ("JPEG",))
        Image.new("RGB", (8, 6)).save(tmp_path / "cat" / "3.jpg")
        Image.new("RGB", (8, 6)).save(tmp_path / "dog" / "3.jpg")
        assert len(_load(tmp_path, on_damaged="skip")) == 2
    assert len(_load(tmp_path, on_damaged="skip")) == 7


def test_a_class_of_damaged_files_alone_is_refused(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 2})
    for i in range(2):
        (tmp_path / "dog" / f"{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match="Every image of train is damaged, of the classes dog"):
        _load(tmp_path, on_damaged="skip")
