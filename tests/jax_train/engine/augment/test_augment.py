"""Augmentation: torchvision's definitions in numpy and torch, and the statistics of the draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import common
from jax_train.engine import augment, checks
from jax_train.engine.augment import geometry, operations
from jax_train.errors import UserError
from tests import xla
from tests.with_torch import torch

pytestmark = pytest.mark.newest
SIZES = [(11, 11), (7, 13), (13, 8), (6, 10)]  # odd, even, mixed; non-square both ways
MEAN, STD = (0.31, 0.47, 0.59), (0.23, 0.19, 0.29)


def random_images(batch, height, width, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (batch, height, width, channels), dtype=np.uint8)


def make_keys(count, seed=5):
    return jax.random.split(jax.random.key(seed), count)


def settings(**fields):
    config = common.get_config().augment
    config.update(fields)
    return config


def build(**fields):
    train, evaluate, _ = augment.build(settings(**fields), MEAN, STD)
    of_images = jax.jit(lambda images, keys: train(images, None, keys)[0])
    return augment.Augmentation(of_images, jax.jit(evaluate))


def operation(name, images, keys, **fields):
    """The images that one operation of a config makes."""
    return operations.OPERATIONS[name](settings(**fields))(images, None, keys)[0]


def position_images(batch, height, width):
    """Every pixel holds its own place, so that an output shows where it came from."""
    places = np.arange(1, 1 + height * width, dtype=np.int32).reshape(1, height, width, 1)
    return np.tile(places, (batch, 1, 1, 1))


# The deterministic parts


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_crop_is_torchvisions(height, width):
    padding = 3
    images = random_images(53, height, width)
    offsets = np.random.default_rng(1).integers(0, 2 * padding + 1, (53, 2))
    offsets[:4] = [(0, 0), (0, 6), (6, 0), (6, 6)]  # the four corners
    got = augment.crop_at(jnp.asarray(images), jnp.asarray(offsets), padding)
    for image, (row, column), out in zip(images, offsets, got, strict=True):
        padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
        np.testing.assert_array_equal(out, padded[row : row + height, column : column + width])


def test_crop_in_the_middle_changes_nothing():
    images = random_images(3, 7, 11)
    got = augment.crop_at(jnp.asarray(images), jnp.full((3, 2), 2), 2)
    np.testing.assert_array_equal(got, images)


def test_flip_mirrors_the_columns_of_the_chosen_images():
    images = random_images(5, 7, 11)
    mask = np.array([True, False, False, True, True])
    got = augment.flip_where(jnp.asarray(images), jnp.asarray(mask))
    expected = [np.fliplr(im) if flip else im for im, flip in zip(images, mask, strict=True)]
    np.testing.assert_array_equal(got, np.stack(expected))


def source_coordinates(height, width, degrees):
    """torchvision's inverse map in float64: where each output pixel comes from, in pixels."""
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    rows = np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2
    columns = np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2
    return rows, columns


def rotate_in_numpy(image, degrees):
    height, width = image.shape[:2]
    rows, columns = (np.rint(c).astype(int) for c in source_coordinates(height, width, degrees))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    out = np.zeros_like(image)
    out[inside] = image[rows[inside], columns[inside]]
    return out


