"""Learning-rate schedules as tables, and the optimizers that read them.

A schedule is worked out in float64 for every step of the run before the run starts, so that it can
be inspected and equals PyTorch's to the last bit that float32 holds. The optimizers are chains of
optax parts in the order PyTorch applies them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_train.engine.state import leaf_paths, merged, part
from jax_train.engine.trainable import ALL, Plan, matched


class Schedule(NamedTuple):
    """The hyperparameters of every optimizer step; entry t belongs to step t, counted from 0.

    The tables are float64: they are rounded once, when they become jax arrays (to float32, or not
    at all where `jax_enable_x64` is set).

    Attributes:
      learning_rate: `[total_steps]` float64.
      momentum: `[total_steps]` float64, beta1 of adam and adamw or the momentum of sgd; None where
        it does not change.
    """

    learning_rate: np.ndarray
    momentum: np.ndarray | None = None


def schedule_tables(config: ConfigDict, steps_per_epoch: int) -> Schedule:
    """Work out the schedule of a whole run of `config.train.epochs * steps_per_epoch` steps.

    - `cosine`: `torch.optim.lr_scheduler.CosineAnnealingLR` over the whole run, stepped after each
      step or each epoch (SGDR, https://arxiv.org/abs/1608.03983, without restarts).
    - `onecycle`: `torch.optim.lr_scheduler.OneCycleLR` with cosine annealing and two phases
      (https://arxiv.org/abs/1708.07120).
    - `constant`.

    `cosine` and `constant` may begin with a linear warm-up from 0: step t of w warm-up steps has
    t/w of the peak. It changes every step, whatever `config.schedule.unit`, so that no whole epoch
    is spent at rate 0; the cosine then runs over what is left.

    Args:
      config: the whole config, checked; `schedule`, `optim` and `train.epochs` are read.
      steps_per_epoch: optimizer steps in an epoch, at least 1.
    """
    steps = np.arange(config.train.epochs * steps_per_epoch, dtype=np.float64)
    rates, momentum = SCHEDULES[config.schedule.name](config, steps_per_epoch, steps)
    warmup_steps = config.schedule.warmup_epochs * steps_per_epoch
    if warmup_steps > 0:
        rates = rates * np.minimum(steps / warmup_steps, 1)
    return Schedule(rates, momentum)


def _constant(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    return Schedule(np.full(len(steps), config.optim.learning_rate, np.float64))


def _cosine(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    warmup_steps = config.schedule.warmup_epochs * steps_per_epoch
    every = steps_per_epoch if config.schedule.unit == "epoch" else 1
    changed = np.maximum(steps // every * every, warmup_steps)  # when the rate last changed
    progress = (changed - warmup_steps) / (len(steps) - warmup_steps)
    peak = config.optim.learning_rate
    return Schedule(_half_wave(peak, config.schedule.final_factor * peak, progress))


def _half_wave(start: float, end: float, progress: np.ndarray) -> np.ndarray:
    """Half a cosine wave from `start` at progress 0 to `end` at progress 1."""
    return end + (start - end) / 2 * (1 + np.cos(np.pi * progress))


def _one_cycle(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    schedule, peak = config.schedule, config.optim.learning_rate
    # PyTorch lets the peak fall between two steps; a span of 0 steps, at which it divides by
    # zero, is given the value at its start.
    top, last = schedule.pct_start * len(steps) - 1, len(steps) - 1
    rising = steps <= top
    progress = np.where(rising, steps / (top or 1), (steps - top) / ((last - top) or 1))

    def cycle(start, middle, end):
        down = _half_wave(middle, end, progress)
        return np.where(rising, _half_wave(start, middle, progress), down)

    first = peak / schedule.div_factor
    rates = cycle(first, peak, first / schedule.final_div_factor)
    if not schedule.cycle_momentum:
        return Schedule(rates)
    high, low = schedule.max_momentum, schedule.base_momentum
    return Schedule(rates, cycle(high, low, high))


# Each (config, steps of an epoch, numbers of all steps) -> Schedule of the run without warm-up.
# `checks.SCHEDULES` has the names.
SCHEDULES = {"cosine": _cosine, "onecycle": _one_cycle, "constant": _constant}


def create_optimizer(
    config: ConfigDict, schedule: Schedule, plan: Plan = ALL, probe_steps: int = 0
) -> optax.GradientTransformation:
    """Make the optimizer of a config; its updates equal those of `torch.optim` (docs/parity.md).

    - `adamw`: decoupled weight decay, times the learning rate (https://arxiv.org/abs/1711.05101).
    - `adam`: https://arxiv.org/abs/1412.6980, weight decay added to the gradient.
    - `sgd`: with momentum, plain or Nesterov; weight decay added to the gradient.

    Gradients are clipped first, before any weight decay, by the norm over all that train. The
    schedule is read by the optimizer's own count of steps and keeps its last value after its end. A
    momentum table takes the place of `config.optim.beta1` or `config.optim.momentum`.

    In float32, optax works out Adam's bias correction `1 - beta2**t` from a rounded beta2, which
    PyTorch does in float64: the updates differ by 7e-7, 7e-6 and 8e-5 of their size for beta2 0.99,
    0.999 and 0.9999.

    Args:
      config: the whole config, checked; `optim` is read.
      schedule: from `schedule_tables`.
      plan: what trains. With a probe, its parameters and the others are two groups with a count of
        steps each: after the probe the second one begins, at that place in the schedule.
      probe_steps: those of the probe.

    Returns:
      A transformation whose `init` and `update` are given all parameters, and `update` the
      gradients of those that train. Gradients of those of the probe alone leave the others, and
      what is kept for them, as they are.
    """
    clip_norm = config.optim.clip_norm
    clip = [clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    if plan.probed is None:
        return _of_part(optax.chain(*clip, *_parts(config, schedule, plan)), plan.trained)
    later = Schedule(*(table if table is None else table[probe_steps:] for table in schedule))
    groups = {
        "head": (plan.probed, optax.chain(*_parts(config, schedule, plan))),
        "rest": (plan.later, optax.chain(*_parts(config, later, plan))),
    }
    return _in_groups(clip[0] if clip else optax.identity(), groups)


def _parts(config: ConfigDict, schedule: Schedule, plan: Plan) -> list:
    """What makes steps of clipped gradients."""
    optim, decay = config.optim, []
    if optim.weight_decay > 0:
        mask = partial(decay_mask, exclude=tuple(optim.decay_exclude))
        decay = [optax.add_decayed_weights(optim.weight_decay, mask)]
    parts = OPTIMIZERS[optim.name](optim, schedule.momentum, decay)
    rate = optax.scale_by_learning_rate(_lookup(schedule.learning_rate))
    return [*parts, rate] + ([_scale_by_path(plan.factors)] if plan.factors else [])


def _scale_by_path(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the steps of some parameters, decay included, as rates of PyTorch's groups do."""

    def scale(updates, params=None):
        leaves, tree = jax.tree.flatten(updates)
        paths = zip(leaf_paths(updates), leaves, strict=True)
        scaled = [leaf * factors[path] if path in factors else leaf for path, leaf in paths]
        return jax.tree.unflatten(tree, scaled)

    return optax.stateless(scale)


def _of_part(
    inner: optax.GradientTransformation, paths: Collection[str] | None
) -> optax.GradientTransformation:
    """A transformation of those parameters alone that have one of the paths; None for all."""

    def update(gradients, state, params):
        return inner.update(gradients, state, part(params, paths))

    return optax.GradientTransformation(lambda params: inner.init(part(params, paths)), update)


def _in_groups(
    clip: optax.GradientTransformation,
    groups: Mapping[str, tuple[Collection[str], optax.GradientTransformation]],
) -> optax.GradientTransformation:
    """Transformations of groups of parameters; those without gradients stay as they are."""

    def init(params):
        return {name: inner.init(part(params, paths)) for name, (paths, inner) in groups.items()}

    def update(gradients, state, params):
        gradients, _ = clip.update(gradients, clip.init(gradients))
        updates, state = {}, dict(state)
        for name, (paths, inner) in groups.items():
            if own := part(gradients, paths):
                new, state[name] = inner.update(own, state[name], part(params, paths))
                updates = merged(updates, new)
        return updates, state

    return optax.GradientTransformation(init, update)


def _adam(optim: ConfigDict, beta1: np.ndarray | None) -> optax.GradientTransformation:
    if beta1 is None:
        return optax.scale_by_adam(optim.beta1, optim.beta2, optim.eps)
    # Only beta1 is injected: the others stay Python numbers, which are not rounded before use.
    adam = optax.inject_hyperparams(
        optax.scale_by_adam, static_args=("b2", "eps", "eps_root", "mu_dtype", "nesterov")
    )
    return adam(_lookup(beta1), optim.beta2, optim.eps)


def _momentum(optim: ConfigDict, momentum: np.ndarray | None) -> optax.GradientTransformation:
    if momentum is not None:
        trace = optax.inject_hyperparams(optax.trace, static_args=("nesterov", "accumulator_dtype"))
        return trace(_lookup(momentum), nesterov=optim.nesterov)
    if optim.momentum > 0:
        return optax.trace(optim.momentum, nesterov=optim.nesterov)
    return optax.identity()


# Each (the `optim` part of a config, momentum table or None, weight decay as a list of none or one
# part) -> the parts between clipping and the learning rate. `checks.OPTIMIZERS` has the names.
OPTIMIZERS = {
    "adamw": lambda optim, momentum, decay: [_adam(optim, momentum), *decay],
    "adam": lambda optim, momentum, decay: [*decay, _adam(optim, momentum)],
    "sgd": lambda optim, momentum, decay: [*decay, _momentum(optim, momentum)],
}


def _lookup(table: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    return lambda count: jnp.asarray(table)[jnp.minimum(count, len(table) - 1)]


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale all gradients down together where their global norm is above `max_norm`.

    As `torch.nn.utils.clip_grad_norm_`: the factor is `min(1, max_norm / (norm + 1e-6))`. The
    1e-6, which `optax.clip_by_global_norm` does not have, would show in a float64 comparison.
    """

    def clip(updates, params=None):
        factor = jnp.minimum(1, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clip)


def decay_mask(params: Any, exclude: Sequence[str]) -> Any:
    """Tell for each parameter whether weight decay applies to it.

    Args:
      params: nested dicts of arrays.
      exclude: patterns (see `trainable`) of those that it does not apply to.

    Returns:
      The same tree with True (decayed) or False in place of the arrays.
    """
    paths = leaf_paths(params)
    left_out = matched(paths, exclude)
    return jax.tree.unflatten(jax.tree.structure(params), [path not in left_out for path in paths])
