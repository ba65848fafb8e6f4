"""What is erased and cut out: the draw of torchvision and timm in plain words, and a square."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_train.data.boxes import DRAWS, TRIES, draw_holes
from jax_train.engine.augment import erasing

HEIGHT, WIDTH = 13, 19
AREA, ASPECT = (0.02, 1 / 3), (0.3, 10 / 3)


def make_keys(count, seed=5):
    return jax.random.split(jax.random.key(seed), count)


def hole_in_plain_words(draws, height, width, area, aspect):
    """`RandomErasing.get_params` of torchvision, with the numbers that it would draw."""
    for share, ratio in draws[:TRIES].tolist():
        target = height * width * (area[0] + (area[1] - area[0]) * share)
        low, high = -math.log(aspect[1]), -math.log(aspect[0])
        ratio = math.exp(-(low + (high - low) * ratio))
        h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if w < width and h < height:
            top, left = draws[TRIES].tolist()
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    return 0, 0, 0, 0


@pytest.mark.parametrize(
    ("area", "aspect"), [(AREA, ASPECT), ((0.9, 1.0), (0.5, 2.0)), ((1.0, 1.0), (1.0, 1.0))]
)
def test_holes_are_those_of_the_definition(area, aspect):
    draws = np.random.default_rng(0).random((300, *DRAWS), np.float32)
    got = draw_holes(draws, HEIGHT, WIDTH, area, aspect)
    expected = [hole_in_plain_words(one, HEIGHT, WIDTH, area, aspect) for one in draws]
    np.testing.assert_array_equal(got, expected)
    of_jax = draw_holes(jnp.asarray(draws), HEIGHT, WIDTH, area, aspect, xp=jnp)
    assert (np.asarray(of_jax) == got).all(-1).mean() > 0.99  # a last bit may round otherwise
    assert (got[:, 2] == 0).any() == (area[0] > 0.5)


def erased(mode, probability=0.7, count=2000):
    images = jnp.full((count, HEIGHT, WIDTH, 3), 9.0)
    erase = jax.jit(
        lambda images, keys: erasing.erase(images, keys, probability, AREA, ASPECT, mode)
    )
    return np.asarray(erase(images, make_keys(count)))


def box_of(image):
    """The rectangle that is not as it was."""
    changed = (image != 9).any(-1)
    rows, columns = changed.any(1), changed.any(0)
    assert (changed == rows[:, None] & columns).all()
    assert rows.sum() == 1 + np.ptp(np.flatnonzero(rows))
    return changed


def test_some_images_lose_a_box():
    got = erased("const")
    done = (got != 9).any((1, 2, 3))
    assert abs(done.mean() - 0.7) < 4 * np.sqrt(0.21 / 2000)
    for image in got[done][:50]:
        assert (image[box_of(image)] == 0).all()
    area = (got[done] == 0).all(-1).mean((1, 2))
    assert area.max() < 0.4
    assert (
        stats.kstest(area, stats.uniform(0.02, 1 / 3 - 0.02).cdf).statistic < 0.06
    )  # whole pixels


def test_a_box_is_filled_by_a_colour_or_by_noise():
    for mode, distinct in (("rand", 1), ("pixel", 10)):
        got = erased(mode, 1.0, 300)
        filled = [image[box_of(image)] for image in got]
        large = [colours for colours in filled if len(colours) > 20]
        assert all((len(np.unique(c, axis=0)) > 10) == (distinct > 1) for c in large)
        assert all(len(np.unique(c, axis=0)) == 1 for c in large) == (distinct == 1)
        first = np.stack([colours[0] for colours in filled]).ravel()
        assert stats.kstest(first, "norm").pvalue > 1e-3


def test_a_square_is_cut_out_wholly_inside():
    images = jnp.full((3000, HEIGHT, WIDTH, 3), 9.0)
    cut = jax.jit(erasing.cut_out, static_argnums=2)
    got = np.asarray(cut(images, make_keys(3000), 5))
    assert ((got == 0).all(-1).sum((1, 2)) == 25).all()
    corners = (got[..., 0] == 0).reshape(3000, -1).argmax(1)
    counts = np.bincount(corners, minlength=HEIGHT * WIDTH)
    assert (counts > 0).sum() == (HEIGHT - 4) * (WIDTH - 4)
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3
    assert not np.asarray(cut(images[:2], make_keys(2), HEIGHT))[:, :, :WIDTH].all()
