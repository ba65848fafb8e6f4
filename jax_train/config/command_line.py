"""The command line of training: its flags, and what they make of the recipe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from jax_train import recipes
from jax_train.config import flags as checked
from jax_train.errors import UserError, nearest

_HELP = """Train an image classifier in JAX.

  {program} vit_cifar10
  {program} vit_cifar10 --config.train.epochs=5
  {program} --config FILE.py

Every field of a config can be changed by --config.GROUP.FIELD=VALUE;
configs/common.py lists them all with their meaning, and so does
`python -m jax_train recipes common`. Running the same command again goes on
after an interruption.

flags:
{flags}"""
_NO_CONFIG_FILE = (
    "The config cannot be loaded: {}. A config file defines get_config() and starts from the "
    "config of `from jax_train.recipes import common`."
)


class CommandLine(NamedTuple):
    """What is to be trained, and how.

    Attributes:
      config: the recipe with the fields that were set, locked; not checked yet.
      given: those fields, without 'config.' -> value.
      workdir: the run folder.
      seeds: to train by in turn; None for that of the config.
      again: train anew what is finished.
      extend: go on with a run of fewer epochs.
      keep_memory: tune the allocator.
      distributed: several processes train, and JAX finds them.
      by_hand: address of the first process, number of processes, which one this is.
    """

    config: ConfigDict
    given: Mapping[str, object]
    workdir: Path
    seeds: list[int] | None
    again: bool
    extend: bool
    keep_memory: bool
    distributed: bool
    by_hand: tuple[str | None, int | None, int | None]


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether the flags are to be explained."""
    return any(argument in ("--help", "-help", "-h") for argument in arguments)


def help_text(program: str) -> str:
    """The flags with their meaning, for people."""
    values, _ = _define([program])
    _, _, own = values.get_help(include_special_flags=False).partition(":\n")
    return _HELP.format(program=program, flags=own)


def parse(arguments: Sequence[str]) -> CommandLine:
    """Parse what stands behind the program, and load the recipe.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, or a config file that is
        missing or cannot be run.
    """
    defaults = recipes.defaults()
    given = checked.join_seeds(_with_config(arguments))
    checked.check(given, defaults)
    line, nones = checked.take_nones(given, defaults)
    values, config = _define(["", *line])
    own = [*values]
    try:
        rest = values(["", *line])
        # What is wrong with the file shows only when it is first touched.
        config.value.update_from_flattened_dict(dict.fromkeys(nones))
    except flags.UnrecognizedFlagError as error:
        text = checked.unknown_flag(error.flagname, line, [*own, "help"], defaults)
        raise UserError(text) from error
    except flags.Error as error:
        text = str(error)
        if "Traceback" in text:  # from within the config file; its last line says what is wrong
            text = _NO_CONFIG_FILE.format(text.strip().splitlines()[-1].rstrip("."))
        raise UserError(text) from error
    except Exception as error:  # a config file is a program: anything can go wrong in it
        raise UserError(_NO_CONFIG_FILE.format(f"{type(error).__name__}: {error}")) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is no flag. A recipe stands first, before all flags.")
    return _command_line(values, config.value)


def _command_line(values: flags.FlagValues, config: ConfigDict) -> CommandLine:
    flag = values["config"]
    name = Path(config_flags.get_config_filename(flag)).stem
    given = config_flags.get_override_values(flag)
    seeds = None if values.seeds is None else checked.parse_seeds(values.seeds)
    if seeds is not None and "seed" in given:
        raise UserError("--config.seed and --seeds: the latter stands for the former. Give one.")
    return CommandLine(
        config=config,
        given=given,
        workdir=Path(values.workdir or Path("runs") / name),
        seeds=seeds,
        again=values.if_finished == "again",
        extend=values.extend,
        keep_memory=values.keep_memory,
        distributed=values.distributed,
        by_hand=(values.coordinator, values.num_processes, values.process_id),
    )


def _with_config(arguments: Sequence[str]) -> list[str]:
    """Write the recipe, the first word or else the default, as --config FILE."""
    word = arguments[0] if arguments and not arguments[0].startswith("-") else None
    named = any(argument.lstrip("-").split("=")[0] == "config" for argument in arguments)
    if word is None:
        default = [f"--config={recipes.path_of(recipes.DEFAULT)}"]
        return [*arguments] if named else [*default, *arguments]
    if named:
        raise UserError(f"{word!r} and --config both name the recipe. Give one.")
    return [f"--config={_find(word)}", *arguments[1:]]


def _find(word: str) -> str:
    """The file of a recipe by its name, or a file by its path, with or without '.py'."""
    name, colon, rest = word.partition(":")  # what follows is handed to its get_config
    known = recipes.names()
    paths = [str(recipes.path_of(name))] if name in known else [name, f"{name}.py"]
    for path in filter(os.path.isfile, paths):
        return path + colon + rest
    raise UserError(
        f"{name!r}: there is neither a recipe nor a file of that name"
        f"{nearest(Path(name).stem, known)}."
    )


def _define(line: Sequence[str]) -> tuple[flags.FlagValues, flags.FlagHolder[ConfigDict]]:
    """Define the flags of a command line, program included; apart from those of other programs."""
    values = flags.FlagValues()

    def add(define, name, default, meaning):
        define(name, default, meaning, flag_values=values)

    recipe = f"the recipe, a Python file; without it the recipe {recipes.DEFAULT}"
    config = config_flags.DEFINE_config_file(
        "config", None, recipe, flag_values=values, sys_argv=[*line]
    )
    workdir = "run folder (default: runs/NAME of the config)"
    add(flags.DEFINE_string, "workdir", None, workdir)
    finished = "when the run folder holds a finished run: print its results, or rename the folder "
    finished += "and train again"
    choices = ["report", "again"]
    flags.DEFINE_enum("if_finished", "report", choices, finished, flag_values=values)
    longer = "go on with a run of fewer epochs, finished or not, to config.train.epochs"
    add(flags.DEFINE_bool, "extend", False, longer)
    many = "train by each of these seeds, as in --seeds 0 1 2, below the run folder; a table of all"
    add(flags.DEFINE_list, "seeds", None, many)
    several = "several processes train one model and JAX finds them: SLURM, Open MPI, cloud TPUs"
    add(flags.DEFINE_bool, "distributed", False, several)
    by_hand = "several processes, set by hand: HOST:PORT of the first one"
    add(flags.DEFINE_string, "coordinator", None, by_hand)
    add(flags.DEFINE_integer, "num_processes", None, "their number")
    add(flags.DEFINE_integer, "process_id", None, "which one this is, from 0")
    kept = "on a Linux CPU, keep freed memory in the process, in huge pages: much faster on "
    kept += "virtual machines"
    add(flags.DEFINE_bool, "keep_memory", True, kept)
    return values, config
