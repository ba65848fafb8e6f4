"""`python -m jax_train COMMAND`: the small commands around training.

Each command is one function that adds its arguments and one that runs it; what a command needs
is imported when it runs, so that `--help` stays quick.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from jax_train.errors import UserError, nearest, run_command


def add_prepare(commands) -> None:
    """Add `prepare`: fetch a data set, or take it from disk, and write it for reading."""
    parser = commands.add_parser(
        "prepare",
        help="download and prepare cifar10, cifar100 or mnist (no TensorFlow needed)",
        description="Download a data set, or take its original archive from disk, check it "
        "against the registered checksum, and write it in TFDS's array_record format.",
    )
    parser.add_argument("name", metavar="NAME", help="cifar10, cifar100 or mnist")
    parser.add_argument(
        "--data_dir",
        help="TFDS folder to write to (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--archive",
        nargs="+",
        default=[],
        metavar="FILE",
        help="original archive(s) on disk, or a folder that holds them, instead of a download",
    )
    parser.set_defaults(run=run_prepare)


def run_prepare(args: argparse.Namespace) -> None:
    """Run `prepare` and say where the data is."""
    from jax_train import prepare

    print(prepare.prepare_and_describe(args.name, args.data_dir, args.archive))


def add_convert(commands) -> None:
    """Add `convert`: weight files between PyTorch, safetensors and NumPy."""
    parser = commands.add_parser(
        "convert",
        help="convert weights between PyTorch (.pt), .safetensors and .npz",
        description="Load a file of weights into a model, which proves that all of it fits, and "
        "write it in the format that the new name ends in: .pt, .pth or .bin (PyTorch), "
        ".safetensors or .npz (NumPy). Code in a .pt file is never run.",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="name of the model")
    parser.add_argument(
        "--from", required=True, dest="source", metavar="FILE", help="weights to read"
    )
    parser.add_argument("--to", required=True, dest="target", metavar="FILE", help="file to write")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEYWORD=VALUE",
        help="a constructor keyword of the model that is not the default, such as num_classes=10; "
        "may be repeated",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> None:
    """Run `convert` and say what was written."""
    from jax_train import convert

    print(
        convert.convert_and_describe(
            args.model,
            args.source,
            args.target,
            settings=args.settings,
            overwrite=args.overwrite,
        )
    )


COMMANDS = (add_prepare, add_convert)


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
        args = parser.parse_args(given)
        args.run(args)

    return run_command(parse_and_run)


if __name__ == "__main__":
    sys.exit(main())
