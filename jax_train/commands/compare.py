"""`python -m jax_train compare`: runs on the same data, side by side."""

import argparse

from jax_train.commands.options import add_data_place

HELP = "compare finished runs on the same data, in a table and on a page"
DESCRIPTION = (
    "Compare finished runs on the same test images: cost, speed, accuracy, where they disagree "
    "and where each looks. Writes FOLDER/comparison.html."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs and the folder of the page."""
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help="run folders, at least two")
    out = "where to write (default: where the first run folder is)"
    parser.add_argument("--out", metavar="FOLDER", help=out)
    add_data_place(parser)


def run(args: argparse.Namespace) -> str:
    """Compare the runs; see `several.compare`."""
    from jax_train.several import compare

    return compare(args.run_folders, args.out, args.data, args.data_dir)
