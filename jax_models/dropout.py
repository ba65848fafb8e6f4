"""Dropout with masks that are cheap to make and depend on nothing but a key and a position."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models.rngs import Rngs, mix


class Rate(NamedTuple):
    """A rate that is known when a program runs, as of one of the blocks that a loop goes through.

    Attributes:
      kept: share of the values that are kept.
      least: hash from which on a value is kept, uint32.
    """

    kept: jax.Array
    least: jax.Array

    @classmethod
    def of(cls, rates: Sequence[float]) -> "Rate":
        """Several rates, as arrays."""
        return cls(jnp.asarray(1 - np.array(rates)), jnp.stack([_least(rate) for rate in rates]))


def _least(rate: float) -> jax.Array:
    return jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


class Drop(NamedTuple):
    """Dropout at one place of a model in training.

    Attributes:
      rate: share of the values that are set to zero; or a `Rate`.
      mask: draws a boolean mask of a shape, False where a value is dropped.
    """

    rate: float | Rate
    mask: Callable[[tuple[int, ...]], jax.Array]

    def __call__(self, x: jax.Array, shape: tuple[int, ...] | None = None) -> jax.Array:
        """x [B, ...] after dropping values out; x may be the leading part of an array of `shape`.

        What is dropped of it is then what would be there.
        """
        mask = self.mask(shape or x.shape)[tuple(map(slice, x.shape))]
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # 0.9 is 0.8984 in bfloat16
        of_run = isinstance(self.rate, Rate)
        kept = self.rate.kept.astype(wide.dtype) if of_run else 1 - self.rate
        return jnp.where(mask, wide / kept, jnp.zeros((), wide.dtype)).astype(x.dtype)


class Dropout(nnx.Module):
    """Dropout with cheap counter-based masks.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html; kept values are
    scaled by 1 / (1 - rate) in training, as in PyTorch. The mask is a hash of (key, position),
    several times cheaper on a CPU than JAX's default generator.

    Args:
      rate: share of the values that are set to zero, in [0, 1).
      name: what the rate is called in an error.

    Raises:
      ValueError: the rate is outside [0, 1).
    """

    def __init__(self, rate: float, name: str = "dropout"):
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(f"{name}={rate!r} is not a rate: give a number from 0 up to below 1.")
        self.rate = rate

    def __call__(self, x: jax.Array, *, train: bool, rngs: Rngs) -> jax.Array:
        """Return x [B, ...], with `train` after dropping values out.

        Raises:
          ValueError: `train` without `rngs`.
        """
        drop = self.drop(train, rngs)
        return x if drop is None else drop(x)

    def drop(self, train: bool, rngs: Rngs) -> Drop | None:
        """What a call would do; None where it would do nothing.

        `rngs.dropout()` gives one key, or one key per example [B]: then an example's mask follows
        from its own key alone and not from where in the batch, or on which device, it stands.
        """
        if not train or self.rate == 0:
            return None
        if rngs is None:
            raise ValueError(
                "Training with dropout needs random keys: call the model with "
                "rngs=nnx.Rngs(dropout=key), or build it with dropout=0."
            )
        return Drop(self.rate, lambda shape: dropout_mask(rngs.dropout(), shape, self.rate))


def dropout_mask(key: jax.Array, shape: tuple[int, ...], rate: float | Rate) -> jax.Array:
    """Boolean mask of `shape` that is False with probability `rate`.

    The first tokens' part of a mask [B,T,D] is the same however many tokens there are.

    Args:
      key: a typed PRNG key, or one per example, shape [shape[0]].
      shape: of the mask.
      rate: in [0, 1), or a `Rate`.
    """
    words = jax.random.key_data(key)
    if key.ndim == 0:  # makes one for each example, of which the first is the key itself
        words = words ^ mix(jnp.arange(shape[0], dtype=jnp.uint32))[:, None]
    words = words.reshape(shape[0], *(1,) * (len(shape) - 1), words.shape[-1])
    one = 1, *shape[1:]
    position = jax.lax.iota(jnp.uint32, math.prod(one)).reshape(one)
    bits = mix(mix(position ^ words[..., 0]) + words[..., -1])
    return bits >= (rate.least if isinstance(rate, Rate) else _least(rate))
