"""`python -m jax_train COMMAND`: the small commands around training.

Each command is one function that adds its arguments and one that runs it; what a command needs
is imported when it runs, so that `--help` stays quick.
"""

import argparse
import sys
from collections.abc import Sequence

from jax_train.errors import run_command


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


COMMANDS = (add_prepare,)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0, or 2 for what the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_train", description="Commands around training."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    args = parser.parse_args(argv)
    return run_command(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
