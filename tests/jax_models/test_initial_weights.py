"""Initial weights come from the mirror's distributions: accuracy is compared between the two.

Several independent models on both sides; all seeds are fixed, so the tests are deterministic.
"""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import jax_models
from jax_models import torch_weights
from tests.jax_models.small import COVERED, SMALL, mirror_of
from tests.with_torch import torch

NUM_DRAWS = 11


def create(name):
    """A function of a key that draws a model."""
    settings = SMALL[name].initial
    return lambda key: jax_models.create_model(name, rngs=nnx.Rngs(key), **settings)


@functools.cache
def ours(name):
    """Tensor name -> values [draws, ...] of the Flax model."""
    draw = jax.jit(create(name))
    draws = [torch_weights.export(draw(jax.random.key(seed))) for seed in range(NUM_DRAWS)]
    return {tensor: np.stack([draw[tensor] for draw in draws]) for tensor in draws[0]}


@functools.cache
def theirs(name):
    """Tensor name -> values [draws, ...] of the mirror."""
    draws = []
    for seed in range(NUM_DRAWS):
        torch.manual_seed(seed)
        draws.append(mirror_of(name, **SMALL[name].initial).state_dict())
    return {tensor: np.stack([draw[tensor].numpy() for draw in draws]) for tensor in draws[0]}


def is_constant(values):
    return (values == values[:1]).all()  # whatever the seed


@functools.cache
def tensors(name):
    """Names of the mirror's tensors; of those that start constant; uniform bounds by name."""
    with torch.device("meta"):
        mirror = mirror_of(name, **SMALL[name].initial)
    bounds = {}
    for path, module in mirror.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            for tensor in ("weight", "bias"):
                bounds[f"{path}.{tensor}"] = module.weight[0].numel() ** -0.5
    constant = {tensor for tensor, values in theirs(name).items() if is_constant(values)}
    return list(theirs(name)), constant, bounds


def is_uniform(name, tensor):
    """Whether the mirror's values fill their bounds evenly; some families start otherwise."""
    bound = tensors(name)[2].get(tensor)
    if bound is None:
        return False
    return stats.kstest(theirs(name)[tensor].ravel() / bound, "uniform", (-1, 2)).pvalue > 1e-6


RANDOM = [(m, t) for m in COVERED for t in tensors(m)[0] if t not in tensors(m)[1]]
CONSTANT = [(m, t) for m in COVERED for t in tensors(m)[1]]
UNIFORM = [(m, t) for m, t in RANDOM if is_uniform(m, t)]


@pytest.mark.parametrize("name", COVERED)
def test_both_sides_have_the_same_tensors(name):
    assert set(ours(name)) == set(theirs(name))


@pytest.mark.parametrize(("name", "tensor"), RANDOM)
def test_random_tensors_have_the_mirrors_distribution(name, tensor):
    samples = ours(name)[tensor].ravel(), theirs(name)[tensor].ravel()
    assert stats.ks_2samp(*samples).pvalue > 1e-4


@pytest.mark.parametrize(("name", "tensor"), sorted(CONSTANT))
def test_constant_tensors_hold_the_mirrors_value(name, tensor):
    np.testing.assert_array_equal(ours(name)[tensor], theirs(name)[tensor])


@pytest.mark.parametrize(("name", "tensor"), UNIFORM)
def test_uniform_tensors_fill_their_bounds(name, tensor):
    values, bound = np.abs(ours(name)[tensor]), tensors(name)[2][tensor]
    assert values.max() <= bound * (1 + 1e-6)
    # The largest of n uniform values lies below 1 - 14/n of the bound once in a million times.
    assert values.max() >= bound * (1 - max(14 / values.size, 1e-4))


@pytest.mark.parametrize("name", COVERED)
def test_tensors_and_draws_are_independent(name):
    """No two tensors of a draw, and no two draws of a tensor, hold the same numbers."""
    _, constant, bounds = tensors(name)
    seen = {}
    for tensor, values in ours(name).items():
        if tensor in constant:
            continue
        scale = bounds.get(tensor, 1.0) if is_uniform(name, tensor) else values.std()
        random = (values != values[:1]).any(axis=0)  # some filters start as the identity
        for seed, draw in enumerate(values):
            # Layers that were given the same key agree in ratio to their scale.
            start = tuple(np.round(draw[random][:5] / scale, 4).tolist())
            assert start not in seen, (tensor, seed, seen[start])
            seen[start] = tensor, seed


@pytest.mark.parametrize("name", COVERED)
def test_a_seed_always_gives_the_same_weights(name):
    again = torch_weights.export(jax.jit(create(name))(jax.random.key(1)))
    assert all(np.array_equal(values[1], again[tensor]) for tensor, values in ours(name).items())
