"""The pure functions that are compiled: order of an epoch, training step, evaluation step.

Everything random is a pure function of the seed and of a place: the order of examples of (seed,
epoch), augmentation and dropout of (seed, step, place in the global batch). There is no state of a
generator to save, and no result depends on how a batch is spread over devices.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jax_train import metrics
from jax_train.augment import Augmentation
from jax_train.parallel import Layout

# Streams of the seed. The numbers are part of the meaning of a seed: do not reorder them.
_WEIGHTS, _ORDER, _AUGMENT, _DROPOUT = range(4)


class Data(NamedTuple):
    """A split on the device: images uint8 [N,H,W,C] and labels int32 [N]."""

    images: jax.Array
    labels: jax.Array


class TrainState(NamedTuple):
    """All that changes in training, as plain pytrees of arrays."""

    step: jax.Array  # int32, steps done
    params: Any
    stats: Any  # batch statistics
    opt_state: Any


@dataclass(frozen=True)
class Recipe:
    """What the steps close over.

    Attributes:
      graphdef: static part of the model, from `nnx.split`.
      optimizer: updates the parameters.
      augmentation: from raw pixels to model input.
      layout: where batches go.
      seed: see the module's docstring.
      batch_size: of the whole batch, over all devices.
      steps_per_epoch: full batches in an epoch.
      label_smoothing: of the training loss.
    """

    graphdef: Any
    optimizer: optax.GradientTransformation
    augmentation: Augmentation
    layout: Layout
    seed: int
    batch_size: int
    steps_per_epoch: int
    label_smoothing: float = 0.0


class ExampleRngs:
    """Stands in for `nnx.Rngs` in a step: every call of `dropout()` gives one key per example.

    Args:
      keys: typed PRNG keys [B].
    """

    def __init__(self, keys: jax.Array):
        self._keys = keys
        self._calls = 0

    def dropout(self) -> jax.Array:
        """Fresh keys [B]; the n-th call gives the n-th set."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys, self._calls)
        self._calls += 1
        return keys


def init_rngs(seed: int) -> nnx.Rngs:
    """The streams initial weights are drawn from."""
    return nnx.Rngs(_stream(seed, _WEIGHTS))


def init_state(model: nnx.Module, optimizer: optax.GradientTransformation) -> TrainState:
    """Split a model into the state that training starts from."""
    _, params, stats = nnx.split(model, nnx.Param, ...)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


def epoch_order(recipe: Recipe, epoch: jax.Array, num_examples: int) -> jax.Array:
    """Indices int32 [steps_per_epoch, batch_size] of an epoch's batches, without repetition."""
    key = jax.random.fold_in(_stream(recipe.seed, _ORDER), epoch)
    order = jax.random.permutation(key, num_examples)
    used = recipe.steps_per_epoch * recipe.batch_size
    return order[:used].reshape(recipe.steps_per_epoch, recipe.batch_size)


def train_step(
    recipe: Recipe, state: TrainState, sums: metrics.TrainSums, data: Data, order: jax.Array
) -> tuple[TrainState, metrics.TrainSums]:
    """One optimizer step on the batch that `order` (see `epoch_order`) has for `state.step`."""
    index = recipe.layout.shard_batch(order[state.step % recipe.steps_per_epoch])
    images = recipe.augmentation.train(
        data.images[index], _example_keys(recipe, _AUGMENT, state.step)
    )
    rngs = ExampleRngs(_example_keys(recipe, _DROPOUT, state.step))
    return apply_batch(recipe, state, sums, images, data.labels[index], rngs)


def apply_batch(
    recipe: Recipe, state: TrainState, sums: metrics.TrainSums, images, labels, rngs
) -> tuple[TrainState, metrics.TrainSums]:
    """The step proper: loss, gradient and update on images [B,H,W,C] ready for the model."""

    def loss(params):
        model = nnx.merge(recipe.graphdef, params, state.stats)
        logits = model(images, train=True, rngs=rngs)
        losses = metrics.cross_entropy(logits, labels, recipe.label_smoothing)
        stats = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return losses.mean(), (losses, logits, stats)

    grads, (losses, logits, stats) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    sums = metrics.add_train(sums, losses, logits, labels)
    return TrainState(state.step + 1, params, stats, opt_state), sums


def train_steps(
    recipe: Recipe, length: int, state: TrainState, sums: metrics.TrainSums, data: Data, order
) -> tuple[TrainState, metrics.TrainSums]:
    """`length` steps in one compiled call, so that the host is out of the loop on accelerators."""
    if length == 1:
        return train_step(recipe, state, sums, data, order)

    def body(carry, _):
        return train_step(recipe, *carry, data, order), None

    return jax.lax.scan(body, (state, sums), length=length)[0]


def eval_step(
    recipe: Recipe, batch_size: int, params, stats, sums: metrics.EvalSums, data: Data, start
) -> metrics.EvalSums:
    """Add the examples start … start + batch_size - 1 to the sums; those past the end not."""
    place = recipe.layout.shard_batch(start + jnp.arange(batch_size))
    valid = place < data.labels.size
    index = jnp.where(valid, place, 0)
    model = nnx.merge(recipe.graphdef, params, stats)
    logits = model(recipe.augmentation.evaluate(data.images[index]))
    return metrics.add_eval(sums, logits, data.labels[index], valid)


def _stream(seed, stream):
    return jax.random.fold_in(jax.random.key(seed), stream)


def _example_keys(recipe, stream, step):
    """One key for each place in the global batch."""
    key = jax.random.fold_in(_stream(recipe.seed, stream), step)
    places = recipe.layout.shard_batch(jnp.arange(recipe.batch_size))
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)
