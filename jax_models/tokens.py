"""The tokens of a Vision Transformer around its patches: those before them, and what is read."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models.layers import identity

POOLS = ("token", "avg", "token_and_avg")


class Prefix(NamedTuple):
    """Learned tokens before the patches.

    Attributes:
      name: of the parameter [1,count,D].
      init: `f(key, shape)`.
      count: how many.
    """

    name: str
    init: Callable
    count: int = 1


class Pool(nnx.Module):
    """What the head reads of the tokens after the last block.

    Args:
      kind: 'token', the class token; 'avg', the mean over the patches; or 'token_and_avg', one
        after the other.
      prefix: how many tokens stand before the patches.
      reads: how many of the first tokens 'token' reads.
      norm: of every token.
      fc_norm: of the mean.

    Raises:
      ValueError: there is no such kind.
    """

    def __init__(
        self, kind: str = "token", *, prefix: int = 1, reads: int = 1,
        norm: Callable = identity, fc_norm: Callable = identity,
    ):  # fmt: skip
        if kind not in POOLS:
            raise ValueError(f"pool={kind!r}: expected one of {', '.join(POOLS)}.")
        self.kind, self.prefix, self.reads = kind, prefix, reads
        self.norm, self.fc_norm = norm, fc_norm

    @property
    def queries(self) -> int | None:
        """How many of the first tokens are needed; None for all."""
        return self.reads if self.kind == "token" else None

    def __call__(self, x: Array) -> Array:
        """x [B,T,D] -> [B,D]; of 'token_and_avg' [B,2D]; of several tokens [B,reads,D]."""
        if self.kind == "token":
            return self.norm(x[:, 0] if self.reads == 1 else x[:, : self.reads])
        x = self.norm(x)
        mean = self.fc_norm(x[:, self.prefix :].mean(axis=1))
        return mean if self.kind == "avg" else jnp.concatenate([x[:, 0], mean], axis=-1)
