"""`python -m jax_train prepare`: fetch a data set, or take it from disk."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jax_train.data.sources.archives import RECIPES
from jax_train.data.sources.prepare import prepare
from jax_train.data.sources.tfds_folder import default_data_dir, find_prepared


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
    pass

    print(prepare_and_describe(args.name, args.data_dir, args.archive))


def prepare_and_describe(name: str, data_dir: str | None, archives: Sequence[str]) -> str:
    """Prepare a data set unless it is there already; return a line that says so."""
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    before = find_prepared(name, root) if name in RECIPES else None
    folder = prepare(name, root, archives)
    state = "was prepared already" if before == folder else "is prepared"
    return f"{name} {folder.name} {state} in {folder}"
