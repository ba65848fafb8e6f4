"""Arguments that several commands take."""

import argparse


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")


def add_data_place(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --data and --data_dir; `more` is said of --data."""
    place = f"where the run's data are now, such as folder:PATH{more} (default: where they were)"
    parser.add_argument("--data", metavar="NAME", help=place)
    data_dir = "TFDS folder of the data (default: where it was in training)"
    parser.add_argument("--data_dir", metavar="FOLDER", help=data_dir)


def open_run(folder: str, data: str | None = None, data_dir: str | None = None):
    """Open a run, with a cache for what will be compiled; see `trained.open_run`."""
    from jax_train.machine import runtime
    from jax_train.runs import trained

    runtime.prepare()
    return trained.open_run(folder, data, data_dir)


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite and --tta."""
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    views = "test-time augmentation: average the probabilities over mirror images (flip), five "
    views += "shifted views (crops), or both (flip,crops)"
    parser.add_argument("--tta", default="", metavar="VIEWS", help=views)
