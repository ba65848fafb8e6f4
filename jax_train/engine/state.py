"""What changes in training, as plain pytrees of arrays."""

from typing import Any, NamedTuple

import jax

from jax_train.engine.metrics import TrainSums


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


class Progress(NamedTuple):
    """All that a run needs to go on from a step as if nothing had happened, on the device."""

    state: TrainState
    sums: TrainSums  # since the last log line
