"""Mixup and CutMix: timm's formulas in NumPy, the draws' distributions, and what pairs are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import common
from jax_train.engine import metrics
from jax_train.engine.augment import Place, mixing, operations

HEIGHT, WIDTH, CLASSES = 13, 11, 5
MODES = ("batch", "pair", "elem")


def make_keys(count, seed=5):
    return jax.random.split(jax.random.key(seed), count)


def random_images(count, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, HEIGHT, WIDTH, 3)).astype(np.float32)


def settings(**fields):
    config = common.get_config().augment
    config.update(fields)
    return config


@functools.lru_cache
def operation(**fields):
    """The mixing of a config, compiled: (images, labels, keys, step) -> images and shares."""
    mix = operations.OF_NORMALISED["mix"](settings(**fields), operations.Facts(None, CLASSES))
    return jax.jit(lambda images, labels, keys, step: mix(images, labels, keys, Place(3, step, 10)))


def by_timm(images, shares, box_of, share_of):
    """`timm.data.Mixup` of one pair after the other, with a neighbour for a partner."""
    mixed, targets = images.copy(), shares.copy()
    for i in range(len(images)):
        j, share, (top, left, height, width) = i ^ 1, share_of[i], box_of[i]
        if height and width:
            rows, columns = slice(top, top + height), slice(left, left + width)
            mixed[i, rows, columns] = images[j, rows, columns]
            share = 1 - height * width / (HEIGHT * WIDTH)
        else:
            mixed[i] = share * images[i] + (1 - share) * images[j]
        targets[i] = share * shares[i] + (1 - share) * shares[j]
    return mixed, targets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alphas", [(0.8, 1.0), (0.4, 0.0), (0.0, 0.7)])
def test_images_and_targets_are_mixed_as_by_timm(mode, alphas):
    images, keys, batch_key = random_images(24), make_keys(24), jax.random.key(9)
    shares = np.eye(CLASSES, dtype=np.float32)[np.arange(24) % CLASSES]
    how = mixing.Mixing(*alphas, 0.9, 0.5, mode)
    got = jax.jit(how.mix)(images, shares, keys, batch_key, True)
    sources = {"batch": [batch_key] * 24, "pair": [keys[i - i % 2] for i in range(24)]}
    drawn = jax.jit(how.draw((HEIGHT, WIDTH)))
    share, box = zip(*(drawn(key) for key in sources.get(mode, keys)), strict=True)
    expected = by_timm(images, shares, np.array(box), np.array(share))
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(got[1].sum(-1), 1, rtol=1e-6)
    if mode != "batch":  # small boxes of even sides have few different areas
        assert len({float(x) for x in share}) > (6 if mode == "pair" else 12)


def bounds_by_timm(share, centre):
    """`timm.data.mixup.rand_bbox` with the centre that it would draw."""
    whole, centre = np.array([HEIGHT, WIDTH]), np.array(centre)
    sides = (whole * np.sqrt(1 - share)).astype(int)
    low, high = np.clip(centre - sides // 2, 0, whole), np.clip(centre + sides // 2, 0, whole)
    return np.array([*low, *(high - low)])


def test_a_box_is_timms():
    random = np.random.default_rng(2)
    whole = np.array([HEIGHT, WIDTH], np.int32)
    box = jax.jit(functools.partial(mixing._box, whole=whole))
    for share, *centre in random.random((200, 3), np.float32):
        place = [int(c * side) for c, side in zip(centre, whole, strict=True)]
        np.testing.assert_array_equal(box(share, jnp.array(centre)), bounds_by_timm(share, place))
    assert not box(np.float32(1), jnp.array([0.3, 0.6]))[2:].any()


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 3.0])
def test_shares_are_of_the_beta_distribution(alpha):
    how = mixing.Mixing(alpha, 0.0, 0.75, 0.5, "elem")
    share, box = jax.jit(jax.vmap(how.draw((HEIGHT, WIDTH))))(make_keys(6000))
    mixed = np.asarray(share)[np.asarray(share) < 1]
    tolerance = 0.06 if alpha == 0.1 else 0.0  # a share may round to 1
    assert abs(len(mixed) / 6000 - 0.75) < 0.024 + tolerance
    if alpha > 0.1:
        assert stats.kstest(mixed, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert not np.asarray(box).any()


def test_cutmix_and_mixup_change_by_their_odds():
    how = mixing.Mixing(0.8, 1.0, 1.0, 0.3, "elem")
    _, box = jax.jit(jax.vmap(how.draw((224, 224))))(make_keys(6000))
    cut = (np.asarray(box)[:, 2] > 0).mean()
    assert abs(cut - 0.3) < 4 * np.sqrt(0.21 / 6000) + 0.01


def test_a_pair_is_in_one_part_and_on_one_device():
    """However a batch is divided into even parts, the images and targets are the same."""
    images, labels, keys = random_images(24), np.arange(24) % CLASSES, make_keys(24)
    for mode in MODES:
        mix = operation(mixup=0.8, cutmix=1.0, mix_mode=mode)
        whole = mix(images, labels, keys, 4)
        for start in (0, 6, 18):
            part = slice(start, start + 6)
            got = mix(images[part], labels[part], keys[part], 4)
            for ours, theirs in zip(got, whole, strict=True):
                np.testing.assert_array_equal(ours, theirs[part])
        other = mix(images, labels, make_keys(24, 6), 5)
        assert (other[0] != whole[0]).any()


def test_nothing_is_mixed_from_an_epoch_on():
    images, labels, keys = random_images(8), np.arange(8) % CLASSES, make_keys(8)
    mix = operation(mixup=0.8, mix_off_epoch=2)
    on, off = mix(images, labels, keys, 19), mix(images, labels, keys, 20)  # 10 steps an epoch
    assert (on[0] != images).any()
    np.testing.assert_array_equal(off[0], images)
    np.testing.assert_array_equal(off[1], np.eye(CLASSES)[labels])


def test_label_smoothing_of_shares_is_timms():
    """It smooths both targets of a pair, and then mixes them."""
    random = np.random.default_rng(4)
    logits, labels = random.normal(size=(6, CLASSES)).astype(np.float32), np.arange(6) % CLASSES
    share, hot = 0.3, np.eye(CLASSES)
    smooth = 0.9 * hot + 0.1 / CLASSES
    targets = share * smooth[labels] + (1 - share) * smooth[labels[::-1]]
    expected = -(targets * np.asarray(jax.nn.log_softmax(logits))).sum(-1)
    mixed = share * hot[labels] + (1 - share) * hot[labels[::-1]]
    got = metrics.cross_entropy(jnp.asarray(logits), jnp.asarray(mixed, jnp.float32), 0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