def rotate_in_torch(image, degrees):
    """As `torchvision.transforms.functional.rotate` (nearest, no expansion) on one image."""
    height, width = image.shape[:2]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    # affine_grid works in coordinates scaled to [-1, 1] on both axes, hence the ratios.
    theta = [[cos, -sin * height / width, 0], [sin * width / height, cos, 0]]
    source = torch.tensor(image.astype(np.float64)).permute(2, 0, 1)[None]
    theta = torch.tensor([theta], dtype=torch.float64)
    grid = torch.nn.functional.affine_grid(theta, source.shape, align_corners=False)
    out = torch.nn.functional.grid_sample(
        source, grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return out[0].permute(1, 2, 0).numpy().astype(image.dtype)


@pytest.mark.parametrize("reference", [rotate_in_numpy, rotate_in_torch])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rotation_is_torchvisions(height, width, reference):
    images = random_images(41, height, width)
    angles = np.random.default_rng(3).uniform(-180, 180, 41).astype(np.float32)
    angles[:20] /= 20  # small ones too
    got = np.asarray(augment.rotate_by(jnp.asarray(images), jnp.asarray(angles)))
    near_ties = 0
    for image, angle, out in zip(images, angles, got, strict=True):
        coordinates = np.stack(source_coordinates(height, width, angle))
        # Half-way between two pixels the last bit decides: nothing is asserted there.
        tie = (np.abs(coordinates % 1 - 0.5) < 1e-5).any(0)
        near_ties += tie.sum()
        np.testing.assert_array_equal(out[~tie], reference(image, angle)[~tie])
    assert near_ties <= 2


def test_rotation_by_ninety_degrees_is_counter_clockwise():
    images = random_images(2, 11, 11)
    got = augment.rotate_by(jnp.asarray(images), jnp.array([90.0, -90.0]))
    np.testing.assert_array_equal(got[0], np.rot90(images[0]))
    np.testing.assert_array_equal(got[1], np.rot90(images[1], -1))


def test_rotation_sends_a_half_way_coordinate_to_the_even_pixel():
    # 2 x 5 turned by 90 degrees: source rows are x + 1/2 and columns 2 - y, with x from -2 to 2
    # and y = -+1/2, all half-way. Rows become -2, 0, 0, 2, 2 and columns 2, 2.
    image = position_images(1, 2, 5)
    got = augment.rotate_by(jnp.asarray(image), jnp.array([90.0]))
    row = np.array([0, image[0, 0, 2, 0], image[0, 0, 2, 0], 0, 0])
    np.testing.assert_array_equal(got[0, :, :, 0], np.stack([row, row]))


def resize_in_numpy(images, size):
    """Triangle filter, widened when shrinking, weights normalised at the border (Pillow's)."""

    def weights(old):
        scale = old / size
        centres = (np.arange(size)[:, None] + 0.5) * scale
        distance = np.abs(np.arange(old)[None] + 0.5 - centres) / max(scale, 1)
        triangle = np.maximum(1 - distance, 0)
        return triangle / triangle.sum(1, keepdims=True)

    return np.einsum("sh,bhwc,tw->bstc", weights(images.shape[1]), images, weights(images.shape[2]))


@pytest.mark.parametrize("size", [5, 13, 29])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_is_torchvisions(height, width, size):
    images = random_images(3, height, width).astype(np.float32) / 255
    got = augment.resize(jnp.asarray(images), size)
    reference = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2), (size, size), mode="bilinear", antialias=True
    )
    assert got.shape == (3, size, size, 3)
    np.testing.assert_allclose(got, resize_in_numpy(images, size), atol=2e-6)
    np.testing.assert_allclose(got, reference.permute(0, 2, 3, 1), atol=2e-6)


def test_normalise_is_per_channel():
    images = np.random.default_rng(0).random((2, 3, 5, 3), dtype=np.float32)
    got = augment.normalise(jnp.asarray(images), MEAN, STD)
    np.testing.assert_allclose(got, (images - np.array(MEAN)) / np.array(STD), atol=1e-6)
    assert got.dtype == jnp.float32


# The draws


def test_crop_offsets_are_uniform_and_independent():
    padding, count = 2, 5000
    images = position_images(count, 7, 11)
    got = np.asarray(operation("crop", images, make_keys(count), crop_padding=padding))
    place = got[:, 3, 5, 0] - 1  # the middle pixel never leaves the picture
    rows, columns = place // 11 - 3, place % 11 - 5
    assert rows.min() == columns.min() == -padding
    assert rows.max() == columns.max() == padding
    cells = np.bincount((rows + padding) * 5 + columns + padding, minlength=25)
    assert stats.chisquare(cells).pvalue > 1e-3


