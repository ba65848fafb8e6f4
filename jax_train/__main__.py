"""`python -m jax_train COMMAND`, or `jax-vit-cnn COMMAND`: training and the commands around it.

Each is a module of `jax_train.commands` with `HELP`, `DESCRIPTION`, `add_arguments(parser)` and
`run(args)`, which returns the text to print; or, in `LINES`, with `HELP` and
`run_line(arguments, program)`.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jax_train.commands import (
    compare,
    convert,
    evaluate,
    explain,
    export,
    features,
    new,
    predict,
    prepare,
    recipes,
    report,
    serve,
    train,
)
from jax_train.errors import UserError, nearest, run_command

COMMANDS = {
    "train": train,
    "recipes": recipes,
    "new": new,
    "prepare": prepare,
    "convert": convert,
    "export": export,
    "predict": predict,
    "evaluate": evaluate,
    "explain": explain,
    "features": features,
    "report": report,
    "serve": serve,
    "compare": compare,
}
LINES = {"train": train}  # those that take their command line as it is
SCRIPT = "jax-vit-cnn"


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are paragraphs that fit the terminal."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}. See {self.prog} --help")


def _run(args: argparse.Namespace) -> str:
    """Run a command. What is wrong with data that it was given is told in its own flags."""
    try:
        return args.run(args)
    except UserError as error:
        text = str(error)
        if getattr(args, "data", None):
            for field, flag in (("config.data.name", "data"), ("config.data.data_dir", "data_dir")):
                text = re.sub(rf"(--)?{re.escape(field)}\b", f"--{flag}", text)
        raise UserError(text) from error


def _is_flag(argument: str) -> bool:
    return argument.startswith("-")


def _program() -> str:
    """How this program was called."""
    name = Path(sys.argv[0]).name
    return name if name == SCRIPT else "python -m jax_train"


def _parser(program: str) -> tuple[_Parser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of all commands, and that of each."""
    parser = _Parser(prog=program, description="Train image classifiers, and what belongs to it.")
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        if name in LINES:
            parsers.add_parser(name, help=command.HELP, add_help=False)
            continue
        own = parsers.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        command.add_arguments(own)
        own.set_defaults(run=command.run, program=program)
    return parser, parsers.choices


def _parse_and_run(given: Sequence[str]) -> str | None:
    program = _program()
    if given and not _is_flag(given[0]) and given[0] not in COMMANDS:
        raise UserError(f"{given[0]!r} is no command{nearest(given[0], COMMANDS)}.")
    if given and given[0] in LINES:
        return LINES[given[0]].run_line(given[1:], f"{program} {given[0]}")
    parser, parsers = _parser(program)
    args, unknown = parser.parse_known_args(given)
    if unknown:  # said by the command, whose --help lists what it takes
        hint = "" if any(map(_is_flag, unknown)) else "; name them beside RUN, before the flags"
        parsers[given[0]].error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return _run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code, see `run_command`."""
    given = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _parse_and_run(given))


if __name__ == "__main__":
    sys.exit(main())
