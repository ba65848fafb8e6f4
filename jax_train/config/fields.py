"""The fields of a config: their names, what they hold, their form as JSON, and differences."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from jax_train.errors import UserError

# A run may go on under other values of these: they change no result.
_FREE = ("compare", "data.data_dir", "data.download", "data.memory_limit", "parallel", "mesh.")
_FREE += ("log.", "checkpoint.every_", "train.on_nonfinite")
# Fields that runs of earlier versions lack, and what held then.
_LATER = {"data.on_damaged": "stop", "data.max_megapixels": None}
_FROM_DATA = (None, "auto")  # filled in when the data is read
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "numbers separated by commas, or quoted texts such as \"'bias','norm'\"",
}
_EXAMPLES = {int: "8", float: "0.1", bool: "true", tuple: "0.5,0.5"}  # where the default is empty


def clear_none_tuples(config: ConfigDict) -> None:
    """Turn (None,), which `--config.data.mean=None` parses to, into None, in place."""
    with config.unlocked():
        for key, value in config.items():
            if isinstance(value, ConfigDict):
                clear_none_tuples(value)
            elif value == (None,):
                config[key] = None


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
    """Say what a field, config.GROUP.FIELD, takes; `place` is the group of the defaults.

    Such as: 'expected a whole number, for example --config.train.epochs=20'.
    """
    key = field.rpartition(".")[2]
    kind = place.get_type(key)
    example = str(place[key] or _EXAMPLES.get(kind, "…")).replace("True", "true")
    return f"expected {_KINDS[kind]}, for example --{field}={example}"


def to_json(config: ConfigDict) -> str:
    """The config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, default=list)


def differences(config: ConfigDict, stored: Path) -> list[str]:
    """Return a line `config.field: … there, … asked for` for each field that differs and matters.

    Fields of `config` left at None or 'auto' were, or will be, filled in from the data; `stored` is
    the config.json of a run.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        old = _LATER | flatten(ConfigDict(json.loads(stored.read_text())))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{stored} cannot be read ({error}). Choose another --workdir, or delete that folder."
        ) from error
    asked = flatten(ConfigDict(json.loads(to_json(config))))
    return [
        f"config.{field}: {old.get(field)} there, {value} asked for"
        for field, value in asked.items()
        if value not in _FROM_DATA and value != old.get(field) and not field.startswith(_FREE)
    ]
