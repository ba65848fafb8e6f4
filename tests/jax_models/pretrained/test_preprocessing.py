"""Preprocessing, by cases that are worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from jax_models.pretrained import SourceError, preprocessing
from jax_models.pretrained.preprocessing import Preprocessing

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "scale": 1.0}


def _ramp(height, width):
    """An image whose red level is the row and whose green level is the column."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)


def test_levels_are_scaled_and_normalised():
    steps = Preprocessing(2, None, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    images = np.array([[[[0, 0, 0], [255, 255, 255]], [[51, 51, 51], [102, 0, 204]]]], np.uint8)
    expected = [[[-1, -1, 0], [1, 3, 1]], [[-0.6, -0.2, 0.2], [-0.2, -1, 0.8]]]
    found = steps(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [expected], atol=1e-6)


def test_the_middle_is_cropped():
    found = Preprocessing(4, None, **PLAIN)(_ramp(10, 8))[0]
    assert found[:, 0, 0].tolist() == [3, 4, 5, 6]
    assert found[0, :, 1].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("height", "rounds_up", "first"),
    # an odd margin: torchvision and timm round to the even number, transformers downwards
    [(9, True, 2), (9, False, 2), (11, True, 4), (11, False, 3)],
)
def test_of_two_middles_it_is_the_librarys(height, rounds_up, first):
    found = Preprocessing(4, None, rounds_up=rounds_up, **PLAIN)(_ramp(height, 4))[0]
    assert found[0, 0, 0] == first


def test_what_a_small_image_lacks_is_black():
    found = Preprocessing(4, None, **PLAIN)(np.full((2, 4, 3), 9, np.uint8))[0]
    assert found[:, 0, 0].tolist() == [0, 9, 9, 0]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    # 20 rows for 30 columns: the longer side is 248 * 30 / 20 = 372; then what is cut off
    [(20, 30, (248, 372)), (30, 20, (372, 248)), (30, 31, (248, 256)), (9, 9, (248, 248))],
)
def test_the_shorter_side_is_resized_and_the_ratio_stays(monkeypatch, height, width, size):
    asked = []
    resize = Image.Image.resize

    def spy(image, size, *how):
        asked.append((*size[::-1], *how))
        return resize(image, size, *how)

    monkeypatch.setattr(Image.Image, "resize", spy)
    found = Preprocessing(224, 248, **PLAIN)(_ramp(height, width))
    assert found.shape == (1, 224, 224, 3)
    assert asked == [(*size, Image.Resampling.BICUBIC)]


@pytest.mark.parametrize(("height", "width"), [(1, 30_000), (30_000, 1)])
def test_a_thin_image_takes_no_more_memory_than_others(monkeypatch, height, width):
    asked = []
    resize = Image.Image.resize

    def spy(image, size, *how, **more):
        asked.append(size)
        return resize(image, size, *how, **more)

    monkeypatch.setattr(Image.Image, "resize", spy)
    found = Preprocessing(37, 41, **PLAIN)(np.full((height, width, 3), 7, np.uint8))
    assert (found == 7).all()
    assert asked == [(37, 37)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", [19, 24, (23, 30), (40, 11)])
@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (7, 50)])
def test_resized_in_part_it_is_what_is_cropped(monkeypatch, height, width, resize, interpolation):
    rows, columns = np.indices((height, width))
    levels = [255 * rows / height, 255 * columns / width, 0 * rows]  # two and more apart
    smooth = np.stack(levels, axis=-1).astype(np.uint8)
    steps = Preprocessing(19, resize, interpolation, **PLAIN)
    whole = steps(smooth)
    monkeypatch.setattr(preprocessing, "_MOST_PIXELS", 0)
    assert np.abs(steps(smooth) - whole).max() <= 1


def test_both_sides_are_resized_where_the_shape_is_not_kept():
    steps = Preprocessing(4, (4, 4), "bilinear", **PLAIN)
    found = steps(_ramp(16, 8))[0]
    theirs = Image.fromarray(_ramp(16, 8)).resize((4, 4), Image.Resampling.BILINEAR)
    assert found.tolist() == np.asarray(theirs).tolist()


