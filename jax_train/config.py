"""Checks on a config, before anything slow starts; and its form in a run folder."""

import difflib
import json
from pathlib import Path

from ml_collections import ConfigDict

from jax_train.errors import UserError

# A run may go on under other values of these: they change no result.
_FREE = ("data.data_dir", "data.download", "log.")


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Return {'optim.name': 'adamw', …}."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_overrides(argv: list[str], defaults: ConfigDict) -> None:
    """Check the names of `--config.GROUP.FIELD` flags before they are applied.

    Raises:
      UserError: no such field; names the nearest one.
    """
    for argument in argv:
        flag = argument.split("=")[0].lstrip("-")
        if argument.startswith("-") and flag.startswith("config."):
            _check_override(flag, defaults)


def _check_override(flag, defaults):
    path, known = "config", defaults
    for part in flag.split(".")[1:]:
        if not isinstance(known, ConfigDict) or part not in known:
            known = known if isinstance(known, ConfigDict) else ()
            everywhere = [f for f in flatten(defaults) if f.split(".")[-1] == part]
            hint = f" (did you mean config.{everywhere[0]}?)" if everywhere else None
            raise UserError(f"--{flag}: {path}.{part} is no field{hint or nearest(part, known)}.")
        path, known = f"{path}.{part}", known[part]
    if isinstance(known, ConfigDict):
        raise UserError(
            f"--{flag} would replace all fields of {flag}. Set them one by one, as in "
            f"--{flag}.{next(iter(known))}=…"
        )


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
    _at_least("config.train.steps_per_call", train.steps_per_call, 0)
    _at_least("config.eval.batch_size", evaluation.batch_size, 1)
    _at_least("config.eval.every_epochs", evaluation.every_epochs, 1)
    _at_least("config.log.every_steps", config.log.every_steps, 1)
    _at_least("config.seed", config.seed, 0)
    if not 0 <= train.label_smoothing < 1:
        raise UserError(
            f"config.train.label_smoothing={train.label_smoothing}: expected a share from 0 up to "
            "below 1."
        )
    if config.checkpoint.report not in ("best", "last"):
        raise UserError(
            f"config.checkpoint.report={config.checkpoint.report!r}: expected 'best' or 'last'."
        )


def _at_least(field, value, least):
    if value < least:
        raise UserError(f"{field}={value}: expected a whole number of at least {least}.")


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


def _fits(value, wanted) -> bool:
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def nearest(word: str, known) -> str:
    """Return ' (did you mean …?)' or, when nothing is near, the list of what is known."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if matches:
        return f" (did you mean {matches[0]}?)"
    return f" (there are: {', '.join(sorted(known))})"


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
