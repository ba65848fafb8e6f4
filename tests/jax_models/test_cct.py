"""Compact convolutional transformers: their sizes, tokens, pool and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_models import torch_weights
from jax_models.cct import ConvEmbed
from jax_models.rngs import InitRngs
from jax_models.tokens import SequencePool, sine_positions
from tests.jax_models.small import SMALL, abstract, build, count, draw_images, mirror_of
from tests.with_torch import torch

NAME = "cct_2_3x2"


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("cct_4_3x2", {}, 482_123),
        ("cct_6_3x2", {}, 3_326_923),
        ("cct_7_3x2", {}, 3_853_259),
        ("cct_7_3x1", {}, 3_760_139),
        ("cct_6_3x1", {"positions": "sine"}, 3_168_267),  # the source counts no positions here
        ("cct_2_3x2", {"num_classes": 100}, 295_333),
    ],
)
def test_models_have_the_published_size(name, settings, parameters):
    assert count(abstract(name, **settings)) == parameters


# Tokens


@pytest.mark.parametrize(
    ("side", "layers", "size", "grid", "places"),
    [
        (32, 2, 3, 8, (-1.5, 4, 13)),
        (32, 1, 3, 16, (-0.5, 2, 5)),
        (224, 2, 7, 14, (-7.5, 16, 51)),
        (13, 2, 3, 4, (-1.5, 4, 13)),
    ],
)
def test_tokens_lie_in_a_grid(side, layers, size, grid, places):
    embed = ConvEmbed(side, 2, 5, count=layers, size=size, rngs=InitRngs(jax.random.key(0)))
    assert (embed.grid, embed.num_patches, embed.token_pixels) == (grid, grid**2, places)
    tokens = jax.eval_shape(embed, jax.ShapeDtypeStruct((3, side, side, 2), jnp.float32))
    assert tokens.shape == (3, grid**2, 5)


def test_a_token_sees_the_pixels_around_its_own():
    """Asked of the layers: what moves one token in the middle of an image."""
    embed = ConvEmbed(29, 1, 3, count=2, size=3, rngs=InitRngs(jax.random.key(0)))
    first, step, seen = embed.token_pixels
    images = jax.random.normal(jax.random.key(1), (60, 29, 29, 1))  # a maximum looks at one pixel
    moved = jax.grad(lambda x: embed(x)[:, 3 * embed.grid + 3].sum())(images)
    places = np.flatnonzero(np.asarray(moved).any(axis=(0, 1, 3)))
    assert (places[0] + places[-1]) / 2 == first + 3.5 * step - 0.5
    assert places[-1] - places[0] + 1 == seen


# The pool


def test_the_pool_is_a_mean_of_tokens_by_their_scores():
    pool = SequencePool(5, norm=lambda x: 2 * x, rngs=InitRngs(jax.random.key(0)))
    x = jax.random.normal(jax.random.key(1), (3, 7, 5))
    scores = np.asarray(2 * x, np.float64) @ pool.score.kernel[...][:, 0]
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(pool.weights(x), expected, rtol=1e-5)
    mean = (expected[..., None] * 2 * np.asarray(x)).sum(axis=1)
    np.testing.assert_allclose(pool(x), mean, atol=1e-5)


# Positions


def test_sines_are_those_of_the_paper():
    found = sine_positions(7, 6)
    assert (found.shape, found.dtype) == ((1, 7, 6), np.float32)
    for place, feature in np.ndindex(7, 6):
        angle = place / 10000 ** ((feature - feature % 2) / 6)
        expected = np.cos(angle) if feature % 2 else np.sin(angle)
        assert found[0, place, feature] == pytest.approx(expected, abs=1e-7)


@pytest.mark.filterwarnings("ignore:.*positional_emb.* is left out")
def test_positions_that_do_not_train_are_the_mirrors():
    model, images = build(NAME, positions="sine"), draw_images(NAME)
    mirror = mirror_of(NAME, **(SMALL[NAME].settings | {"positions": "sine"})).eval()
    state = {key: torch.from_numpy(value) for key, value in torch_weights.export(model).items()}
    own = mirror.state_dict()["classifier.positional_emb"].clone()
    mirror.load_state_dict(state, strict=True)
    torch.testing.assert_close(mirror.classifier.positional_emb, own, rtol=0, atol=0)
    with torch.no_grad():
        theirs = mirror(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()))
    evaluate = jax.jit(lambda model, images: model(images))
    np.testing.assert_allclose(evaluate(model, images), theirs, atol=1e-5)
    again = build(NAME, seed=1, positions="sine")
    torch_weights.load(again, mirror.state_dict())  # its sines are left out
    np.testing.assert_array_equal(evaluate(again, images), evaluate(model, images))
