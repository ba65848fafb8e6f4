"""Averages of the weights along the way: what is evaluated in place of the last weights.

Three methods in one form. After each step the average takes a share of the new weights:

- EMA: the share is 1 - decay, and training does not see the average.
- Lookahead (https://arxiv.org/abs/1907.08610): every k steps, and training goes on from there.
- Schedule-free (https://arxiv.org/abs/2405.15682): the gradient is taken between the two.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.engine.field_checks import SCHEDULE_FREE
from jax_train.engine.schedules import Schedule, at_step
from jax_train.engine.state import TrainState, Weights


@dataclass(frozen=True)
class Average:
    """How the weights are averaged.

    Attributes:
      shares: float64 [total_steps], what the average takes of the weights after each step.
      restarts: training goes on from the average wherever it takes something.
      beta: the place between the weights (0) and their average (1) where gradients are taken; above
        0 the average is of the parameters alone, and the batch statistics are the newest.
    """

    shares: np.ndarray
    restarts: bool = False
    beta: float = 0.0


def is_on(config: ConfigDict) -> bool:
    """Whether a config has the weights averaged."""
    free = config.optim.name == SCHEDULE_FREE
    return free or config.optim.lookahead_steps > 0 or config.train.ema_decay > 0


def create(config: ConfigDict, schedule: Schedule) -> Average | None:
    """Make of a checked config, and its schedule, how weights are averaged; None: not.

    Raises:
      UserError: the run would end before the average takes anything.
    """
    if not is_on(config):
        return None
    done = np.arange(len(schedule.learning_rate), dtype=np.float64)  # steps before each
    if config.optim.name == SCHEDULE_FREE:
        return Average(_of_rates(schedule.learning_rate), beta=config.optim.beta1)
    if every := config.optim.lookahead_steps:
        if every > len(done):
            expected = f"at most {len(done):,}, the steps of the run, or 0"
            raise ranges.refusal("optim.lookahead_steps", every, expected)
        kept = (1 - config.optim.lookahead_alpha) * _progress(done) ** config.optim.lookahead_power
        return Average(np.where((done + 1) % every == 0, 1 - kept, 0), restarts=True)
    return Average(1 - np.minimum(config.train.ema_decay, WARMUPS[config.train.ema_warmup](done)))


def _progress(done: np.ndarray) -> np.ndarray:
    """The share of the run that is over after each step."""
    return (done + 1) / len(done)


def _of_rates(rates: np.ndarray) -> np.ndarray:
    """Shares of an average of all steps, weighted by the square of the largest rate so far."""
    weights = np.square(np.maximum.accumulate(rates))
    sums = np.cumsum(weights)
    return np.divide(weights, sums, out=np.ones(len(rates)), where=sums > 0)


# Each (steps done before) -> the most that the average may keep of itself. The names are in
# `field_checks.EMA_WARMUPS`.
WARMUPS = {
    "none": lambda done: np.ones(len(done)),
    "tf": lambda done: (1 + done) / (10 + done),  # tf.train.ExponentialMovingAverage
    "timm": lambda done: 1 - (1 + done) ** (-2 / 3),  # timm's ModelEmaV3
}


def gradient_params(average: Average | None, state: TrainState) -> Any:
    """The parameters at which the gradient of the next step is taken."""
    if average is None or not average.beta:
        return state.params
    return _between(state.params, state.averaged.params, average.beta)


def updated(average: Average, state: TrainState, step: jax.Array) -> TrainState:
    """A state after a step, of which the average is still that before it.

    Args:
      average: how the weights are averaged.
      state: with the new weights.
      step: the number of the step, counted from 0.
    """
    share = at_step(average.shares, step)
    new = Weights(state.params, state.stats)
    averaged = _between(state.averaged, new, share)
    if average.beta:
        averaged = averaged._replace(stats=state.stats)
    if average.restarts:
        new = jax.tree.map(lambda a, b: jnp.where(share > 0, a, b), averaged, new)
    return state._replace(params=new.params, stats=new.stats, averaged=averaged)


def _between(start: Any, end: Any, share: jax.Array | float) -> Any:
    """Go a share of the way; equal weights stay as they are, and counters are those of `end`."""

    def one(a, b):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            return b
        return a + jnp.asarray(share, a.dtype) * (b - a)

    return jax.tree.map(one, start, end)
