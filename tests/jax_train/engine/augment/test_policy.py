"""Policies beside timm's and torchvision's own: what an operation comes to, and what is chosen."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_train.engine.augment import affine, pixels, policy
from jax_train.engine.policy_names import AutoAugment, TimmRand, TorchRand, TrivialWide, parse
from tests.jax_train.engine.augment import policy_reference as reference
from tests.jax_train.engine.augment.test_pixels import CLOSE

SIZE = reference.HEIGHT, reference.WIDTH
NO_FILL = np.zeros(3, np.uint8)
MEAN = np.array(reference.MEAN)
COUNT = 6000
change = jax.jit(pixels.change, static_argnums=3)


@pytest.fixture(scope="module")
def stored():
    found = dict(np.load(reference.FILE))
    return found | json.loads(str(found.pop("text")))


def make_keys(count, seed=5):
    return jax.random.split(jax.random.key(seed), count)


def draw(name, count=COUNT):
    """What a policy does to images: the changes of its layers, on the host."""
    found = parse(name)
    if isinstance(found, TimmRand):
        drawn = policy._timm(found, None)
    else:
        drawn = policy._TORCHVISION[type(found)](found)
    return jax.device_get(drawn(make_keys(count), SIZE))


def assert_uniform(values, kinds):
    assert set(np.unique(values)) == set(kinds)
    assert stats.chisquare(np.unique(values, return_counts=True)[1]).pvalue > 1e-3


def assert_independent(first, second):
    assert stats.chi2_contingency(stats.contingency.crosstab(first, second).count).pvalue > 1e-3


# What an operation comes to

SPACES = {"auto": policy._Space(10), "rand": policy._Space(31), "wide": policy._WIDE}


@pytest.mark.parametrize("space", SPACES)
def test_an_operation_of_torchvision_comes_to_what_it_makes_of_an_image(stored, space):
    names, magnitudes = stored["names"][space], reference.SPACES[space]
    choices = [(n, m, sign) for n in names for m in magnitudes for sign in reference.SIGNS]
    changes = SPACES[space].rows(np.array(choices, object), SIZE)
    images = jnp.broadcast_to(reference.image(), (len(choices), *SIZE, 3))
    got = np.asarray(change(images, changes, NO_FILL, False), int)
    assert set(names) == set(policy._CHOSEN) ^ (
        {"Identity", "Invert"} if space == "auto" else set()
    )
    expected = stored[space].reshape(got.shape)
    for choice, ours, theirs in zip(choices, got, expected, strict=True):
        assert np.abs(ours - theirs).max() <= (choice[0] in CLOSE), choice
        assert (ours == theirs).mean() > 0.9, choice


@pytest.mark.parametrize("how", reference.FILTERS)
def test_an_operation_of_timm_comes_to_what_it_makes_of_an_image(stored, how):
    for (increasing, level, sign), expected in zip(reference.SETTINGS, stored[how], strict=True):
        names = stored["names"][f"timm{increasing}"]
        found = policy._timm_arguments(
            TimmRand(increasing=bool(increasing)), np.float32(level), np.float32(sign), SIZE
        )
        for name in names:  # ours say nothing of how an argument came about
            assert name.removesuffix("Increasing").removesuffix("Rel") in found
        kind = jnp.array([pixels.NUMBERS[name] for name in found])
        argument = jnp.array([0.0 if x is None else float(x) for x in found.values()], jnp.float32)
        changes = pixels.describe(
            kind, argument, SIZE, affine.filter_bits(*SIZE), how == "bicubic", jnp
        )
        order = [name.removesuffix("Increasing").removesuffix("Rel") for name in names]
        place = [list(found).index(name) for name in order]
        images = jnp.broadcast_to(reference.image(), (len(found), *SIZE, 3))
        fill = np.round(255 * MEAN).astype(np.uint8)
        got = np.asarray(change(images, changes, fill, True), int)[place]
        for name, ours, theirs in zip(order, got, expected, strict=True):
            assert np.abs(ours - theirs).max() <= 1, (name, level, sign)
            assert (ours == theirs).mean() > 0.9, (name, level, sign)


def test_auto_augments_policies_are_torchvisions(stored):
    def ours(text):
        for pair in text.split("; "):
            steps = [step.split() for step in pair.split(", ")]
            yield [[n, int(p) / 10, int(m[0]) if m else None] for n, p, *m in steps]

    assert {name: list(ours(text)) for name, text in policy._POLICIES.items()} == stored["policies"]


# What is chosen


@pytest.mark.parametrize("name", ["ra-n3-m4", "ta_wide"])
def test_torchvision_chooses_all_operations_alike(name):
    layers = draw(name)
    assert len(layers) == (3 if name.startswith("ra") else 1)
    for layer in layers:
        assert_uniform(layer.kind, [pixels.NUMBERS[name] for name in policy._CHOSEN])
    if name == "ta_wide":
        amounts = layers[0].amount[layers[0].kind == pixels.NUMBERS["Brightness"]]
        assert len(np.unique(amounts)) > 55  # 31 magnitudes, both ways
        turned = layers[0].kind == pixels.NUMBERS["ShearX"]
        assert abs((layers[0].matrix[turned, 1] > 0).mean() - 0.5) < 0.12
    else:
        assert_independent(layers[0].kind, layers[1].kind)
        assert len(np.unique(layers[0].amount[layers[0].kind == pixels.NUMBERS["Color"]])) == 2


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_auto_augment_chooses_pairs_with_their_odds(name, stored):
    odds = np.zeros((2, len(pixels.NAMES)))
    for pair in stored["policies"][name]:
        for layer, (operation, chance, _) in enumerate(pair):
            odds[layer, pixels.NUMBERS[operation]] += chance / 25
    odds[:, 0] = 1 - odds.sum(1)
    for expected, layer in zip(odds, draw(name), strict=True):
        counts = np.bincount(layer.kind, minlength=len(pixels.NAMES))
        assert not counts[expected < 1e-9].any()
        there = expected > 1e-9
        assert stats.chisquare(counts[there], COUNT * expected[there]).pvalue > 1e-3


def test_timm_chooses_all_operations_alike_and_does_half_of_them():
    layers = draw("rand-m9-mstd0.5-inc1")
    assert len(layers) == 2
    for layer in layers:
        done = layer.kind > 0
        assert abs(done.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)
        assert_uniform(layer.kind[done], range(1, len(pixels.NAMES)))
        assert abs(layer.cubic.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)
        turned = layer.kind == pixels.NUMBERS["ShearX"]
        shear = layer.matrix[turned, 1] / 2.0 ** affine.filter_bits(*SIZE)
        level = np.abs(shear) / 0.03
        inside = level < 10 - 1e-3
        assert level.max() <= 10 + 1e-3
        cdf = stats.truncnorm(-18, 2, loc=9, scale=0.5).cdf
        assert stats.kstest(level[inside], cdf).pvalue > 1e-3
        assert abs((shear > 0).mean() - 0.5) < 0.2
    assert_independent(layers[0].kind, layers[1].kind)
    assert_independent(layers[0].kind, layers[0].cubic)


def test_parts_of_timms_names():
    assert {len(draw(name, 3)) for name in ("rand-n3", "rand-m9-n3-p1")} == {3}
    assert (draw("rand-p1", 50)[0].kind > 0).all()
    assert not (draw("rand-p0", 50)[0].kind > 0).any()
    uniform = draw("rand-m7-mstd101-p1")[0]
    shear = uniform.matrix[uniform.kind == pixels.NUMBERS["ShearY"], 3]
    level = np.abs(shear) / 2.0 ** affine.filter_bits(*SIZE) / 0.03
    assert stats.kstest(level, stats.uniform(0, 7).cdf).pvalue > 1e-3
    fixed = draw("rand-m20-mmax15-p1")[0]
    shear = fixed.matrix[fixed.kind == pixels.NUMBERS["ShearY"], 3]
    np.testing.assert_allclose(np.abs(shear) / 2.0 ** affine.filter_bits(*SIZE), 0.45, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rand-m9-mstd0.5-inc1", TimmRand(9.0, 2, 0.5, 0.5, 10.0, True)),
        ("rand", TimmRand()),
        ("ra-n1-m30", TorchRand(1, 30)),
        ("ta_wide", TrivialWide()),
        ("imagenet", AutoAugment("imagenet")),
        *((name, None) for name in ("", "rand-", "rand-m9-m8", "rand-x3", "rand-m9.5", "rand-p2")),
        *((name, None) for name in ("rand-mmax99", "rand-n0", "rand-tweights", "augmix-m3")),
        *((name, None) for name in ("ra-m31", "ra-p1", "ta_wide-m3", "cifar100", 3, None)),
    ],
)
def test_names_of_policies(name, expected):
    assert parse(name) == expected


def test_a_policy_of_an_image_follows_from_its_own_key():
    images, keys = jnp.broadcast_to(reference.image(), (12, *SIZE, 3)), make_keys(12)
    made = policy.build(parse("rand-m9-n1-p1-mstd0.5-inc1"), MEAN, None)
    run = jax.jit(lambda images, keys: made(images, keys, lambda change: change))
    whole, order = np.asarray(run(images, keys)), np.random.default_rng(2).permutation(12)
    assert len(np.unique(whole.reshape(12, -1), axis=0)) > 6
    np.testing.assert_array_equal(run(images, keys[order]), whole[order])
    with jax.enable_x64(True):
        np.testing.assert_array_equal(run(images, keys), whole)
