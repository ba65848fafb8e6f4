"""The pure functions that are compiled: order of an epoch, training step, evaluation step.

Everything random is a pure function of the seed and of a place: the order of examples of (seed,
epoch), augmentation and dropout of (seed, step, place in the global batch). There is no state of a
generator to save, and no result depends on how a batch is spread over devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jax_models.rngs import ExampleRngs
from jax_train.engine import average, metrics, seeds
from jax_train.engine.augment import Place
from jax_train.engine.recipe import Model, Recipe
from jax_train.engine.state import Data, TrainState, merged, part


def epoch_order(recipe: Recipe, epoch: jax.Array, num_examples: int) -> jax.Array:
    """Indices of an epoch's batches, cut into the parts of a batch.

    None is repeated but within a batch, `recipe.repeats` times, and then not by a neighbour. Where
    that does not divide the batch, the last of its examples goes on in the next one.

    Returns:
      int32 [steps_per_epoch, accumulate_steps, batch_size / accumulate_steps].
    """
    key = jax.random.fold_in(seeds.stream(recipe.seed, seeds.ORDER), epoch)
    order = jax.random.permutation(key, num_examples)
    used = recipe.steps_per_epoch * recipe.batch_size
    order = order[:used]
    if recipe.repeats > 1:
        order = order[jnp.arange(used) // recipe.repeats].reshape(-1, recipe.batch_size)
        order = order[:, np.argsort(np.arange(recipe.batch_size) % recipe.repeats, kind="stable")]
    return order.reshape(recipe.steps_per_epoch, recipe.accumulate_steps, -1)


def train_step(
    recipe: Recipe, state: TrainState, sums: metrics.TrainSums, data: Data, order: jax.Array
) -> tuple[TrainState, metrics.TrainSums]:
    """One optimizer step on the batch that `order` (see `epoch_order`) has for `state.step`."""
    index = recipe.layout.shard_batch(order[state.step % recipe.steps_per_epoch], axis=1)
    batch = Data(data.images[index], data.labels[index], index)
    return train_on_batch(recipe, state, sums, batch)


def train_on_batch(
    recipe: Recipe, state: TrainState, sums: metrics.TrainSums, batch: Data
) -> tuple[TrainState, metrics.TrainSums]:
    """One optimizer step on raw images.

    Args:
      recipe: what does not change.
      state: before the step.
      sums: to which the step's figures are added.
      batch: images uint8 [accumulate_steps, examples, H, W, C] and labels [accumulate_steps,
        examples], this device's share of the batch; with `recipe.follows_examples` their index.
    """
    places = jnp.arange(recipe.batch_size).reshape(recipe.accumulate_steps, -1)
    parts = (batch.images, batch.labels, recipe.layout.shard_batch(places, axis=1))
    if recipe.follows_examples:
        parts += (batch.index,)
    mean_weight = None
    if recipe.divides_by_weight:  # of the whole batch, however it is divided
        mean_weight = metrics.mean_weight(batch.labels, recipe.class_weights)
        mean_weight = recipe.layout.mean(mean_weight)
    params = average.gradient_params(recipe.average, state)

    def on_part(stats, part):
        images, targets, places, *index = part
        keys = functools.partial(seeds.keys_at, recipe.seed, step=state.step, places=places)
        place = Place(
            recipe.seed, state.step, recipe.steps_per_epoch, *index, locally=recipe.layout.locally
        )
        images, targets = recipe.augmentation.train(images, targets, keys(seeds.AUGMENT), place)
        dropout = keys(seeds.DROPOUT)
        return gradients(recipe, params, stats, images, targets, dropout, mean_weight)

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

    trained = part(state.params, recipe.trained)
    start = jax.tree.map(jnp.zeros_like, trained), state.stats, metrics.zero_train_sums()
    # XLA's CPU convolutions are many times slower inside a loop.
    unroll = recipe.accumulate_steps if jax.default_backend() == "cpu" else 1
    (grads, stats, figures), _ = jax.lax.scan(add_part, start, parts, unroll=unroll)
    return jax.tree.map(lambda g: g / recipe.accumulate_steps, grads), stats, figures


def gradients(recipe: Recipe, params, stats, images, targets, keys, mean_weight=None):
    """Gradients of the mean loss of images [B,H,W,C] ready for the model.

    Args:
      recipe: what does not change.
      params: those of the model, as are its batch statistics `stats`.
      images: [B,H,W,C].
      targets: class indices [B], or shares of the classes [B,K].
      keys: for dropout, typed PRNG keys [B]; None where nothing is dropped.
      mean_weight: of the labels of the whole batch, see `metrics.mean_weight`; where the recipe
        divides by it.

    Returns:
      (gradients of the parameters that train, new batch statistics, TrainSums of these images).
    """

    def loss(trained):
        # Frozen parameters are constants, so that there is no backward pass on their account.
        whole = trained if recipe.trained is None else merged(params, trained)
        model = recipe.merge(whole, stats)
        rngs = None if keys is None else ExampleRngs(keys)
        logits = model(images.astype(recipe.dtype), train=True, rngs=rngs)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        losses = recipe.losses(logits, targets)
        if recipe.divides_by_weight and targets.ndim == 1:
            losses = losses / mean_weight.astype(losses.dtype)
        new_stats = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
        return losses.mean(), (new_stats, metrics.train_sums(losses, logits, targets))

    trained = part(params, recipe.trained)
    grads, (stats, figures) = jax.grad(loss, has_aux=True)(trained)
    return grads, stats, figures


def update(recipe: Recipe, state: TrainState, grads, stats) -> TrainState:
    """Take the optimizer's step on the mean gradients of a batch."""
    grads = recipe.layout.shard_state(grads)
    at = average.gradient_params(recipe.average, state)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, at)
    params = optax.apply_updates(part(state.params, recipe.trained), updates)
    if recipe.trained is not None:
        params = merged(state.params, params)
    new = TrainState(state.step + 1, params, stats, state.averaged, opt_state)
    return new if recipe.average is None else average.updated(recipe.average, new, state.step)


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
    length = recipe.eval_batch_size if recipe.layout.num_devices == 1 else 0
    scores = logits(recipe, params, stats, batch.images)
    new = metrics.eval_sums(scores, batch.labels, valid, length)
    return _add(sums, recipe.layout.total(new))


def logits(model: Model, params, stats, images: jax.Array) -> jax.Array:
    """Logits [B,K], float32 at least, of raw images uint8 [B,H,W,C]."""
    out = model.merge(params, stats)(model.inputs(images))
    out = out if model.classes is None else out[:, jnp.asarray(model.classes)]
    return out.astype(jnp.promote_types(out.dtype, jnp.float32))
