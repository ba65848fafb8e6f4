"""Shifted patches and locality self-attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_models import cpu, layers
from jax_models.rngs import InitRngs
from tests.jax_models.small import draw_images, shared

NAME = "sl_vit"


def test_a_token_is_made_of_five_patches():
    """By a loop over what each patch is to be, pixel by pixel."""
    embed = layers.PatchEmbed(12, 4, 3, 7, shifted=True, rngs=InitRngs(jax.random.key(0)))
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    found = np.asarray(embed.cut(jnp.asarray(images))).reshape(2, 3, 3, 4, 4, 5, 3)
    for patch, (down, right) in enumerate([(0, 0), (-2, -2), (-2, 2), (2, -2), (2, 2)]):
        for row, column, i, j in np.ndindex(3, 3, 4, 4):
            y, x = 4 * row + i + down, 4 * column + j + right
            inside = 0 <= y < 12 and 0 <= x < 12
            expected = images[:, y, x] if inside else np.zeros((2, 3))
            np.testing.assert_array_equal(found[:, row, column, i, j, patch], expected)
    assert embed.token_pixels == (0, 4, 8)


def test_no_token_attends_to_itself():
    _, out = shared(NAME)(draw_images(NAME), return_intermediates=True)
    for attention in out["attention"]:
        assert (np.diagonal(attention, axis1=2, axis2=3) == 0).all()
        assert (np.asarray(attention).sum(axis=-1) > 0.999).all()


@pytest.mark.parametrize("ours", [True, False])
def test_scores_are_scaled_by_what_each_head_has_learned(ours):
    attn = layers.Attention(12, 3, locality=True, rngs=InitRngs(jax.random.key(0)))
    np.testing.assert_allclose(attn.score_scale[...], 0.5)
    attn.score_scale[...] = jnp.array([0.1, 1.0, 9.0])
    x = jax.random.normal(jax.random.key(1), (2, 5, 12))
    q, k, v = np.split(np.asarray(x @ attn.qkv.kernel[...] + attn.qkv.bias[...]), 3, axis=-1)
    q, k, v = (part.reshape(2, 5, 3, 4) for part in (q, k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * np.array([0.1, 1.0, 9.0])[:, None, None]
    weights = np.exp(scores) * (1 - np.eye(5))
    weights /= weights.sum(axis=-1, keepdims=True)
    y = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 5, 12)
    expected = y @ attn.projection.kernel[...] + attn.projection.bias[...]
    with cpu.using(ours):
        found, maps = attn(x, train=False, rngs=None)
        fused, _ = attn(x, train=False, rngs=None, maps=False)
        first, _ = attn(x, train=False, rngs=None, maps=False, queries=2)
    np.testing.assert_allclose(maps, weights, atol=1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    np.testing.assert_allclose(first, expected[:, :2], atol=1e-5)
