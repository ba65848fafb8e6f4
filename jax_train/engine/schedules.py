"""Learning-rate schedules as tables.

A schedule is worked out in float64 for every step of the run before the run starts, so that it can
be inspected and equals PyTorch's to the last bit that float32 holds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict


class Schedule(NamedTuple):
    """The hyperparameters of every optimizer step; entry t belongs to step t, counted from 0.

    The tables are float64: they are rounded once, when they become jax arrays (to float32, or not
    at all where `jax_enable_x64` is set).

    Attributes:
      learning_rate: `[total_steps]` float64.
      momentum: `[total_steps]` float64, what beta1 or the momentum is then; None where it does not
        change.
    """

    learning_rate: np.ndarray
    momentum: np.ndarray | None = None

    def after(self, steps: int) -> "Schedule":
        """What is left of it after so many steps."""
        return Schedule(*(table if table is None else table[steps:] for table in self))


def at_step(table: np.ndarray, step: jax.Array) -> jax.Array:
    """The entry of a step; after the end of the table its last one."""
    return jnp.asarray(table)[jnp.minimum(step, len(table) - 1)]


def schedule_tables(config: ConfigDict, steps_per_epoch: int) -> Schedule:
    """Work out the schedule of a whole run of `config.train.epochs * steps_per_epoch` steps.

    - `cosine`: `torch.optim.lr_scheduler.CosineAnnealingLR` over the whole run, stepped after each
      step or each epoch (SGDR, https://arxiv.org/abs/1608.03983, without restarts).
    - `linear`: `torch.optim.lr_scheduler.LinearLR`, down to the final rate.
    - `trapezoid`: flat, then linear down to the final rate over the last `cooldown_epochs`
      (https://arxiv.org/abs/2405.18392, there "constant with cooldown").
    - `onecycle`: `torch.optim.lr_scheduler.OneCycleLR` with cosine annealing and two phases
      (https://arxiv.org/abs/1708.07120).
    - `constant`.

    All but `onecycle` may begin with a linear warm-up: step t of w warm-up steps has t/w of the way
    from `warmup_factor` to the peak. It changes every step, whatever `config.schedule.unit`, so
    that no whole epoch is spent at rate 0; the rate then falls over what is left of
    `config.schedule.length_epochs`, and stays at its end. After `stop_epochs` it is 0.

    Args:
      config: the whole config, checked; `schedule`, `optim` and `train.epochs` are read.
      steps_per_epoch: optimizer steps in an epoch, at least 1.
    """
    schedule = config.schedule
    steps = np.arange(config.train.epochs * steps_per_epoch, dtype=np.float64)
    rates, momentum = SCHEDULES[schedule.name](config, steps_per_epoch, steps)
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    if warmup_steps > 0:
        first = schedule.warmup_factor
        rates = rates * (first + (1 - first) * np.minimum(steps / warmup_steps, 1))
    if schedule.stop_epochs > 0:
        rates = np.where(steps < schedule.stop_epochs * steps_per_epoch, rates, 0)
    return Schedule(rates, momentum)


def _constant(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    return Schedule(np.full(len(steps), config.optim.learning_rate, np.float64))


def _cosine(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    changed, warmup_steps, length = _times(config, steps_per_epoch, steps)
    progress = np.minimum((changed - warmup_steps) / (length - warmup_steps), 1)
    peak = config.optim.learning_rate
    return Schedule(_half_wave(peak, config.schedule.final_factor * peak, progress))


def _linear(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    changed, warmup_steps, length = _times(config, steps_per_epoch, steps)
    left = (length - changed) / (length - warmup_steps)
    return Schedule(_falling(config, left))


def _trapezoid(config: ConfigDict, steps_per_epoch: int, steps: np.ndarray) -> Schedule:
    changed, _, length = _times(config, steps_per_epoch, steps)
    left = (length - changed) / (config.schedule.cooldown_epochs * steps_per_epoch)
    return Schedule(_falling(config, left))


def _times(
    config: ConfigDict, steps_per_epoch: int, steps: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """At which step each step's rate last changed, when the warm-up ends, and when the schedule."""
    schedule = config.schedule
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    every = steps_per_epoch if schedule.unit == "epoch" else 1
    changed = np.maximum(steps // every * every, warmup_steps)
    return changed, warmup_steps, schedule.length_epochs * steps_per_epoch or len(steps)


def _falling(config: ConfigDict, left: np.ndarray) -> np.ndarray:
    """The peak as long as `left` is 1 or more, and at 0 the final rate."""
    peak = config.optim.learning_rate
    end = config.schedule.final_factor * peak
    return end + (peak - end) * np.clip(left, 0, 1)


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
# `field_checks.SCHEDULES` has the names.
SCHEDULES = {
    "cosine": _cosine,
    "linear": _linear,
    "trapezoid": _trapezoid,
    "onecycle": _one_cycle,
    "constant": _constant,
}
