"""Flags of the command line, checked before they are applied.

The flag parsers say "invalid literal for int()" or "Unknown command line flag" and no more. Here a
mistake is told with the field, what it takes, and what to type instead.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.tuple_parser import TupleParser

from jax_train import recipes
from jax_train.config.fields import expectation, flatten
from jax_train.errors import UserError, close, nearest

_PARSERS = {
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    bool: flags.BooleanParser(),
    tuple: TupleParser(),
}


def check(arguments: Sequence[str], defaults: ConfigDict) -> None:
    """Check the names and values of `--config.GROUP.FIELD` flags, and that `--config` is a file.

    Args:
      arguments: the command line, without the program.
      defaults: the config whose fields can be set.

    Raises:
      UserError: no such field, with the nearest one; a value that is not of the field's type; a
        field set before the config file is named; or a config file that is missing.
    """
    names = [name for name, _, _ in _flags(arguments)]
    early = [name for name in names if name.startswith(("config.", "noconfig."))]
    if "config" in names and early and names.index(early[0]) < names.index("config"):
        raise UserError(f"--config FILE must stand before --{early[0]}: put it first.")
    for name, value, joined in _flags(arguments):
        if name == "config":
            _check_file(value)
        negated = name.startswith("noconfig.")
        flag = name.removeprefix("no") if negated else name
        if flag.startswith("config."):
            place, key = _find(flag, defaults)
            if negated and place.get_type(key) is not bool:
                raise UserError(f"--{name}: {flag} is no switch; {expectation(flag, place)}.")
            if not negated:
                _check_value(flag, value, joined, place)


def join_seeds(arguments: Sequence[str]) -> list[str]:
    """Write `--seeds 0 1 2` as `--seeds=0,1,2`: the parser takes one value a flag."""
    left, rest = [], list(arguments)
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        if argument in ("--seeds", "-seeds"):
            values = list(itertools.takewhile(lambda one: not one.startswith("--"), rest))
            rest, argument = rest[len(values) :], f"--seeds={','.join(values)}"
        left.append(argument)
    return left + rest


def parse_seeds(texts: Sequence[str]) -> list[int]:
    """Read the values of --seeds.

    Raises:
      UserError: there is none, one is no seed, or one stands there twice.
    """
    given, seeds = f"--seeds {' '.join(texts)}".rstrip(), []
    for text in texts:
        if not (text.isascii() and text.isdecimal()) or int(text) >= 2**32:
            expected = "expected whole numbers from 0 to 4294967295, such as --seeds 0 1 2."
            raise UserError(f"{given}: {text!r} is no seed; {expected}")
        if int(text) in seeds:
            raise UserError(f"{given}: {text} stands there twice. Name each seed once.")
        seeds.append(int(text))
    if not seeds:
        raise UserError(f"{given}: there is no seed. Name some, such as --seeds 0 1 2.")
    return seeds


def take_nones(arguments: Sequence[str], defaults: ConfigDict) -> tuple[list[str], list[str]]:
    """Take `--config.GROUP.FIELD=None` out of a command line: the parsers of values know no None.

    That is for fields whose default is None. Of several values of a field the last one counts.

    Returns:
      The arguments that are left, and the fields, such as 'model.depth', that are to be None.
    """
    optional = {f"config.{field}" for field, value in flatten(defaults).items() if value is None}
    left, last, rest = [], {}, list(arguments)
    while rest and rest[0] != "--":
        given = [rest.pop(0)]
        name, equals, value = given[0].lstrip("-").partition("=")
        if given[0].startswith("-") and name in optional:
            if not equals and rest:
                given.append(value := rest.pop(0))
            last[name] = value
            if value == "None":
                continue
        left += given
    nones = [name.removeprefix("config.") for name, value in last.items() if value == "None"]
    return left + rest, nones


def _check_file(name: str | None) -> None:
    """Refuse a config file that is missing: the parser of its fields breaks without a message."""
    if name is None:
        raise UserError("--config has no value: expected a file, as in --config configs/NAME.py.")
    file = name.partition(":")[0]  # what follows is handed to its get_config
    if os.path.isfile(file):
        return
    here, stems = Path.cwd(), recipes.names()
    shown = recipes.FOLDER
    shown = shown.relative_to(here) if shown.is_relative_to(here) else shown
    near = close(Path(file).stem, stems)
    hint = f"Did you mean {shown / near}.py ?\n" if near else ""
    raise UserError(
        f"--config {name or repr(name)} cannot be read: there is no such file.\n"
        f"{hint}In {shown} there are: {', '.join(f'{stem}.py' for stem in stems)}."
    )


def unknown_flag(name: str, arguments: Sequence[str], own: Sequence[str], defaults) -> str:
    """Say that a flag is not known, and what it may have been meant to be.

    Args:
      name: the flag, without dashes and value.
      arguments, defaults: as of `check`.
      own: names of the program's own flags.
    """
    value = next((value for flag, value, _ in _flags(arguments) if flag == name), None)
    end = "" if value is None else f"={value}"
    near = [flag] if (flag := close(name, own)) else []
    word = name.removeprefix("config.").replace("-", "_")
    fields = _fields_called(word, defaults)
    if not fields:
        groups = [key for key in defaults if f"{key}.name" in flatten(defaults)]
        names = [field.rpartition(".")[2] for field in flatten(defaults)] + groups
        like = close(word.rpartition(".")[2], names)
        fields = _fields_called(like, defaults) if like else []
    near = near or [f"config.{field}" for field in fields]
    start = f"{'-' if len(name) == 1 else '--'}{name}{end} is no flag."
    if near:
        return f"{start} Did you mean {' or '.join(f'--{flag}{end}' for flag in near)} ?"
    return (
        f"{start} There are {', '.join(f'--{flag}' for flag in own)} and, for every field in "
        "configs/common.py, --config.GROUP.FIELD=VALUE."
    )


def _fields_called(word: str, defaults: ConfigDict) -> list[str]:
    """Fields whose path, name, group or initials (lr) a word is; those of training first."""
    fields = sorted(flatten(defaults), key=lambda field: not field.startswith("train."))
    if word in fields:
        return [word]
    key = word.rpartition(".")[2]
    names = {field: field.rpartition(".")[2] for field in fields}
    groups = {field: field.removesuffix(".name") for field in fields}  # --model=vit
    usual = [field for field, value in flatten(defaults).items() if value is not None]
    initials = {field: "".join(part[:1] for part in names[field].split("_")) for field in usual}
    for called in (names, groups, initials):
        if found := [field for field in fields if called.get(field) == key and len(key) > 1]:
            return found
    return []


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str | None, bool]]:
    """Yield name, value and whether an '=' joins them; the value may be the next argument."""
    for i, argument in enumerate(arguments):
        if argument == "--":
            return
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            after = arguments[i + 1] if i + 1 < len(arguments) else "--"
            yield name, value if equals else None if after.startswith("--") else after, bool(equals)


def _find(flag: str, defaults: ConfigDict) -> tuple[ConfigDict, str]:
    """Return the group that holds the field of a flag, and the field's own name."""
    path, place, known = "config", defaults, defaults
    for part in flag.split(".")[1:]:
        if not isinstance(known, ConfigDict) or part not in known:
            here = known if isinstance(known, ConfigDict) else ()
            elsewhere = [] if part in defaults else _fields_called(part, defaults)
            hint = f" (did you mean config.{elsewhere[0]}?)" if elsewhere else nearest(part, here)
            raise UserError(f"--{flag}: {path}.{part} is no field{hint}.")
        path, place, known = f"{path}.{part}", known, known[part]
    if isinstance(known, ConfigDict):
        raise UserError(
            f"--{flag} would replace all fields of {flag}. Set them one by one, as in "
            f"--{flag}.{next(iter(known))}=…"
        )
    return place, part


def _check_value(flag: str, value: str | None, joined: bool, place: ConfigDict) -> None:
    key = flag.rpartition(".")[2]
    kind = place.get_type(key)
    if value == "None" and place[key] is None:
        return
    if kind is bool and not joined:
        if value is not None and not value.startswith("-"):
            raise UserError(f"--{flag} {value}: a switch needs '=', as in --{flag}={value}.")
        return
    if value is None:
        raise UserError(f"--{flag} has no value: {expectation(flag, place)}.")
    try:
        _PARSERS.get(kind, flags.ArgumentParser()).parse(value)
    except (ValueError, TypeError, MemoryError, RecursionError):
        raise UserError(f"--{flag}={value}: {expectation(flag, place)}.") from None