def test_crop_probability_is_the_share_of_shifted_images():
    padding, count, share = 3, 4000, 0.3
    images = position_images(count, 7, 11)
    got = np.asarray(
        operation("crop", images, make_keys(count), crop_padding=padding, crop_probability=share)
    )
    changed = (got != images).any((1, 2, 3)).mean()
    expected = share * (1 - 1 / 49)  # one of the 49 shifts is no shift
    assert abs(changed - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    assert operations.OPERATIONS["crop"](settings(crop_padding=2, crop_probability=0.0)) is None


def test_flip_takes_half_of_the_images():
    images = position_images(4000, 2, 3)
    got = np.asarray(operation("flip", images, make_keys(4000), flip=True))
    flipped = (got != images).any((1, 2, 3))
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    np.testing.assert_array_equal(got[flipped], images[flipped][:, :, ::-1])


def test_rotation_angles_are_uniform_in_the_range(monkeypatch):
    drawn = []
    monkeypatch.setattr(geometry, "rotate_by", lambda images, angles: drawn.append(angles))
    operation("rotate", None, make_keys(3000), rotate_degrees=7.0)
    angles = np.asarray(drawn[0])
    assert stats.kstest(angles, stats.uniform(-7, 14).cdf).pvalue > 1e-3
    assert np.abs(angles).max() <= 7


def test_the_parts_are_drawn_independently(monkeypatch):
    drawn = {}
    for name in ("rotate_by", "flip_where", "crop_at"):

        def record(images, values, *_, name=name):
            drawn[name] = np.asarray(values)
            return images

        monkeypatch.setattr(geometry, name, record)
    config = settings(rotate_degrees=5.0, crop_padding=2, flip=True)
    images = jnp.asarray(random_images(4000, 5, 7))
    augment.build(config, MEAN, STD).train(images, None, make_keys(4000))
    turned, flipped = drawn["rotate_by"] > 0, drawn["flip_where"]
    rows, columns = drawn["crop_at"].T
    pairs = [(turned, flipped), (turned, rows), (turned, columns), (flipped, rows)]
    for first, second in [*pairs, (flipped, columns), (rows, columns)]:
        table = stats.contingency.crosstab(first, second).count
        assert stats.chi2_contingency(table).pvalue > 1e-3
    assert set(rows) == set(columns) == {0, 1, 2, 3, 4}


# The pipeline


EVERYTHING = {"rotate_degrees": 11.0, "crop_padding": 2, "crop_probability": 0.7, "flip": True}


@pytest.mark.parametrize("side", [0, 17])
def test_training_applies_the_parts_in_order(side):
    images, keys = random_images(31, 11, 13), make_keys(31)
    got = build(resize=side, **EVERYTHING).train(images, keys)

    @jax.jit
    def one_by_one(images, keys):
        images = images / jnp.float32(255)
        images = augment.resize(images, side) if side else images
        images = operation("rotate", images, keys, rotate_degrees=11.0)
        images = operation("crop", images, keys, crop_padding=2, crop_probability=0.7)
        images = operation("flip", images, keys, flip=True)
        return augment.normalise(images, MEAN, STD)

    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, one_by_one(images, keys), atol=1e-5)


