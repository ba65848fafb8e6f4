"""Everything that can be refused of a config without its data: `check`, before anything slow.

The checks of a field stand beside the code that they guard: a table CHECKS and, for fields that
have to go together, a function `check`. Here they meet, above all the rooms that have some, and
below the training that begins with them. The tables together name every field there is.
"""

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data import checks as data
from jax_train.engine import augment, models, optim, parallel, recipe
from jax_train.machine import runtime
from jax_train.runs import trackers

# Quick ones first: models are built, without weights, to see whether they can be.
_ROOMS = (optim, augment, parallel, trackers, data, models)
_LOOP = {  # fields of the training loop
    "train.steps_per_call": ranges.whole(0),
    "eval.batch_size": ranges.whole(1),
    "eval.every_epochs": ranges.whole(1),
    "checkpoint.every_steps": ranges.whole(0),
    "checkpoint.every_minutes": ranges.at_least(0),
    "checkpoint.report": ranges.one_of(("best", "last")),
    "log.every_steps": ranges.whole(1),
    "log.progress": ranges.switch,
}
_TABLES = (_LOOP, recipe.CHECKS, *(room.CHECKS for room in _ROOMS))
CHECKS = {field: check for table in _TABLES for field, check in table.items()}


def check(config: ConfigDict) -> None:
    """Check all of a config, whatever does not depend on its data.

    Raises:
      UserError: names a field, its value, what was expected and what to do; or JAX was told to use
        devices that are not there.
    """
    ranges.check_fields(config, CHECKS)
    runtime.check_devices()
    for room in _ROOMS:
        room.check(config)
