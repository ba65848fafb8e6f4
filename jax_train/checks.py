"""Everything that can be refused of a config without its data, before anything slow.

The checks of a field stand beside the code that they guard, in its room: a table CHECKS and, for
fields that have to go together, a function `check`. Here they meet, above all the rooms that have
some, and below the training that begins with them. The tables together name every field there is.
Importing this does not import JAX, nor does `check_fields`.
"""

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data import checks as data
from jax_train.engine import checks as engine
from jax_train.runs import trackers

_ROOMS = (engine, trackers, data)
_LOOP = {  # fields of the training loop
    "train.steps_per_call": ranges.whole(0),
    "train.patience": ranges.whole(0, what="a whole number of evaluations"),
    "eval.batch_size": ranges.whole(1),
    "eval.every_epochs": ranges.whole(1),
    "checkpoint.every_steps": ranges.whole(0),
    "checkpoint.every_minutes": ranges.at_least(0),
    "checkpoint.report": ranges.one_of(("best", "last")),
    "log.every_steps": ranges.whole(1),
    "log.progress": ranges.switch,
}
_TABLES = (_LOOP, *(room.CHECKS for room in _ROOMS))
CHECKS = {field: check for table in _TABLES for field, check in table.items()}


def check_fields(config: ConfigDict) -> None:
    """Check each field, and what has to go together, as far as can be told without JAX.

    Raises:
      UserError: names a field, its value, what was expected and what to do.
    """
    ranges.check_fields(config, CHECKS)
    check_patience(config, config.data.val_split != "")
    for room in _ROOMS:
        room.check(config)


def check_patience(config: ConfigDict, validates: bool) -> None:
    """Raise a UserError where early stopping has no validation images to go by."""
    if config.train.patience and not validates:
        expected = "0, because there are no validation images whose figures could stop improving"
        cure = "To stop early give it some, as in --config.data.val_split='train[90%:]'."
        raise ranges.refusal("train.patience", config.train.patience, expected, cure)


def check(config: ConfigDict) -> None:
    """Check all of a config, whatever does not depend on its data.

    Raises:
      UserError: names a field, its value, what was expected and what to do; or JAX was told to use
        devices that are not there.
    """
    check_fields(config)
    from jax_train.engine import models, parallel  # they import JAX
    from jax_train.machine import runtime

    runtime.check_devices()
    parallel.check(config)
    models.check(config)
