"""`python -m jax_train prepare`: fetch a data set, or take it from disk."""

import argparse

NAMES = ["cifar10", "cifar100", "mnist", "fashion_mnist", "svhn_cropped", "oxford_flowers102"]
NAMES += ["oxford_iiit_pet", "food101", "imagenette"]
HELP = "download and prepare a known data set (no TensorFlow needed)"
DESCRIPTION = (
    "Download a data set, or take its original archive from disk, check it against the registered "
    "checksum, and write it in TFDS's array_record format; photos of many sizes become a folder by "
    "split and class."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name, the folder and the archives."""
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    data_dir = "TFDS folder to write to (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
    parser.add_argument("--data_dir", help=data_dir)
    archive = "original archive(s) on disk, or a folder that holds them, instead of a download"
    parser.add_argument("--archive", nargs="+", default=[], metavar="FILE", help=archive)


def run(args: argparse.Namespace) -> str:
    """Prepare a data set unless it is there already; return a line that says so."""
    from jax_train.data.sources.prepare import KNOWN, find, prepare
    from jax_train.data.sources.tfds_folder import data_root

    root = data_root(args.data_dir)
    before = find(args.name, root) if args.name in KNOWN else None
    folder = prepare(args.name, root, args.archive)
    state = "was prepared already" if before == folder else "is prepared"
    return f"{args.name} {folder.name} {state} in {folder}"
