"""Random resized crops and colour jitter beside what torchvision itself made of the same images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import common
from jax_train.data.boxes import DRAWS, TRIES, draw_boxes
from jax_train.engine import augment, checks
from jax_train.engine.augment import colour, operations, resample
from jax_train.engine.augment.resample import resize_boxes
from jax_train.errors import UserError
from tests.jax_train.engine.augment import torchvision_reference as reference

MEAN, STD = (0.0,) * 3, (1.0,) * 3
resized = jax.jit(resize_boxes, static_argnums=(2, 3))
jitter = jax.jit(colour.jitter)


@pytest.fixture(scope="module")
def stored():
    return np.load(reference.FILE)


def settings(**fields):
    config = common.get_config().augment
    config.update(fields)
    return config


def build(**fields):
    return augment.Augmentation(*map(jax.jit, augment.build(settings(**fields), MEAN, STD)))


def make_keys(count, seed=5):
    return jax.random.split(jax.random.key(seed), count)


def to_bytes(images):
    return np.rint(np.asarray(images) * 255).astype(np.uint8)


def assert_within_a_level(got, expected, equal):
    difference = np.abs(np.asarray(got, np.int32) - expected)
    assert difference.max() <= 1
    assert (difference == 0).mean() > equal


# Boxes


def box_in_plain_words(draws, height, width, area, aspect):
    """`RandomResizedCrop.get_params` of torchvision, with the numbers that it would draw."""
    for share, ratio in draws[:TRIES].tolist():
        target = height * width * (area[0] + (area[1] - area[0]) * share)
        low, high = math.log(aspect[0]), math.log(aspect[1])
        ratio = math.exp(low + (high - low) * ratio)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            top, left = draws[TRIES].tolist()
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    ratio, w, h = width / height, width, height
    if ratio < aspect[0]:
        h = round(w / aspect[0])
    elif ratio > aspect[1]:
        w = round(h * aspect[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    ("height", "width", "area", "aspect"),
    [
        (31, 43, (0.08, 1.0), (3 / 4, 4 / 3)),
        (43, 31, (0.9, 1.0), (3 / 4, 4 / 3)),  # many a draw does not fit
        (13, 61, (0.9, 1.0), (3 / 4, 4 / 3)),  # none fits: the centre, too wide
        (61, 13, (0.9, 1.0), (3 / 4, 4 / 3)),  # and too high
        (29, 29, (1.0, 1.0), (1.0, 1.0)),
    ],
)
def test_boxes_are_those_of_the_definition(height, width, area, aspect):
    draws = np.random.default_rng(0).random((300, *DRAWS), np.float32)
    got = draw_boxes(draws, height, width, area, aspect)
    expected = [box_in_plain_words(one, height, width, area, aspect) for one in draws]
    np.testing.assert_array_equal(got, expected)
    of_jax = draw_boxes(jnp.asarray(draws), height, width, area, aspect, xp=jnp)
    assert (np.asarray(of_jax) == got).all(-1).mean() > 0.99  # a last bit may round otherwise
    assert of_jax.dtype == got.dtype == np.int32


def test_boxes_are_distributed_as_torchvisions(stored, monkeypatch):
    drawn = []
    monkeypatch.setattr(operations, "resize_boxes", lambda images, boxes, *_: drawn.append(boxes))
    config = settings(random_resized_crop=reference.AREA, aspect_ratio=reference.ASPECT)
    images = jnp.zeros((4000, reference.HEIGHT, reference.WIDTH, 1), jnp.uint8)
    operations.OPERATIONS["random_resized_crop"](config)(images, None, make_keys(4000))
    figures = []
    for boxes in (np.asarray(drawn[0], float), stored["boxes"].astype(float)):
        top, left, height, width = boxes.T
        free = np.maximum(reference.HEIGHT - height, 1), np.maximum(reference.WIDTH - width, 1)
        figures.append((height * width, width / height, top / free[0], left / free[1], top, left))
    for name, ours, theirs in zip(
        ("area", "aspect", "row", "column", "top", "left"), *figures, strict=True
    ):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3, name


# Pixels


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_a_resized_box_is_torchvisions_to_one_level(stored, name):
    boxes = jnp.asarray(reference.BOXES)
    for image, expected in zip(reference.images(), stored[name], strict=True):
        images = jnp.broadcast_to(image, (len(boxes), *image.shape))
        got = resized(images, boxes, reference.SIZE, name)
        assert got.dtype == jnp.uint8
        assert_within_a_level(got, expected, 0.97)


def test_sums_of_a_resized_box_are_exact_in_any_order():
    """Layouts of devices agree to the bit: it is what whole numbers come to."""
    images, boxes = reference.images(), np.array([(3, 5, 28, 31), (1, 0, 30, 43)])
    got = resized(jnp.asarray(images), jnp.asarray(boxes), (16, 32), "bicubic")
    kernel, pixels = resample.KERNELS["bicubic"], images.astype(np.int64)
    for axis, size in ((1, 32), (0, 16)):
        place = boxes[:, axis], boxes[:, axis + 2], size, images.shape[axis + 1], kernel
        weights = np.asarray(jax.jit(resample._weights, static_argnums=(2, 3, 4))(*place)) * 2**14
        np.testing.assert_array_equal(weights, np.rint(weights))
        sums = "bow,bhwc->bhoc" if axis else "boh,bhwc->bowc"
        pixels = np.einsum(sums, weights.astype(np.int64), pixels) + 2**13 >> 14
        pixels = pixels.clip(0, 255)
    np.testing.assert_array_equal(got, pixels)


@pytest.mark.parametrize("name", list(reference.FACTORS))
def test_a_change_of_colour_is_torchvisions_to_one_level(stored, name):
    factors = jnp.array(reference.FACTORS[name])
    order = jnp.zeros((len(factors), 1), int)
    for image, expected in zip(reference.images(), stored[name], strict=True):
        images = jnp.broadcast_to(image, (len(factors), *image.shape))
        got = jitter(images, {name: factors}, order)
        assert got.dtype == jnp.uint8
        assert_within_a_level(got, expected, 0.995)
        unit = jitter(images / jnp.float32(255), {name: factors}, order)
        # Not cut down to bytes, neither the picture nor its grey one.
        assert np.abs(np.asarray(unit) * 255 - expected).max() < 2.5


def test_changes_of_colour_in_any_order_are_torchvisions(stored):
    orders = jnp.array(reference.ORDERS)
    factors = {
        name: jnp.full(len(orders), factor)
        for name, factor in zip(colour.CHANGES, reference.IN_ORDER, strict=True)
    }
    for image, expected in zip(reference.images(), stored["orders"], strict=True):
        images = jnp.broadcast_to(image, (len(orders), *image.shape))
        got = np.asarray(jitter(images, factors, orders), np.int32)
        difference = np.abs(got - expected)
        assert difference.max() <= 2  # a level of an early change grows in the later ones
        assert (difference == 0).mean() > 0.95


def test_grey_images_change_in_brightness_and_contrast_only():
    images = jnp.asarray(reference.images()[:, :, :, :1])
    turned = jitter(
        images,
        {"saturation": jnp.array([0.1, 1.9]), "hue": jnp.array([0.2, -0.2])},
        jnp.array([[0, 1], [1, 0]]),
    )
    np.testing.assert_array_equal(turned, images)
    flat = jitter(images, {"contrast": jnp.zeros(2)}, jnp.zeros((2, 1), int))
    assert len(np.unique(flat[0])) == len(np.unique(flat[1])) == 1


def test_factors_and_orders_are_drawn_as_torchvisions(monkeypatch):
    drawn = []
    monkeypatch.setattr(colour, "jitter", lambda *given: drawn.append(given[1:]))
    images = jnp.zeros((3000, 2, 2, 3), jnp.uint8)
    spans = {"brightness": (0.6, 1.4), "contrast": (0, 2.5), "saturation": (0.8, 1.2)}
    spans["hue"] = (-0.1, 0.1)
    change = operations.OPERATIONS["color_jitter"](settings(color_jitter=(0.4, 1.5, 0.2, 0.1)))
    change(images, None, make_keys(3000))
    factors, order = drawn[0]
    for name, (low, high) in spans.items():
        assert stats.kstest(factors[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    _, counts = np.unique(np.asarray(order), axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3
    flips = np.asarray(operations._draw_flips(make_keys(3000)))  # from the same keys
    for values in (*factors.values(), order[:, 0]):
        table = stats.contingency.crosstab(np.asarray(values) > np.median(values), flips).count
        assert stats.chi2_contingency(table).pvalue > 1e-3
    operations.OPERATIONS["color_jitter"](settings(color_jitter=(0.4, 0, 0, 0.1)))(
        images, None, make_keys(3000)
    )
    assert list(drawn[1][0]) == ["brightness", "hue"]  # and they are as before
    np.testing.assert_array_equal(drawn[1][0]["hue"], factors["hue"])
    assert operations.OPERATIONS["color_jitter"](settings(color_jitter=(0, 0, 0, 0))) is None


# In the pipeline

EVERYTHING = {"random_resized_crop": (0.2, 1.0), "crop_size": 11, "flip": True}
EVERYTHING |= {"color_jitter": (0.4, 0.4, 0.4, 0.1)}


def test_training_crops_flips_and_changes_colours_in_this_order():
    images, keys = jnp.asarray(reference.images()).repeat(5, 0), make_keys(10)
    got = build(**EVERYTHING).train(images, None, keys)[0]
    for name in ("random_resized_crop", "flip", "color_jitter"):
        images = operations.OPERATIONS[name](settings(**EVERYTHING))(images, None, keys)[0]
        if name == "random_resized_crop":
            assert images.shape == (10, 11, 11, 3)
            cropped = build(**EVERYTHING).train_cropped(images, None, keys)[0]
    np.testing.assert_array_equal(to_bytes(got), images)
    np.testing.assert_array_equal(cropped, got)  # what is cropped before is flipped and changed


def test_evaluation_resizes_and_takes_the_centre():
    images = jnp.asarray(reference.images())
    got = to_bytes(build(**EVERYTHING).evaluate(images))
    np.testing.assert_array_equal(got, images[:, 10:21, 16:27])
    resized = build(resize=24, **EVERYTHING)
    whole = build(resize=24).evaluate(images)
    np.testing.assert_array_equal(resized.evaluate(images), whole[:, 6:17, 6:17])  # 6.5: even
    # Training takes its boxes from the images themselves, as they are.
    keys = make_keys(2)
    straight = build(**EVERYTHING).train(images, None, keys)[0]
    np.testing.assert_array_equal(resized.train(images, None, keys)[0], straight)


def test_a_crop_size_alone_is_a_random_crop():
    places = np.arange(7 * 9, dtype=np.uint8).reshape(1, 7, 9, 1).repeat(3, -1)
    images = jnp.asarray(places).repeat(3000, 0)
    for padding, most in ((0, (2, 4)), (1, (4, 6))):
        train = build(crop_size=5, crop_padding=padding, flip=True).train
        got = to_bytes(train(images, None, make_keys(3000))[0])
        middle = got[:, 2, 2, 0]
        rows, columns = middle // 9 - 2 + padding, middle % 9 - 2 + padding
        cells = np.bincount(rows * (most[1] + 1) + columns, minlength=0)
        assert len(cells) == (most[0] + 1) * (most[1] + 1)
        assert stats.chisquare(cells).pvalue > 1e-3
    never = build(crop_size=5, crop_probability=0.0)
    np.testing.assert_array_equal(
        never.train(images[:2], None, make_keys(2))[0], never.evaluate(images[:2])
    )


def test_an_image_depends_on_its_own_key_only():
    images, keys = jnp.asarray(reference.images()).repeat(6, 0), make_keys(12)
    augmentation = build(**EVERYTHING)

    def train(images, keys):
        return augmentation.train(images, None, keys)[0]

    whole = np.asarray(train(images, keys))
    np.testing.assert_array_equal(train(images[4:9], keys[4:9]), whole[4:9])
    with jax.enable_x64(True):
        got = train(images, keys)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(to_bytes(got), to_bytes(whole))


def test_sizes_that_do_not_fit():
    assert checks.output_size(settings(crop_size=5), 7, 11) == (5, 5)
    assert checks.output_size(settings(crop_size=9, resize=12), 7, 11) == (9, 9)
    with pytest.raises(UserError, match=r"crop_size=8: expected at most 7 for images of 11x7 .*"):
        checks.output_size(settings(crop_size=8), 11, 7)
    with pytest.raises(UserError, match=r"crop_padding=5: expected less than 5"):
        checks.output_size(settings(crop_size=5, crop_padding=5), 7, 7)
    of_four = augment.build(settings(color_jitter=(0.1, 0, 0, 0)), (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(UserError, match=r"color_jitter=.*images of 4 channels: it is for grey"):
        of_four.train(jnp.zeros((1, 3, 3, 4), jnp.uint8), None, make_keys(1))
