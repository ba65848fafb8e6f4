"""`python -m jax_train COMMAND`: the small commands around training.

Each command is one function that adds its arguments and one that runs it; what a command needs
is imported when it runs, so that `--help` stays quick.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from jax_train.commands import convert
from jax_train.commands.compare import add_compare
from jax_train.commands.evaluate import add_evaluate
from jax_train.commands.explain import add_explain
from jax_train.commands.predict import add_predict
from jax_train.commands.prepare import add_prepare
from jax_train.commands.report import add_report
from jax_train.errors import UserError, nearest, run_command


def add_convert(commands) -> None:
    """Add `convert`."""
    parser = commands.add_parser("convert", help=convert.HELP, description=convert.DESCRIPTION)
    convert.add_arguments(parser)
    parser.set_defaults(run=lambda args: print(convert.run(args)))


COMMANDS = (
    add_prepare,
    add_convert,
    add_predict,
    add_evaluate,
    add_explain,
    add_report,
    add_compare,
)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are paragraphs that fit the terminal."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.rstrip('.')}. See {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, or 2 for what the user can put right."""
    parser = _Parser(prog="python -m jax_train", description="Commands around training.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)

    def parse_and_run():
        given = list(sys.argv[1:] if argv is None else argv)
        if given and not given[0].startswith("-") and given[0] not in commands.choices:
            raise UserError(f"{given[0]!r} is no command{nearest(given[0], commands.choices)}.")
        args, unknown = parser.parse_known_args(given)
        if unknown:  # told by the command, whose --help lists what it takes
            commands.choices[given[0]].error(f"unrecognized arguments: {' '.join(unknown)}")
        args.run(args)

    return run_command(parse_and_run)


if __name__ == "__main__":
    sys.exit(main())
