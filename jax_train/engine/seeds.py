"""The streams of a run's seed: whatever is random follows from the seed and from a place."""

import jax

from jax_models.rngs import InitRngs

# The numbers are part of the meaning of a seed: do not reorder them.
WEIGHTS, ORDER, AUGMENT, DROPOUT, EXAMPLE, BATCH = range(6)


def stream(seed: int, number: int) -> jax.Array:
    """The key of one of the streams above."""
    return jax.random.fold_in(jax.random.key(seed), number)


def init_rngs(seed: int) -> InitRngs:
    """The keys initial weights are drawn with."""
    return InitRngs(stream(seed, WEIGHTS))


def keys_at(seed: int, number: int, step: jax.Array, places: jax.Array) -> jax.Array:
    """One key for each of these places in the global batch of a step."""
    key = jax.random.fold_in(stream(seed, number), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)
