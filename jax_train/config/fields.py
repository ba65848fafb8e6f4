"""The fields of a config: their names, what they hold, their form as JSON, and differences."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_train import recipes
from jax_train.files import json_text

# Fields, or what they begin with; see `is_free`.
_FREE: tuple[str, ...] = (
    "compare",
    "data.data_dir",
    "data.download",
    "data.memory_limit",
    "data.on_change",
)
_FREE += ("parallel", "mesh.", "log.", "checkpoint.every_", "train.on_nonfinite", "data.threads")
_AUTO = "auto"  # filled in from the data in any field that knows it
# Filled in from the data where they are None.
FROM_DATA = ("model.img_size", "model.in_channels", "model.num_classes", "data.mean", "data.std")
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "numbers separated by commas, or quoted texts such as \"'bias','norm'\"",
}
_EXAMPLES = {int: "8", float: "0.1", bool: "true", tuple: "0.5,0.5"}  # where the default is empty


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return {'optim.name': 'adamw', …}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def expectation(field: str, place: ConfigDict) -> str:
    """Say what a field, config.GROUP.FIELD, takes; `place` is the group of the defaults.

    Such as: 'expected a whole number, for example --config.train.epochs=20'. Where the default is
    None, that will do too.
    """
    key = field.rpartition(".")[2]
    kind = place.get_type(key)
    example = str(place[key] or _EXAMPLES.get(kind, "…")).replace("True", "true")
    flag = f"--{field}={example}"
    if shlex.quote(flag) != flag:
        flag = f'"{flag}"'  # a shell takes it so, tuples of texts too
    none = ", or None" * (place[key] is None)
    return f"expected {_KINDS[kind]}, for example {flag}{none}"


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON."""
    return json_text(config.to_dict(), indent=2, default=list)


def is_free(field: str) -> bool:
    """Whether a run may go on under another value of a field: it changes no result."""
    return field.startswith(_FREE)


class Stored(NamedTuple):
    """The config of a run as its config.json has it, perhaps written by another version.

    Attributes:
      fields: value of every field of this version; of a field that the file lacks the default,
        which means what was done before there was the field.
      missing: fields that the file lacks.
      unknown: values of fields that this version does not have.
    """

    fields: dict[str, Any]
    missing: tuple[str, ...]
    unknown: dict[str, Any]


def read_stored(path: str | os.PathLike) -> Stored:
    """Read a config.json.

    Raises:
      OSError, ValueError, TypeError: it cannot be read, or is no config.
    """
    found = flatten(ConfigDict(json.loads(Path(path).read_text())))
    defaults = flatten(ConfigDict(json.loads(to_json(recipes.defaults()))))
    missing = tuple(field for field in defaults if field not in found)
    unknown = {field: value for field, value in found.items() if field not in defaults}
    known = {field: found.get(field, default) for field, default in defaults.items()}
    return Stored(known, missing, unknown)


def from_fields(fields: dict[str, object]) -> ConfigDict:
    """Make a config of flat fields, lists as tuples."""
    nested: dict[str, Any] = {}
    for field, value in fields.items():
        *groups, key = field.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = tuple(value) if isinstance(value, list) else value
    return ConfigDict(nested)


def differences(config: ConfigDict, stored: Stored, ignored: Sequence[str] = ()) -> dict[str, str]:
    """Return a line `config.field: … there, … asked for` by field that differs and matters.

    Those of `FROM_DATA` that are None in `config`, and all that are 'auto', will be filled in, and
    those that the file lacks cannot be compared; `ignored` are further fields that may differ.
    """
    lines = {
        field: f"config.{field}: {value} there, not known to this version"
        for field, value in stored.unknown.items()
        if not is_free(field)
    }
    for field, value in flatten(ConfigDict(json.loads(to_json(config)))).items():
        there = stored.fields.get(field)
        filled = field in FROM_DATA and (value is None or field in stored.missing)
        filled |= value == _AUTO
        if value != there and not filled and field not in ignored and not is_free(field):
            lines[field] = f"config.{field}: {there} there, {value} asked for"
    return lines