@pytest.mark.parametrize(("name", "filter"), [("bilinear", 2), ("bicubic", 3), ("nearest", 0)])
def test_the_interpolation_is_pillows(name, filter):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    found = Preprocessing(5, 5, name, **PLAIN)(image)[0]
    assert found.tolist() == np.asarray(Image.fromarray(image).resize((5, 5), filter)).tolist()


def test_files_and_arrays_give_the_same(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), np.uint8)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    steps = Preprocessing(5, 6)
    files = [tmp_path / "0.png", str(tmp_path / "1.png")]
    assert steps(files).tobytes() == steps(images).tobytes()
    assert steps(files[1]).tobytes() == steps(images[1]).tobytes()


def test_a_file_is_turned_upright_and_made_what_the_model_takes(tmp_path):
    image = Image.fromarray(_ramp(4, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.png", exif=exif)
    found = Preprocessing(4, None, **PLAIN)(tmp_path / "turned.png")[0]
    assert found[:, 0, 1].tolist() == [2, 3, 4, 5]  # columns run downwards now
    grey = Preprocessing(4, None, **PLAIN).with_channels(1)
    assert grey(tmp_path / "turned.png").shape == (1, 4, 4, 1)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_each_of_other_channels_is_resized_by_itself(channels):
    image = np.random.default_rng(0).integers(0, 256, (9, 12, channels), np.uint8)
    image[..., -1] = 0  # where a fourth is transparency the others would vanish
    found = Preprocessing(5, 6, **PLAIN).with_channels(channels)(image)[0]
    one = Preprocessing(5, 6, **PLAIN).with_channels(1)
    for k in range(channels):
        np.testing.assert_array_equal(found[..., k], one(image[..., k : k + 1])[0, ..., 0])


def test_files_are_refused_where_a_model_takes_other_channels(tmp_path):
    with pytest.raises(SourceError, match=r"the model takes 4\. Give arrays, uint8 \[B,H,W,4\]"):
        Preprocessing(5, 6, **PLAIN).with_channels(4)(tmp_path / "a.png")


def test_of_16_bits_the_upper_8_are_kept(tmp_path):
    levels = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    found = Preprocessing(8, None, **PLAIN)(tmp_path / "a.png")[0]
    np.testing.assert_array_equal(found, np.repeat((levels >> 8)[..., None], 3, axis=2))
    Image.fromarray(levels.astype(np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(SourceError, match="floating-point pixels"):
        Preprocessing(8, None, **PLAIN)(tmp_path / "b.tiff")


def test_other_channels_take_the_means():
    steps = Preprocessing(4, None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    one = steps.with_channels(1)
    assert one.mean == pytest.approx((0.449,))
    assert one.std == pytest.approx((0.226,))
    assert steps.with_channels(3) is steps


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [(248, 384, 425), (None, 384, None), ((224, 224), 384, (384, 384)), (256, 112, 128)],
)
def test_another_side_keeps_what_is_cut_off(resize, size, expected):
    steps = Preprocessing(224, resize).at(size)
    assert (steps.size, steps.resize) == (size, expected)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), ["float32 [2, 4, 4, 3]", "uint8 [B,H,W,3]"]),
        (np.zeros((2, 4, 4, 1), np.uint8), ["uint8 [2, 4, 4, 1]"]),
        (np.zeros((4, 4), np.uint8), ["[4, 4]"]),
        ("nowhere.png", ["nowhere.png", "No such file"]),
    ],
)
def test_what_is_no_picture_is_refused(images, words):
    with pytest.raises(SourceError) as error:
        Preprocessing(4, 4)(images)
    assert all(word in str(error.value) for word in words)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(_ramp(40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SourceError, match=r"cut\.png cannot be read as an image"):
        Preprocessing(4, 4)(path)
