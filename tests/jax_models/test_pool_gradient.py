"""The gradient of pooling inside a compiled model, where XLA fuses it with what comes before."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_models
from jax_models import ops
from tests import xla

# Sizes at which XLA computes the input of a pool twice, with different rounding: a gradient that
# looks for values equal to the maximum lost half of itself here, and nothing at smaller sizes.
CASES = {
    "simple_cnn": ({}, (24, 32, 32, 3)),
    "mnist_cnn": ({}, (32, 28, 28, 1)),
    "attention_cnn": ({"widths": (32, 64)}, (4, 32, 32, 3)),
}


def library_pool(x):
    """Max-pooling and its gradient by XLA's own window operations."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def gradients(name, settings, shape):
    model = jax_models.create_model(name, rngs=nnx.Rngs(0), **settings)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    random = np.random.default_rng(1)
    images = jnp.asarray(random.normal(size=shape), jnp.float32)
    weights = jnp.asarray(random.normal(size=(shape[0], 10)), jnp.float32)

    @functools.partial(jax.jit, compiler_options=xla.AS_USERS)
    def gradient(params):
        def loss(params):
            model = nnx.merge(graphdef, params, rest)
            return (model(images, train=True, rngs=nnx.Rngs(dropout=3)) * weights).sum()

        return jax.grad(loss)(params)

    return jax.tree.leaves(jax.tree.map(np.asarray, gradient(params)))


@pytest.mark.parametrize("name", CASES)
def test_a_compiled_models_gradient_is_that_of_the_librarys_pool(name, monkeypatch):
    ours = gradients(name, *CASES[name])
    monkeypatch.setattr(ops, "max_pool2x2", library_pool)
    theirs = gradients(name, *CASES[name])
    whole = np.sqrt(sum(np.square(g).sum() for g in theirs))
    for a, b in zip(ours, theirs, strict=True):
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b) + 1e-5 * whole
