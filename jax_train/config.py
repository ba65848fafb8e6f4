"""Checks on a config, before anything slow starts; and its form in a run folder."""

import json
import math
from pathlib import Path

from ml_collections import ConfigDict

from jax_train.errors import UserError, nearest

# A run may go on under other values of these: they change no result.
_FREE = (
    "compare",
    "data.data_dir",
    "data.download",
    "data.memory_limit",
    "parallel",
    "mesh.",
    "log.",
    "checkpoint.every_",
    "train.on_nonfinite",
)

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_EXAMPLES = {int: "8", float: "0.1", bool: "true"}  # where the default is empty
# What the tuples hold, and an example as one types it.
_TUPLES = {
    "widths": (int, "whole numbers separated by commas", "64,128"),
    "head_dims": (int, "whole numbers separated by commas", "512,256"),
    "mean": (float, "numbers separated by commas", "0.5,0.5,0.5"),
    "std": (float, "numbers separated by commas", "0.5,0.5,0.5"),
    "compare": (str, "quoted model names separated by commas", "\"'simple_cnn','mnist_cnn'\""),
    "decay_exclude": (str, "quoted regexes separated by commas", "\"'bias','norm'\""),
}


DTYPES = ("float32", "bfloat16", "float64")


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Return {'optim.name': 'adamw', …}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def expectation(field: str, place: ConfigDict) -> str:
    """Say what a field takes: 'expected a whole number, for example --config.train.epochs=20'.

    Args:
      field: its whole path, config.GROUP.FIELD.
      place: the group of the defaults that holds it.
    """
    key = field.rpartition(".")[2]
    kind = place.get_type(key)
    _, what, example = _TUPLES.get(key, (None, _KINDS.get(kind, kind.__name__), None))
    example = example or place[key] or _EXAMPLES.get(kind, "…")
    return f"expected {what}, for example --{field}={str(example).replace('True', 'true')}"


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


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, default=list)


def differences(config: ConfigDict, stored: Path) -> list[str]:
    """Compare a config with the one a run folder holds.

    Args:
      config: what is asked for now. Fields left at None were, or will be, filled in from the data.
      stored: a run's config.json.

    Returns:
      One line `config.field: … there, … asked for` for each field that differs and matters.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        old = flatten(ConfigDict(json.loads(stored.read_text())))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{stored} cannot be read ({error}). Choose another --workdir, or delete that folder."
        ) from error
    lines = []
    for field, value in flatten(config).items():
        before = old.get(field)
        value = list(value) if isinstance(value, tuple) else value
        before = list(before) if isinstance(before, tuple) else before
        if value is not None and value != before and not field.startswith(_FREE):
            lines.append(f"config.{field}: {before} there, {value} asked for")
    return lines
