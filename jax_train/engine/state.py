"""What changes in training, as plain pytrees of arrays."""

from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_train.engine.metrics import TrainSums


class Data(NamedTuple):
    """Examples on the device: images uint8 [N,H,W,C] and labels int32 [N].

    A batch may also know its examples' places in the training split, int32 [N].
    """

    images: jax.Array
    labels: jax.Array
    index: jax.Array | None = None


class Weights(NamedTuple):
    """What a model computes with."""

    params: Any
    stats: Any  # batch statistics


class TrainState(NamedTuple):
    """All that changes in training."""

    step: jax.Array  # int32, steps done
    params: Any
    stats: Any
    averaged: Weights | None  # see `average`; None where nothing is averaged
    opt_state: Any  # of the parameters that train

    @property
    def reported(self) -> Weights:
        """The weights that are evaluated, and read back of a finished run."""
        return Weights(self.params, self.stats) if self.averaged is None else self.averaged


class Progress(NamedTuple):
    """All that a run needs to go on from a step as if nothing had happened, on the device."""

    state: TrainState
    sums: TrainSums  # since the last log line


def init_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    dtype: str = "float32",
    given: Weights | None = None,
    averages: bool = False,
) -> TrainState:
    """Split a model with its initial weights into what training starts from (see `stored`).

    Those of `given`, as they are stored, take the place of the model's own. With `averages` they
    are the average of the weights too.
    """
    weights = stored(split(model)[1], dtype)
    if given is not None:
        own = jax.tree.structure(weights)
        weights = Weights(*map(merged, weights, given))
        if jax.tree.structure(weights) != own:
            raise ValueError("weights were given that have no place in the model")
    averaged = jax.tree.map(jnp.copy, weights) if averages else None
    return TrainState(jnp.zeros((), jnp.int32), *weights, averaged, optimizer.init(weights.params))


def split(model: nnx.Module) -> tuple[Any, Weights]:
    """The static part of a model, and its weights."""
    graphdef, *parts = nnx.split(model, nnx.Param, ...)
    return graphdef, Weights(*map(nnx.to_pure_dict, parts))


def leaf_paths(tree: Any) -> list[str]:
    """The path of each leaf of a pytree: its keys joined with dots, as in `blocks.0.mlp.bias`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]


def part(tree: Any, paths: Collection[str] | None) -> Any:
    """Of nested dicts those leaves that have one of the paths, see `leaf_paths`; None: all."""
    if paths is None:
        return tree
    leaves = flatten_dict(tree).items()
    return unflatten_dict({k: leaf for k, leaf in leaves if ".".join(map(str, k)) in paths})


def merged(tree: Any, part: Any) -> Any:
    """Nested dicts with the leaves of a `part` of them in place of their own."""
    return unflatten_dict(flatten_dict(tree) | flatten_dict(part))


def stored(weights: Weights, dtype: str) -> Weights:
    """Weights as they are trained and saved where the computation has this dtype.

    They are float32 below float64, because an update is often smaller than the last bit of a
    bfloat16.
    """
    return cast(weights, dtype) if dtype == "float64" else weights


def cast(tree: Any, dtype: str) -> Any:
    """Turn the floating-point leaves of a pytree into a dtype."""

    def one(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)