def test_evaluation_only_resizes_and_normalises():
    images = random_images(3, 11, 13)
    got = build(resize=7, **EVERYTHING).evaluate(images)
    expected = (resize_in_numpy(images / 255, 7) - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_black_padding_comes_before_normalisation():
    images = random_images(23, 7, 11)
    out = np.asarray(build(crop_padding=3).train(jnp.asarray(images), make_keys(23)))
    black = (-np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    padded = np.isclose(out, black, atol=1e-6).all(-1)  # no pixel of the images is 0
    assert padded.any()
    assert padded.mean() < 0.7


def test_one_part_does_not_change_the_draws_of_another():
    images, keys = jnp.asarray(random_images(37, 11, 13)), make_keys(37)
    cropped = build(crop_padding=3).train(images, keys)
    both = build(crop_padding=3, flip=True).train(images, keys)
    mirrored = np.isclose(both, cropped[:, :, ::-1]).all((1, 2, 3))
    np.testing.assert_allclose(both, augment.flip_where(cropped, jnp.asarray(mirrored)))
    assert 0.2 < mirrored.mean() < 0.8


def test_targets_pass_through_and_may_be_soft():
    """Operations see targets of either form; those that move pixels leave them alone."""
    images, keys = jnp.asarray(random_images(5, 11, 13)), make_keys(5)
    train = augment.build(settings(**EVERYTHING), MEAN, STD).train
    for targets in (jnp.arange(5), jnp.full((5, 7), 1 / 7)):
        assert train(images, targets, keys)[1] is targets


def test_without_random_parts_no_random_number_is_made():
    augmentation, images = build(crop_padding=3, crop_probability=0.0), random_images(2, 7, 11)
    np.testing.assert_array_equal(
        augmentation.train(jnp.asarray(images), None), augmentation.evaluate(jnp.asarray(images))
    )
    program = str(jax.make_jaxpr(augmentation.train)(images, make_keys(2)))
    assert "random" not in program
    assert "random" in str(jax.make_jaxpr(build(flip=True).train)(images, make_keys(2)))


def test_an_image_depends_on_its_own_key_only():
    images, keys = jnp.asarray(random_images(24, 11, 13)), make_keys(24)
    train = build(**EVERYTHING).train
    whole = np.asarray(train(images, keys))
    order = np.random.default_rng(2).permutation(24)
    np.testing.assert_array_equal(train(images[order], keys[order]), whole[order])
    np.testing.assert_array_equal(train(images[5:12], keys[5:12]), whole[5:12])
    split = jax.vmap(build(**EVERYTHING).train)(images.reshape(4, 6, 11, 13, 3), keys.reshape(4, 6))
    np.testing.assert_allclose(split.reshape(whole.shape), whole, atol=1e-6)
    same_image = np.asarray(train(jnp.repeat(images[:1], 24, 0), keys))
    assert len(np.unique(same_image.reshape(24, -1), axis=0)) > 20  # keys do differ


def test_the_model_cannot_change_how_its_images_are_rounded():
    images, keys = jnp.asarray(random_images(5, 11, 13)), make_keys(5)
    train, evaluate, _ = augment.build(settings(**EVERYTHING), MEAN, STD)
    for run in (lambda x: train(x, None, keys)[0], evaluate):
        last = jax.make_jaxpr(run)(images).eqns[-1]
        assert last.primitive.name == "optimization_barrier"
    if jax.__version_info__ < (0, 11):
        return  # there the barrier goes before loops are made
    # As users compile, and not as quickly as tests do.
    full = xla.AS_USERS
    with jax.enable_x64(True):
        programs = [evaluate, lambda images: evaluate(images).astype(jnp.float64) @ jnp.eye(3)]
        alone, within = (jax.jit(f).lower(images).compile(full)(images) for f in programs)
    np.testing.assert_array_equal(within, alone)


def test_images_are_the_same_with_float64_enabled():
    images, keys = random_images(29, 11, 13), make_keys(29)
    expected = np.asarray(build(**EVERYTHING).train(jnp.asarray(images), keys))
    with jax.enable_x64(True):
        got = build(**EVERYTHING).train(jnp.asarray(images), keys)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_later_changes_of_the_config_have_no_effect():
    config, images = settings(), jnp.asarray(random_images(2, 7, 11))
    augmentation = augment.build(config, MEAN, STD)
    before = augmentation.evaluate(images)
    config.resize = 5
    np.testing.assert_array_equal(augmentation.evaluate(images), before)


# Sizes and bad values


def test_output_size():
    assert checks.output_size(settings(), 28, 31) == (28, 31)
    assert checks.output_size(settings(resize=72), 28, 31) == (72, 72)


def test_crop_padding_must_be_smaller_than_the_image():
    with pytest.raises(UserError, match=r"crop_padding=7: expected less than 7 for images of 7x11"):
        checks.output_size(settings(crop_padding=7), 7, 11)
    with pytest.raises(UserError, match=r"crop_padding=7"):
        build(crop_padding=7).train(jnp.asarray(random_images(2, 7, 11)), make_keys(2))
    assert checks.output_size(settings(crop_padding=6), 7, 11) == (7, 11)


@pytest.mark.parametrize("std", [(0.2, 0.2), (0.2, 0.0, 0.2)])
def test_measured_statistics_that_cannot_be_used(std):
    with pytest.raises(UserError, match=r"config\.data\.std=\(0\.2, 0\.[02].*: expected"):
        augment.build(settings(), MEAN, std)


def test_wrong_images():
    with pytest.raises(UserError, match=r"config\.data\.mean has 3 entries.* 1 channel:"):
        build().evaluate(jnp.asarray(random_images(2, 7, 11, channels=1)))
    with pytest.raises(TypeError, match="uint8"):
        build().evaluate(jnp.zeros((2, 7, 11, 3)))


# Reflection and alternating flips


def test_a_reflected_border_is_torchvisions():
    images = random_images(53, 7, 11)
    offsets = np.random.default_rng(1).integers(0, 7, (53, 2))
    got = augment.crop_at(jnp.asarray(images), jnp.asarray(offsets), 3, mode="reflect")
    for image, (row, column), out in zip(images, offsets, got, strict=True):
        source = torch.tensor(image).permute(2, 0, 1)[None].float()
        padded = torch.nn.functional.pad(source, (3,) * 4, mode="reflect")[0].permute(1, 2, 0)
        np.testing.assert_array_equal(out, padded[row : row + 7, column : column + 11])
    config = settings(crop_padding=3, crop_mode="reflect")
    shifted = operations.OPERATIONS["crop"](config)(jnp.asarray(images), None, make_keys(53))[0]
    assert (np.asarray(shifted) > 0).all()  # no pixel of the images is 0


def test_alternating_flips_turn_every_image_over_from_epoch_to_epoch():
    images = jnp.asarray(position_images(1000, 2, 3))
    flip = operations.OPERATIONS["flip"](settings(flip=True, flip_mode="alternating"))

    @jax.jit
    def flipped(step, index, seed=3):
        place = augment.Place(seed, step, 10, index)
        return (flip(images[: len(index)], None, None, place)[0] != images[: len(index)]).any(
            (1, 2, 3)
        )

    index = jnp.arange(1000)
    first = np.asarray(flipped(3, index))
    assert abs(first.mean() - 0.5) < 4 * 0.5 / np.sqrt(1000)
    np.testing.assert_array_equal(flipped(9, index), first)  # wherever it stands, in any step
    order = np.random.default_rng(2).permutation(1000)[:70]
    np.testing.assert_array_equal(flipped(0, order), first[order])
    np.testing.assert_array_equal(flipped(10, index), ~first)
    np.testing.assert_array_equal(flipped(25, index), first)


def test_what_follows_normalisation_comes_last_and_behind_a_barrier():
    images, keys = jnp.asarray(random_images(8, 11, 13)), make_keys(8)
    fields = {"cutout": 4, "erase_probability": 1.0, "mixup": 0.8, "flip": True}
    train, evaluate, _ = augment.build(settings(**fields), MEAN, STD, 5)
    place = augment.Place(0, jnp.int32(3), 10)
    labels = jnp.arange(8) % 5
    run = functools.partial(train, place=place)
    assert jax.make_jaxpr(run)(images, labels, keys).eqns[-1].primitive.name == (
        "optimization_barrier"
    )
    got, shares = jax.jit(run)(images, labels, keys)
    assert shares.shape == (8, 5)
    expected = augment.build(settings(flip=True), MEAN, STD).train(images, labels, keys)[0]
    for name in ("erase", "cutout", "mix"):
        made = operations.OF_NORMALISED[name](settings(**fields), operations.Facts(MEAN, 5))
        expected, labels = made(expected, labels, keys, place)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(shares, labels, atol=1e-6)
    plain = augment.build(settings(), MEAN, STD).evaluate(images)
    np.testing.assert_array_equal(evaluate(images), plain)


def test_a_policy_takes_resized_images_as_bytes():
    images, keys = jnp.asarray(random_images(6, 11, 13)), make_keys(6)
    resized = np.asarray(augment.resize(images / jnp.float32(255), 9))
    rounded = jnp.asarray(np.rint(resized * 255).astype(np.uint8))
    config = settings(auto_augment="ra-n1-m9")
    of_floats = augment.build(settings(auto_augment="ra-n1-m9", resize=9), MEAN, STD)
    expected = augment.build(config, MEAN, STD).train(rounded, None, keys)[0]
    np.testing.assert_allclose(of_floats.train(images, None, keys)[0], expected, atol=2e-2)
    with pytest.raises(UserError, match=r"auto_augment='ra-n1-m9': expected '' for images of 4"):
        augment.build(config, (0.5,) * 4, (0.5,) * 4).train(
            jnp.zeros((1, 3, 3, 4), jnp.uint8), None, keys[:1]
        )
    with pytest.raises(UserError, match=r"cutout=8: expected at most 7 for images of 7x11"):
        checks.output_size(settings(cutout=8), 7, 11)
