"""`python -m jax_train prepare`: fetch a data set, or take it from disk."""

import argparse

HELP = "download and prepare cifar10, cifar100 or mnist (no TensorFlow needed)"
DESCRIPTION = (
    "Download a data set, or take its original archive from disk, check it against the registered "
    "checksum, and write it in TFDS's array_record format."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name, the folder and the archives."""
    parser.add_argument("name", metavar="NAME", help="cifar10, cifar100 or mnist")
    data_dir = "TFDS folder to write to (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
    parser.add_argument("--data_dir", help=data_dir)
    archive = "original archive(s) on disk, or a folder that holds them, instead of a download"
    parser.add_argument("--archive", nargs="+", default=[], metavar="FILE", help=archive)


def run(args: argparse.Namespace) -> str:
    """Prepare a data set unless it is there already; return a line that says so."""
    from jax_train.data.sources.archives import RECIPES
    from jax_train.data.sources.prepare import prepare
    from jax_train.data.sources.tfds_folder import data_root, find_prepared

    root = data_root(args.data_dir)
    before = find_prepared(args.name, root) if args.name in RECIPES else None
    folder = prepare(args.name, root, args.archive)
    state = "was prepared already" if before == folder else "is prepared"
    return f"{args.name} {folder.name} {state} in {folder}"
