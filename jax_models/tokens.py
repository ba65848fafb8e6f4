"""The tokens of a Vision Transformer around its patches: those before them, and what is read."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jax_models.layers import Linear, identity

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


class SequencePool(nnx.Module):
    """The mean of the tokens, weighted by a softmax over a learned score of each.

    Source: Hassani et al. 2021, https://arxiv.org/abs/2104.05704.

    Args:
      embed_dim: D.
      norm: of every token beforehand.
      rngs: initial weights.
    """

    queries = None  # all tokens are needed

    def __init__(self, embed_dim: int, *, norm: Callable = identity, rngs: nnx.Rngs):
        self.norm = norm
        self.score = Linear(embed_dim, 1, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """x [B,T,D] -> [B,D]."""
        x = self.norm(x)
        return jnp.einsum("bt,btd->bd", self._weigh(x), x)

    def weights(self, x: Array) -> Array:
        """What each token counts: x [B,T,D] -> [B,T], of sum 1."""
        return self._weigh(self.norm(x))

    def _weigh(self, x):
        scores = self.score(x)[..., 0]
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        return jax.nn.softmax(scores, axis=-1).astype(x.dtype)


def sine_positions(places: int, embed_dim: int) -> np.ndarray:
    """Positions that do not train: float32 [1,places,D], sine and cosine in turns.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.5.
    """
    features = np.arange(embed_dim)
    angles = np.arange(places)[:, None] / 10000 ** (features // 2 * 2 / embed_dim)
    return np.where(features % 2, np.cos(angles), np.sin(angles))[None].astype(np.float32)
