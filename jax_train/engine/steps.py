"""The pure functions that are compiled: order of an epoch, training step, evaluation step.

Everything random is a pure function of the seed and of a place: the order of examples of (seed,
epoch), augmentation and dropout of (seed, step, place in the global batch). There is no state of a
generator to save, and no result depends on how a batch is spread over devices.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jax_models.rngs import ExampleRngs, InitRngs
from jax_train.engine import metrics
from jax_train.engine.augment import Augmentation
from jax_train.engine.parallel import Layout
from jax_train.engine.state import Data, TrainState

# Streams of the seed. The numbers are part of the meaning of a seed: do not reorder them.
WEIGHTS, ORDER, AUGMENT, DROPOUT = range(4)


@dataclass(frozen=True)
class Recipe:
    """What the steps close over.

    Attributes:
      graphdef: static part of the model, from `nnx.split`.
      optimizer: updates the parameters.
      augmentation: from raw pixels to model input.
      layout: how the work is spread over devices.
      seed: see the module's docstring.
      batch_size: of the whole batch, over all devices.
      steps_per_epoch: full batches in an epoch.
      label_smoothing: of the training loss.
      accumulate_steps: parts a batch is worked through in, one after the other.
      dtype: of the computation; parameters stay as they are stored.
      skip_nonfinite: go on after a step whose loss or gradient is not finite; otherwise nothing
        changes from that step on. Such a step itself never changes the state.
    """

    graphdef: Any
    optimizer: optax.GradientTransformation
    augmentation: Augmentation
    layout: Layout
    seed: int
    batch_size: int
    steps_per_epoch: int
    label_smoothing: float = 0.0
    accumulate_steps: int = 1
    dtype: str = "float32"
    skip_nonfinite: bool = False


def init_rngs(seed: int) -> InitRngs:
    """The keys initial weights are drawn with."""
    return InitRngs(_stream(seed, WEIGHTS))


def init_state(
    model: nnx.Module, optimizer: optax.GradientTransformation, dtype: str = "float32"
) -> TrainState:
    """Split a model into the state that training starts from.

    Args:
      model: with its initial weights.
      optimizer: whose state is made.
      dtype: of the computation. Parameters and statistics are float32 below float64, because an
        update is often smaller than the last bit of a bfloat16.
    """
    _, params, stats = nnx.split(model, nnx.Param, ...)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)
    if dtype == "float64":
        params, stats = cast(params, dtype), cast(stats, dtype)
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


def cast(tree: Any, dtype: str) -> Any:
    """Turn the floating-point leaves of a pytree into a dtype."""

    def one(leaf):
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def epoch_order(recipe: Recipe, epoch: jax.Array, num_examples: int) -> jax.Array:
    """Indices of an epoch's batches, without repetition, cut into the parts of a batch.

    Returns:
      int32 [steps_per_epoch, accumulate_steps, batch_size / accumulate_steps].
    """
    key = jax.random.fold_in(_stream(recipe.seed, ORDER), epoch)
    order = jax.random.permutation(key, num_examples)
    used = recipe.steps_per_epoch * recipe.batch_size
    return order[:used].reshape(recipe.steps_per_epoch, recipe.accumulate_steps, -1)


def train_step(
    recipe: Recipe, state: TrainState, sums: metrics.TrainSums, data: Data, order: jax.Array
) -> tuple[TrainState, metrics.TrainSums]:
    """One optimizer step on the batch that `order` (see `epoch_order`) has for `state.step`."""
    index = recipe.layout.shard_batch(order[state.step % recipe.steps_per_epoch], axis=1)
    return train_on_batch(recipe, state, sums, Data(data.images[index], data.labels[index]))


def train_on_batch(
    recipe: Recipe, state: TrainState, sums: metrics.TrainSums, batch: Data
) -> tuple[TrainState, metrics.TrainSums]:
    """One optimizer step on raw images.

    Args:
      recipe: what does not change.
      state: before the step.
      sums: to which the step's figures are added.
      batch: images uint8 [accumulate_steps, examples, H, W, C] and labels [accumulate_steps,
        examples], this device's share of the batch.
    """
    places = jnp.arange(recipe.batch_size).reshape(recipe.accumulate_steps, -1)
    parts = (*batch, recipe.layout.shard_batch(places, axis=1))

    def on_part(stats, part):
        images, labels, places = part
        images = recipe.augmentation.train(images, keys_at(recipe, AUGMENT, state.step, places))
        keys = keys_at(recipe, DROPOUT, state.step, places)
        return gradients(recipe, state.params, stats, images, labels, keys)

    if recipe.accumulate_steps == 1:
        grads, stats, figures = on_part(state.stats, jax.tree.map(lambda x: x[0], parts))
    else:
        grads, stats, figures = _accumulate(recipe, state, on_part, parts)
    grads, figures = recipe.layout.mean(grads), recipe.layout.total(figures)
    return _unless_nonfinite(recipe, state, sums, grads, stats, figures)


def _unless_nonfinite(recipe, state, sums, grads, stats, figures):
    """Take the optimizer's step if loss and gradients are finite; otherwise count it as skipped."""
    # The square of the norm XLA would work out again in the update of each parameter.
    finite = jnp.isfinite(figures.loss) & jnp.isfinite(optax.tree.norm(grads))
    if not recipe.skip_nonfinite:
        finite &= sums.skipped == 0
    new = update(recipe, state, grads, stats), _add(sums, figures)
    first = jnp.where(sums.skipped == 0, state.step, 0)
    skipped = sums._replace(skipped=sums.skipped + 1, bad_step=sums.bad_step + first)
    state, sums = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, (state, skipped))
    return state._replace(step=new[0].step), sums


