"""Random keys: cheap folding, and what stands in for `nnx.Rngs` in a traced function."""

import jax
import jax.numpy as jnp
from flax import nnx

Rngs = nnx.Rngs | None  # of dropout; or one of the stand-ins here


def fold_in(keys: jax.Array, number: int) -> jax.Array:
    """Keys for the `number`-th mask, from typed PRNG keys: a cheap `jax.random.fold_in`.

    Each word goes through a bijection that depends on the number, so that different keys stay
    different.
    """
    words = jax.random.key_data(keys) ^ mix(jnp.uint32(number) + jnp.uint32(0x9E3779B9))
    return jax.random.wrap_key_data(mix(words), impl=jax.random.key_impl(keys))


def mix(x):
    """A bijection of uint32 in which every input bit flips every output bit half the time.

    Source: the "triple32"-style finalizer family, https://github.com/skeeto/hash-prospector.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


class ExampleRngs(nnx.Object):
    """Stands in for `nnx.Rngs` in a step: every call of `dropout()` gives one key per example.

    Args:
      keys: typed PRNG keys [B].
    """

    def __init__(self, keys: jax.Array):
        self._keys, self._calls = nnx.data(keys), 0

    def dropout(self) -> jax.Array:
        """Fresh keys [B]; the n-th call gives the n-th set."""
        self._calls += 1
        return self._nth(self._calls - 1)

    def _nth(self, number):
        return fold_in(self._keys, number)


class DrawnKeys(ExampleRngs):
    """The same where the keys are drawn already: `keys` has one more axis, of the calls."""

    def _nth(self, number):
        return self._keys[number]


class InitRngs:
    """Stands in for `nnx.Rngs` where weights are drawn, with the same keys.

    `nnx.Rngs` keeps its count in an array and asks it for its sharding. Of a traced array that is
    an error, and JAX takes longer to word it than to trace the layer.
    """

    def __init__(self, key: jax.Array):
        self._key, self._calls = key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self._calls += 1
        return jax.random.fold_in(self._key, self._calls - 1)
