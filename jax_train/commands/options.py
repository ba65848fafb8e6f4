"""Arguments that several commands take."""

import argparse


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")


def open_run(folder: str):
    """Open a run, with a cache for what will be compiled; see `trained.open_run`."""
    from jax_train.machine.runtime import enable_compilation_cache
    from jax_train.runs import trained

    enable_compilation_cache()
    return trained.open_run(folder)


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite and --tta."""
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    views = "test-time augmentation: average the probabilities over mirror images (flip), five "
    views += "shifted views (crops), or both (flip,crops)"
    parser.add_argument("--tta", default="", metavar="VIEWS", help=views)
