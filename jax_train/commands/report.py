"""`python -m jax_train report`: a page on one run."""

import argparse

from jax_train.commands.options import add_data_place, add_run_folder, open_run

HELP = "write a page on a run: how it learned, where it looks, where it fails"
DESCRIPTION = (
    "Write RUN/report.html, one file that opens anywhere without a network: curves, confusion "
    "matrix, worst mistakes, figures by class, attention and feature maps, config. Its pictures "
    "are also written into RUN/report."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run and its data."""
    add_run_folder(parser)
    add_data_place(parser)


def run(args: argparse.Namespace) -> str:
    """Write RUN/report.html and its pictures; return a line that says where they are.

    Raises:
      UserError: the folder holds no run, its data cannot be read, or nothing can be written.
    """
    from jax_train.analysis.evaluation import evaluate
    from jax_train.files import check_folder
    from jax_train.pages import run as page_of_run
    from jax_train.pages.page import Page

    run = open_run(args.run_folder, args.data, args.data_dir)
    check_folder("RUN", run.folder)
    split = run.split()
    evaluation = evaluate(run, split, progress=True)
    return page_of_run.write(run, evaluation, split, Page(run.folder / "report.html"))
