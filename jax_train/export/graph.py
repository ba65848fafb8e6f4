"""What is exported of a model: a function of images, traced in XLA's own forms."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jax_models import cpu, low_rank
from jax_train.engine.state import cast
from jax_train.errors import UserError
from jax_train.runs.trained import TrainedRun, image_shape

LOGITS, FEATURES = "logits", "features"
_BATCH = "batch"
Outputs = dict[str, Array]


@dataclass(frozen=True)
class Graph:
    """A model in evaluation, with its weights, in float32.

    Attributes:
      function: images [B,H,W,C] -> arrays [B,…] by name, computed as here.
      image_shape: H, W, C.
      dtype: of the images: 'uint8', raw ones, or 'float32', as the model takes them.
      outputs: name -> shape, without the batch, in the order in which they are told.
      bytes: of the weights.
      inputs: raw images uint8 [B,H,W,C] -> the images that it takes.
    """

    function: Callable[[Array], Outputs]
    image_shape: tuple[int, int, int]
    dtype: str
    outputs: dict[str, tuple[int, ...]]
    bytes: int
    inputs: Callable[[np.ndarray], Array]

    def plain(self, images: Array) -> Outputs:
        """The function in XLA's own forms alone: what the CPU has of its own exists only here."""
        with cpu.using(False):
            return self.function(images)

    @property
    def batch(self) -> jax.ShapeDtypeStruct:
        """Images of any number."""
        (count,) = jax.export.symbolic_shape(_BATCH)
        return jax.ShapeDtypeStruct((count, *self.image_shape), self.dtype)

    @functools.cached_property
    def _compiled(self):
        return jax.jit(self.function)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the model gives here for images."""
        return {name: np.asarray(value) for name, value in self._compiled(images).items()}


def build(
    run: TrainedRun, *, uint8: bool = False, features: bool = False, attention: bool = False
) -> Graph:
    """Make of a model what can be exported; call it and use what it gives `in_float32`.

    Args:
      run: the model; without a head it gives features.
      uint8: take raw images, and prepare them as evaluation does.
      features: also give what the layers of the head read [B,F].
      attention: also give the attention [B,h,T,T] of each block, of a CNN of each stage with one.

    Raises:
      UserError: it has no attention.
    """
    recipe = dataclasses.replace(run.recipe, dtype="float32")
    weights = (cast(part, "float32") for part in (run.params, run.stats))
    model = low_rank.merged(nnx.merge(recipe.graphdef, *weights))
    model.set_attributes(scan_layers=False, remat=False, raise_if_not_found=False)
    has_head = bool(run.class_names)
    if features and has_head:
        model.head = _Reading(model.head)

    def function(images: Array) -> Outputs:
        inputs = recipe.inputs(images) if uint8 else images
        found = model(inputs, return_intermediates=attention)
        found, seen = found if attention else (found, {})
        if not isinstance(found, dict):
            found = {LOGITS if has_head else FEATURES: found}
        maps = seen.get("attention", ())
        return found | {f"attention_{i}": weights for i, weights in enumerate(maps)}

    shape, dtype = image_shape(run), jnp.uint8 if uint8 else jnp.float32
    if not uint8:
        raw = jax.ShapeDtypeStruct((1, *shape), jnp.uint8)
        shape = jax.eval_shape(recipe.inputs, raw).shape[1:]
    one = jax.eval_shape(function, jax.ShapeDtypeStruct((1, *shape), dtype))
    if attention and not any(name.startswith("attention") for name in one):
        raise UserError(f"--attention: {run.config.model.name} has none. Leave it out.")
    order = sorted(one, key=lambda name: (name != LOGITS, name != FEATURES, len(name), name))
    outputs = {name: one[name].shape[1:] for name in order}
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    inputs = np.asarray if uint8 else recipe.inputs
    return Graph(function, shape, jnp.dtype(dtype).name, outputs, size, inputs)


def in_float32():
    """A context in which graphs are built, traced and called, whatever the run's own dtype is."""
    return jax.enable_x64(False)


class _Reading(nnx.Module):
    """A head that also gives what its layers read."""

    def __init__(self, head: nnx.Module):
        self.head = head

    def __call__(self, x: Array, *, train: bool, rngs) -> Outputs:
        """What the pool gives -> logits [B,K] and features [B,F]."""
        return {LOGITS: self.head(x, train=train, rngs=rngs), FEATURES: self.head.read(x)}
