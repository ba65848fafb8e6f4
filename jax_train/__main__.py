"""`python -m jax_train COMMAND`: the small commands around training.

Each is a module of `jax_train.commands` with `HELP`, `DESCRIPTION`, `add_arguments(parser)` and
`run(args)`, which returns the text to print.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from jax_train.commands import (
    compare,
    convert,
    evaluate,
    explain,
    export,
    features,
    predict,
    prepare,
    report,
)
from jax_train.errors import UserError, nearest, run_command

COMMANDS = {
    "prepare": prepare,
    "convert": convert,
    "export": export,
    "predict": predict,
    "evaluate": evaluate,
    "explain": explain,
    "features": features,
    "report": report,
    "compare": compare,
}


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code, see `run_command`."""
    parser = _Parser(prog="python -m jax_train", description="Commands around training.")
    parsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        own = parsers.add_parser(name, help=command.HELP, description=command.DESCRIPTION)
        command.add_arguments(own)
        own.set_defaults(run=command.run)

    def parse_and_run() -> int:
        given = list(sys.argv[1:] if argv is None else argv)
        if given and not given[0].startswith("-") and given[0] not in COMMANDS:
            raise UserError(f"{given[0]!r} is no command{nearest(given[0], COMMANDS)}.")
        args, unknown = parser.parse_known_args(given)
        if unknown:  # said by the command, whose --help lists what it takes
            hint = "" if any(map(_is_flag, unknown)) else "; name them beside RUN, before the flags"
            parsers.choices[given[0]].error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return _run(args)

    return run_command(parse_and_run)


if __name__ == "__main__":
    sys.exit(main())
