"""Blocks and stages called one after the other: plainly, in a scan, or with rematerialisation."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models.dropout import Dropout, Rate
from jax_models.rngs import DrawnKeys, Rngs


def draw_keys(
    part: nnx.Module, count: int, rngs: Rngs, call: Callable[[Rngs], object]
) -> Array | None:
    """Draw the keys that `count` parts alike would draw when called in turn: [count, n, ...].

    None if the part drops nothing; `call(rngs)` calls it.
    """
    if rngs is None or not any(module.rate for module in _dropouts(part)):
        return None
    keys, calls = [rngs.dropout()], []
    counter = SimpleNamespace(dropout=lambda: calls.append(None) or keys[0])
    jax.eval_shape(lambda: call(counter))
    keys += [rngs.dropout() for _ in range(count * len(calls) - 1)]
    return jnp.stack(keys).reshape(count, len(calls), *keys[0].shape)


def _dropouts(part: nnx.Module) -> list[Dropout]:
    return [module for _, module in nnx.iter_modules(part) if isinstance(module, Dropout)]


def run_parts(
    parts: Sequence[nnx.Module], x: Array, *, train: bool, rngs: Rngs, maps: bool, remat: bool
) -> tuple[Array, tuple, tuple]:
    """Call blocks or stages one after the other.

    Args:
      parts: each maps x to (x, attention or None).
      x: input of the first.
      train, rngs, maps: as in the parts.
      remat: in training keep nothing of a part's inside and work it out again for the gradient,
        which saves memory for about a third more computation. Source: Chen et al. 2016,
        https://arxiv.org/abs/1604.06174.

    Returns:
      (output of the last, attention of each, output of each).
    """
    attention, outputs = [], []
    for part in parts:
        x, weights = run_part(part, x, rngs, train=train, maps=maps, remat=remat)
        attention.append(weights)
        outputs.append(x)
    return x, tuple(attention), tuple(outputs)


def scan_parts(
    parts: Sequence[nnx.Module], x: Array, *, train: bool, rngs: Rngs, maps: bool, remat: bool
) -> tuple[Array, tuple, tuple]:
    """As `run_parts`, for parts alike but for their rates, in a loop whose inside is compiled once.

    The same keys are drawn. The program is smaller and the steps take longer. The first ones, where
    they drop nothing in places where the last one does, draw fewer keys and come before the loop.
    """
    how = {"train": train, "maps": maps, "remat": remat}
    rates = [[module.rate for module in _dropouts(part)] for part in parts]
    first = sum(list(map(bool, own)) != list(map(bool, rates[-1])) for own in rates)
    x, *before = run_parts(parts[:first], x, rngs=rngs, **how)
    parts, rates = parts[first:], rates[first:]
    varying = [place for place, of_all in enumerate(zip(*rates, strict=True)) if len({*of_all}) > 1]
    rates = [Rate.of([own[place] for own in rates]) for place in varying]
    graphdef, _ = nnx.split(parts[0])
    states = [nnx.to_pure_dict(nnx.state(part)) for part in parts]
    if not train:
        rngs = None
    keys = draw_keys(parts[0], len(parts), rngs, lambda rngs: parts[0](x, train=train, rngs=rngs))

    def body(x, inputs):
        state, keys, rates = inputs
        rngs = None if keys is None else DrawnKeys(keys)
        part = nnx.merge(graphdef, state)
        modules = _dropouts(part)
        for place, rate in zip(varying, rates, strict=True):
            modules[place].rate = nnx.data(rate)
        x, weights = run_part(part, x, rngs, **how)
        return x, (weights, x) if maps else None

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    x, seen = jax.lax.scan(body, x, (stacked, keys, rates))
    attention, outputs = map(tuple, seen) if maps else ((), ())
    return x, (*before[0], *attention), (*before[1], *outputs)


def run_part(
    part: nnx.Module, x: Array, rngs: Rngs, *, train: bool, remat: bool, **others: bool | int
) -> tuple[Array, Array | None]:
    """Call one block or stage, as `run_parts` does, with what others it takes."""

    def call(part, x, rngs):
        return part(x, train=train, rngs=rngs, **others)

    return (nnx.remat(call) if remat and train else call)(part, x, rngs)
