"""Checks on a config, before anything slow starts; and its form in a run folder."""

import math

from ml_collections import ConfigDict

from jax_train.config.fields import _TUPLES, expectation
from jax_train.errors import UserError, nearest

DTYPES = ("float32", "bfloat16", "float64")


def clear_none_tuples(config: ConfigDict) -> None:
    """Turn (None,), which `--config.data.mean=None` parses to, into None, in place."""
    with config.unlocked():
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                clear_none_tuples(value)
            elif value == (None,):
                config[key] = None


def validate(config: ConfigDict, defaults: ConfigDict) -> None:
    """Check that a config has exactly the fields of the defaults, each of the same type.

    Raises:
      UserError: a field is missing, unknown or of another type; names the nearest field.
    """
    _check_fields(config, defaults, "config")
    train, evaluation = config.train, config.eval
    _at_least("config.train.epochs", train.epochs, 1)
    _at_least("config.train.batch_size", train.batch_size, 1)
    _at_least("config.train.accumulate_steps", train.accumulate_steps, 1)
    _at_least("config.train.steps_per_call", train.steps_per_call, 0)
    _at_least("config.eval.batch_size", evaluation.batch_size, 1)
    _at_least("config.eval.every_epochs", evaluation.every_epochs, 1)
    _at_least("config.log.every_steps", config.log.every_steps, 1)
    _at_least("config.checkpoint.every_steps", config.checkpoint.every_steps, 0)
    if config.checkpoint.every_minutes < 0:
        raise UserError(
            f"config.checkpoint.every_minutes={config.checkpoint.every_minutes}: expected minutes "
            "from 0 (off) up."
        )
    if train.on_nonfinite not in ("stop", "skip"):
        raise UserError(
            f"config.train.on_nonfinite={train.on_nonfinite!r}: expected 'stop' or 'skip'."
        )
    _at_least("config.seed", config.seed, 0)
    _at_least("config.augment.resize", config.augment.resize, 0)
    _at_most("config.seed", config.seed, 2**32 - 1)  # JAX takes 32 bits: a larger one is another
    _at_most("config.train.epochs", train.epochs, 1_000_000)  # the schedule is a table of all steps
    if not 0 <= train.label_smoothing < 1:
        raise UserError(
            f"config.train.label_smoothing={train.label_smoothing}: expected a share from 0 up to "
            "below 1."
        )
    if config.dtype not in DTYPES:
        raise UserError(f"config.dtype={config.dtype!r}: expected one of {', '.join(DTYPES)}.")
    if config.checkpoint.report not in ("best", "last"):
        raise UserError(
            f"config.checkpoint.report={config.checkpoint.report!r}: expected 'best' or 'last'."
        )


def _at_least(field, value, least):
    if value < least:
        raise UserError(f"{field}={value}: expected a whole number of at least {least}.")


def _at_most(field, value, most):
    if value > most:
        raise UserError(f"{field}={value}: expected a whole number of at most {most}.")


def _check_fields(config, defaults, path):
    for key in config:
        if key not in defaults:
            raise UserError(f"{path}.{key} is no field{nearest(key, defaults)}.")
    for key in defaults:
        if key not in config:
            raise UserError(
                f"{path}.{key} is missing: {path} was replaced as a whole. Set its fields one by "
                f"one instead, as in --{path}.{key}=…"
            )
        wanted = defaults.get_type(key)
        if isinstance(defaults[key], ConfigDict):
            if not isinstance(config[key], ConfigDict):
                raise UserError(
                    f"{path}.{key}={config[key]!r}: expected a group of fields. Set them one by "
                    f"one, as in --{path}.{key}.{next(iter(defaults[key]))}=…"
                )
            _check_fields(config[key], defaults[key], f"{path}.{key}")
        elif config[key] is not None and not _fits(config[key], wanted):
            raise UserError(
                f"{path}.{key}={config[key]!r}: expected {wanted.__name__}, got "
                f"{type(config[key]).__name__}."
            )
        elif config[key] is None and defaults[key] is not None:
            raise UserError(f"{path}.{key}=None: expected {wanted.__name__}.")
        elif not _holds_what_it_should(key, config[key]):
            raise UserError(
                f"{path}.{key}={config[key]!r}: {expectation(f'{path}.{key}', defaults)}."
            )


def _holds_what_it_should(key, value) -> bool:
    """Whether a number is finite, and a tuple has elements of its type."""
    if isinstance(value, tuple) and key in _TUPLES:
        kind = _TUPLES[key][0]
        return all(_fits(element, kind) and _is_finite(element) for element in value)
    return _is_finite(value)


def _is_finite(value) -> bool:
    """Whether a value is finite if it is a number; nan passes through many comparisons."""
    if not isinstance(value, int | float):
        return True
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number above all floats
        return False


def _fits(value, wanted) -> bool:
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)
