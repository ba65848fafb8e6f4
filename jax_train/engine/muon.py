"""Muon: a step along the momentum's nearest orthogonal matrix.

By Keller Jordan's definition, https://kellerjordan.github.io/posts/muon/, which is that of
`torch.optim.Muon` too. `optax.contrib.muon` corrects the bias of the momentum and of the gradient
each on its own, so that Nesterov's mixture of the two is another one in the first steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

# Of the polynomial that each iteration applies to the singular values.
_COEFFICIENTS = 3.4445, -4.7750, 2.0315
# What a step is multiplied by, of a matrix of so many inputs and outputs. The names are in
# `field_checks.MUON_SCALES`.
SCALES = {
    "shape": lambda inputs, outputs: max(1, outputs / inputs) ** 0.5,
    "rms": lambda inputs, outputs: 0.2 * max(inputs, outputs) ** 0.5,
    "none": lambda inputs, outputs: 1.0,
}


def scale_by_muon(steps: int, scale: str, eps: float) -> optax.GradientTransformation:
    """Make each array orthogonal, kernels [..., inputs, outputs] as matrices of all inputs.

    Args:
      steps: iterations of Newton and Schulz, after which singular values are near 1: with 5 in
        about 0.7 to 1.2.
      scale: what the result is multiplied by: 'shape', √max(1, outputs / inputs) (Keller Jordan);
        'rms', 0.2·√max(inputs, outputs), with which AdamW's rate and weight decay serve
        (https://arxiv.org/abs/2502.16982); 'none'.
      eps: added to the norm that divides a matrix first.
    """
    return _of_matrices(
        lambda matrix, _: _orthogonalized(matrix, steps, eps) * SCALES[scale](*matrix.shape)
    )


def normalize_weights() -> optax.GradientTransformation:
    """Have each step begin at the weights scaled to the norm √outputs, as airbench's Muon does."""

    def step(update, weights):
        norm = jnp.linalg.norm(weights)
        factor = jnp.where(norm > 0, weights.shape[1] ** 0.5 / jnp.where(norm > 0, norm, 1), 1)
        return update + (weights * factor - weights)

    return _of_matrices(step)


def _of_matrices(function: Callable[[Any, Any], Any]) -> optax.GradientTransformation:
    """Apply a function to each update and its weights, as matrices [inputs, outputs]."""

    def one(update, weights):
        matrices = (array.reshape(-1, array.shape[-1]) for array in (update, weights))
        return function(*matrices).reshape(update.shape)

    return optax.stateless(lambda updates, params: jax.tree.map(one, updates, params))


def _orthogonalized(matrix: jax.Array, steps: int, eps: float) -> jax.Array:
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (jnp.linalg.norm(x) + eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
