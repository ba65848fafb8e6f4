"""Dropout: its rate and scale, and that its cheap masks are as good as random ones.

Every test is deterministic (fixed keys). Limits are five standard errors, or a p-value of 1e-5.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from jax_models import dropout, layers
from jax_models.rngs import fold_in, mix
from tests.jax_models.small import COVERED, RATES, SMALL, build, build_mirror, draw_images
from tests.with_torch import torch

with_dropout = pytest.mark.parametrize("name", sorted({name for name, _ in RATES}))
SEEDS = [0, 1, 2**31 - 1]


def mask(key, shape, rate=0.5):
    return np.asarray(dropout.dropout_mask(key, shape, rate))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(1, 2, shape), jnp.float32)


def drop(x, rate, key):
    return dropout.Dropout(rate)(x, train=True, rngs=nnx.Rngs(dropout=key))


def assert_uncorrelated(masks):
    """Any two rows of fair bits [n, positions] agree on half the positions."""
    signs = np.where(masks.reshape(len(masks), -1), 1.0, -1.0)
    z = signs @ signs.T / np.sqrt(signs.shape[1])
    off_diagonal = z[np.triu_indices(len(z), 1)]
    assert np.abs(off_diagonal).max() < 5
    if len(off_diagonal) > 100:
        assert 0.85 < off_diagonal.std() < 1.15  # neither alike nor avoiding each other
    assert np.abs(signs.sum(1)).max() < 5 * np.sqrt(signs.shape[1])


# Rate and scale


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_share_of_dropped_values_is_the_rate(rate, seed):
    kept = mask(jax.random.key(seed), (101, 103, 11), rate)
    test = stats.binomtest(int((~kept).sum()), kept.size, rate)
    assert test.pvalue > 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.75])
def test_values_are_zeroed_or_scaled(rate, dtype):
    x = draw(53, 59).astype(dtype)
    y = drop(x, rate, jax.random.key(0))
    assert (y.shape, y.dtype) == (x.shape, dtype)
    scaled = (x.astype(jnp.float32) / (1 - rate)).astype(dtype)
    np.testing.assert_array_equal(y, jnp.where(y == 0, 0, scaled).astype(dtype))
    assert 0 < (y == 0).sum() < y.size


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_the_mean_is_kept(rate):
    x = draw(101, 1009)
    y = drop(x, rate, jax.random.key(3))
    error = np.sqrt(rate / (1 - rate) * np.square(np.float64(x)).sum())
    assert abs(np.float64(y - x).sum()) < 5 * error


def test_gradient_passes_where_values_are_kept():
    x, weights, key = draw(37, 41), draw(37, 41, seed=1), jax.random.key(5)
    gradient = jax.grad(lambda x: (weights * drop(x, 0.3, key)).sum())(x)
    kept = drop(x, 0.3, key) != 0
    np.testing.assert_allclose(gradient, jnp.where(kept, weights / 0.7, 0), rtol=1e-6)
    assert kept.any()
    assert not kept.all()


# When it does nothing, and when it cannot work


@pytest.mark.parametrize(("rate", "train"), [(0, True), (0.0, True), (0.4, False)])
def test_no_keys_are_needed_when_nothing_is_dropped(rate, train):
    x = draw(5, 7)
    np.testing.assert_array_equal(dropout.Dropout(rate)(x, train=train, rngs=None), x)


def test_rate_zero_draws_no_key():
    rngs = nnx.Rngs(dropout=0)
    dropout.Dropout(0.0)(draw(5, 7), train=True, rngs=rngs)
    assert rngs.dropout.count[...] == 0


@pytest.mark.parametrize("shape", [(1009, 5), (1009, 3, 2), (1009, 2, 3, 5)])
def test_a_branch_is_dropped_whole_by_example(shape):
    x, rngs = draw(*shape), nnx.Rngs(dropout=jax.random.key(0))
    y = layers.DropPath(0.25)(x, train=True, rngs=rngs)
    kept = np.asarray(y).any(axis=tuple(range(1, len(shape))))
    np.testing.assert_array_equal(y[kept], x[kept] / 0.75)
    assert stats.binomtest(int((~kept).sum()), kept.size, 0.25).pvalue > 1e-5
    assert layers.DropPath(0.25)(x, train=False, rngs=None) is x


def test_the_rates_of_branches_rise_with_the_depth():
    assert layers.DropPath.rates(0.3, 4) == pytest.approx((0, 0.1, 0.2, 0.3))
    assert layers.DropPath.rates(0.3, 1) == (0,)
    with pytest.raises(ValueError, match=r"drop_path=1\.5 is not a rate"):
        layers.DropPath.rates(1.5, 4)


@with_dropout
def test_training_without_keys_says_what_to_do(name):
    images = draw_images(name)
    with pytest.raises(ValueError, match=r"rngs=nnx.Rngs\(dropout=key\).*dropout=0"):
        build(name)(images, train=True)


@jax.jit
def both_modes(model, images, rngs):
    """Logits in training and in evaluation."""
    return nnx.clone(model)(images, train=True, rngs=rngs), model(images)


@with_dropout
def test_training_without_dropout_needs_no_keys(name):
    rates = {key: 0.0 for model, key in RATES if model == name}
    model, images = build(name, **rates), draw_images(name)
    trained, evaluated = both_modes(model, images, None)
    if not nnx.state(model, nnx.BatchStat):
        np.testing.assert_array_equal(trained, evaluated)


@pytest.mark.parametrize(("name", "keyword"), RATES)
def test_each_rate_alone_drops_something(name, keyword):
    rates = {key: 0.0 for model, key in RATES if model == name}
    model, images = build(name, **(rates | {keyword: 0.5})), draw_images(name)
    trained, evaluated = both_modes(model, images, nnx.Rngs(dropout=jax.random.key(0)))
    assert jnp.abs(trained - evaluated).max() > 1e-3


@pytest.mark.parametrize("name", COVERED)
def test_dropout_stands_where_the_mirror_has_it(name, monkeypatch):
    """Number of values and rate of each dropout, in the order of the calls."""
    ours, theirs = [], []
    plain_mask, plain_dropout = dropout.dropout_mask, torch.nn.functional.dropout

    def our_mask(key, shape, rate):
        ours.append((math.prod(shape), rate))
        return plain_mask(key, shape, rate)

    def their_dropout(x, p=0.5, *args, **keywords):
        if p:
            theirs.append((x.numel(), p))
        return plain_dropout(x, p, *args, **keywords)

    monkeypatch.setattr(dropout, "dropout_mask", our_mask)
    monkeypatch.setattr(torch.nn.functional, "dropout", their_dropout)
    images = draw_images(name, batch=3)
    keywords = {"train": True, "return_intermediates": True}
    nnx.eval_shape(lambda: build(name)(images, rngs=nnx.Rngs(dropout=0), **keywords))
    build_mirror(name).train()(torch.zeros(images.transpose(0, 3, 1, 2).shape))
    assert ours == theirs
    largest = {SMALL[name].settings[key] for m, key in RATES if m == name}
    assert largest <= {rate for _, rate in ours}  # those of drop_path rise towards it


# What a mask depends on


def test_a_key_always_gives_the_same_mask():
    shape, key = (7, 11, 13), jax.random.key(4)
    compiled = jax.jit(lambda key: dropout.dropout_mask(key, shape, 0.5))
    np.testing.assert_array_equal(mask(key, shape), mask(key, shape))
    np.testing.assert_array_equal(mask(key, shape), compiled(key))


@pytest.mark.parametrize("one_key", [True, False])
def test_the_mask_of_the_first_tokens_does_not_depend_on_how_many_there_are(one_key):
    key = jax.random.key(6) if one_key else jax.random.split(jax.random.key(6), 7)
    np.testing.assert_array_equal(mask(key, (7, 2, 13)), mask(key, (7, 11, 13))[:, :2])
    x = jnp.ones((7, 3, 2, 13))
    dropped = dropout.Dropout(0.5).drop(True, Keys(key))(x, (7, 3, 11, 13))
    np.testing.assert_array_equal(dropped > 0, mask(key, (7, 3, 11, 13))[:, :, :2])


class Keys:
    """Gives one key again and again."""

    def __init__(self, key):
        self.dropout = lambda: key


def test_calls_with_equal_streams_repeat():
    x = draw(7, 11)
    np.testing.assert_array_equal(drop(x, 0.5, jax.random.key(4)), drop(x, 0.5, jax.random.key(4)))


@pytest.mark.parametrize("shape", [(17, 5, 7), (17, 31), (17, 3, 4, 5)])
def test_an_examples_mask_follows_from_its_own_key(shape):
    keys = jax.random.split(jax.random.key(0), 17)
    masks = mask(keys, shape)
    order = np.random.default_rng(0).permutation(17)
    np.testing.assert_array_equal(mask(keys[order], shape), masks[order])
    np.testing.assert_array_equal(mask(keys[5:8], (3, *shape[1:])), masks[5:8])
    np.testing.assert_array_equal(mask(keys[3], (1, *shape[1:]))[0], masks[3])
    assert len({row.tobytes() for row in masks}) == 17


def test_one_key_for_the_batch_gives_examples_different_masks():
    assert len({row.tobytes() for row in mask(jax.random.key(0), (53, 61))}) == 53


# Independence: positions


@pytest.fixture(scope="module", params=SEEDS)
def cube(request):
    """Fair bits [97, 128, 131]."""
    return mask(jax.random.key(request.param), (97, 128, 131))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_autocorrelation_at_any_lag(cube, axis):
    signs = np.moveaxis(np.where(cube, np.float32(1), np.float32(-1)), axis, 0)
    for lag in range(1, 97):
        product = signs[lag:] * signs[:-lag]
        assert abs(product.sum(dtype=np.float64)) < 5 * np.sqrt(product.size), lag


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("stride", [1, 2, 8, 16])
def test_patterns_of_four_bits_are_equally_frequent(cube, axis, stride):
    bits = np.moveaxis(cube, axis, 0).astype(np.uint8)
    # Positions i, i + stride, i + 2 stride, i + 3 stride; every position is used once at most.
    blocks = bits[: len(bits) // (4 * stride) * 4 * stride]
    blocks = blocks.reshape(-1, 4, stride, *bits.shape[1:])
    patterns = np.einsum("apsxy,p->asxy", blocks, np.uint8([1, 2, 4, 8]))
    p = stats.chisquare(np.bincount(patterns.ravel(), minlength=16)).pvalue
    assert 1e-5 < p < 1 - 1e-5


@pytest.mark.parametrize("k", [8, 12])
def test_patterns_of_neighbouring_bits_are_equally_frequent(cube, k):
    bits = cube.ravel()[: cube.size // k * k].reshape(-1, k).astype(np.int64)
    p = stats.chisquare(np.bincount(bits @ 2 ** np.arange(k), minlength=2**k)).pvalue
    assert 1e-5 < p < 1 - 1e-5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_runs_are_as_many_as_chance_makes(cube, axis):
    changes = np.diff(cube.astype(np.int8), axis=axis) != 0
    z = (changes.sum() - changes.size / 2) / np.sqrt(changes.size / 4)
    assert abs(z) < 5
    # And each line along the axis has its own number of them, with the binomial spread.
    by_line = changes.sum(axis)
    assert 0.9 < by_line.var() / (changes.shape[axis] / 4) < 1.1


def test_rows_and_columns_of_a_mask_are_uncorrelated(cube):
    assert_uncorrelated(cube[0])
    assert_uncorrelated(cube[0].T)
    assert_uncorrelated(cube)


# Independence: keys, examples, calls, layers


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_of_neighbouring_keys_are_uncorrelated(seed):
    base = jax.random.key(seed)
    keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(101))
    assert_uncorrelated(mask(keys, (101, 61, 67)))
    assert_uncorrelated(np.stack([mask(key, (61, 67)) for key in keys[:13]]))


def test_masks_of_neighbouring_seeds_are_uncorrelated():
    keys = jax.vmap(jax.random.key)(jnp.arange(101))
    assert_uncorrelated(mask(keys, (101, 61, 67)))


def test_every_bit_of_the_key_changes_half_the_mask():
    rng = np.random.default_rng(0)
    for _ in range(3):
        words = rng.integers(0, 2**32, 2, np.uint32)
        flips = np.stack([np.eye(32, dtype=np.uint32) << np.arange(32, dtype=np.uint32)] * 2)
        changed = [words]
        for word, row in itertools.product((0, 1), range(32)):
            flipped = words.copy()
            flipped[word] ^= flips[word, row].sum(dtype=np.uint32)
            changed.append(flipped)
        keys = jax.random.wrap_key_data(jnp.asarray(np.stack(changed)))
        masks = mask(keys, (65, 4099))
        share = (masks[1:] != masks[0]).mean(1)
        assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(4099)


def test_calls_on_one_stream_are_uncorrelated():
    rngs, layer = nnx.Rngs(dropout=jax.random.key(0)), dropout.Dropout(0.5)
    x = jnp.full((61, 67), 1.7)
    calls = [np.asarray(layer(x, train=True, rngs=rngs) != 0) for _ in range(31)]
    assert_uncorrelated(np.stack(calls))


def test_masks_of_folded_keys_are_uncorrelated():
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(61))
    calls = [mask(fold_in(keys, number), (61, 23, 29)) for number in range(31)]
    assert_uncorrelated(np.stack(calls))
    assert_uncorrelated(np.stack(calls, axis=1))


def test_folded_keys_are_all_different():
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(jnp.arange(211))
    words = [jax.random.key_data(fold_in(keys, number)) for number in range(101)]
    words = np.concatenate([jax.random.key_data(keys), *words])
    assert len(np.unique(words, axis=0)) == len(words)


def test_blocks_and_heads_of_a_model_drop_different_weights():
    model, images = build("vit", dropout=0.5, depth=3), draw_images("vit", batch=41)
    rngs = nnx.Rngs(dropout=jax.random.key(0))
    _, out = model(images, train=True, rngs=rngs, return_intermediates=True)
    kept = np.stack(out["attention"]) != 0  # [blocks,B,h,T,T]
    assert_uncorrelated(kept)
    assert_uncorrelated(np.moveaxis(kept, 2, 0))
    assert_uncorrelated(np.moveaxis(kept, 1, 0))


# The hash


def test_every_input_bit_flips_every_output_bit_half_the_time():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2**32, 2**14, np.uint32))
    counter = jnp.arange(2**14, dtype=jnp.uint32)
    shifts = jnp.arange(32, dtype=jnp.uint32)
    for inputs in (x, counter):
        for bit in range(32):
            difference = mix(inputs) ^ mix(inputs ^ jnp.uint32(1 << bit))
            share = np.asarray((difference[:, None] >> shifts) & 1).mean(0)
            assert np.abs(share - 0.5).max() < 0.05


def test_no_two_inputs_share_a_hash():
    inputs = np.unique(np.random.default_rng(0).integers(0, 2**32, 2**20, np.uint32))
    assert len(np.unique(mix(jnp.asarray(inputs)))) == len(inputs)