def _accumulate(recipe, state, on_part, parts):
    """Mean gradients and summed figures of the parts; batch norm sees one part at a time."""

    def add_part(carry, part):
        grads, stats, figures = carry
        new_grads, stats, new_figures = on_part(stats, part)
        return (_add(grads, new_grads), stats, _add(figures, new_figures)), None

    start = jax.tree.map(jnp.zeros_like, state.params), state.stats, metrics.zero_train_sums()
    # XLA's CPU convolutions are many times slower inside a loop.
    unroll = recipe.accumulate_steps if jax.default_backend() == "cpu" else 1
    (grads, stats, figures), _ = jax.lax.scan(add_part, start, parts, unroll=unroll)
    return jax.tree.map(lambda g: g / recipe.accumulate_steps, grads), stats, figures


def gradients(recipe: Recipe, params, stats, images, labels, keys):
    """Gradients of the mean loss of images [B,H,W,C] ready for the model.

    Args:
      recipe: what does not change.
      params: parameters.
      stats: batch statistics.
      images: [B,H,W,C].
      labels: [B].
      keys: for dropout, typed PRNG keys [B]; None where nothing is dropped.

    Returns:
      (gradients as `params`, new batch statistics, TrainSums of these images).
    """

    def loss(params):
        model = nnx.merge(recipe.graphdef, cast(params, recipe.dtype), stats)
        rngs = None if keys is None else ExampleRngs(keys)
        logits = model(images.astype(recipe.dtype), train=True, rngs=rngs)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        losses = metrics.cross_entropy(logits, labels, recipe.label_smoothing)
        new_stats = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return losses.mean(), (new_stats, metrics.train_sums(losses, logits, labels))

    grads, (stats, figures) = jax.grad(loss, has_aux=True)(params)
    return grads, stats, figures


def update(recipe: Recipe, state: TrainState, grads, stats) -> TrainState:
    """Take the optimizer's step on the mean gradients of a batch."""
    grads = recipe.layout.shard_state(grads)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    return TrainState(state.step + 1, optax.apply_updates(state.params, updates), stats, opt_state)


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)


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
    batch = Data(data.images[index], data.labels[index])
    return _add_evaluated(recipe, params, stats, sums, batch, valid)


def eval_on_batch(
    recipe: Recipe, params, stats, sums: metrics.EvalSums, batch: Data, count
) -> metrics.EvalSums:
    """Add a batch's first `count` examples to the sums; `batch` is this device's share of it."""
    batch_size = batch.labels.shape[0] * recipe.layout.shares
    valid = recipe.layout.shard_batch(jnp.arange(batch_size) < count)
    return _add_evaluated(recipe, params, stats, sums, batch, valid)


def _add_evaluated(recipe, params, stats, sums, batch, valid):
    new = metrics.eval_sums(logits(recipe, params, stats, batch.images), batch.labels, valid)
    return _add(sums, recipe.layout.total(new))


def logits(recipe: Recipe, params, stats, images: jax.Array) -> jax.Array:
    """Logits [B,K], float32 at least, of raw images uint8 [B,H,W,C]."""
    model = nnx.merge(recipe.graphdef, cast(params, recipe.dtype), stats)
    out = model(recipe.augmentation.evaluate(images).astype(recipe.dtype))
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))


def _stream(seed, stream):
    return jax.random.fold_in(jax.random.key(seed), stream)


def keys_at(recipe: Recipe, stream: int, step: jax.Array, places: jax.Array) -> jax.Array:
    """One key for each of these places in the global batch."""
    key = jax.random.fold_in(_stream(recipe.seed, stream), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, places)
