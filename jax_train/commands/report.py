"""`python -m jax_train report`: a page on one run."""

import argparse
from pathlib import Path

from jax_train import data
from jax_train.analysis import evaluation as evaluate
from jax_train.config.fields import flatten
from jax_train.drawing import results as drawing_results
from jax_train.machine.runtime import enable_compilation_cache
from jax_train.pages import pictures
from jax_train.pages.page import Page, fields
from jax_train.pages.run import (
    class_rows,
    confusion_picture,
    confusions,
    data_name,
    environment,
    facts,
    mistakes,
    notes,
    splits,
    weights,
)
from jax_train.runs import trained
from jax_train.runs.history import read_history


def add_report(commands) -> None:
    """Add `report`: a page on one run."""
    parser = commands.add_parser(
        "report",
        help="write a page on a run: how it learned, where it looks, where it fails",
        description="Write RUN/report.html, one file that opens anywhere without a network: "
        "curves, confusion matrix, worst mistakes, figures by class, attention and feature maps, "
        "config. Its pictures are also written into RUN/report.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.set_defaults(run=run_report)


def run_report(args: argparse.Namespace) -> None:
    """Run `report` and say where the page is."""
    pass

    print(report_and_describe(args.run_folder))


def report_and_describe(folder: str | Path) -> str:
    """Write RUN/report.html and its pictures; return a line that says where they are.

    Raises:
      UserError: the folder holds no run, its data cannot be read, or nothing can be written.
    """
    enable_compilation_cache()
    run = trained.open_run(folder)
    split = data.load_split(run.config, run.config.data.test_split)
    evaluation = evaluate.evaluate(run, split, progress=True)
    page = Page(run.folder / "report.html")
    history = read_history(run.folder)
    chosen = pictures.choose_examples(run, None)
    return page.write(
        "report.html",
        title=f"{run.config.model.name} on {data_name(run)}",
        facts=facts(run, evaluation, history),
        splits=[*splits(run, evaluation), weights(run)],
        notes=notes(run, evaluation, split),
        curves=[page.picture(one) for one in drawing_results.curves({"": history})],
        confusion=page.picture(confusion_picture(evaluation)),
        confusions=confusions(evaluation),
        mistakes=mistakes(page, evaluation, split),
        mistake_count=int((evaluation.predictions != evaluation.labels).sum()),
        classes=class_rows(evaluation),
        looks=[page.picture(one) for one in pictures.pictures(run, chosen)],
        look_notes=pictures.notes(run),
        config=fields(flatten(run.config)),
        environment=environment(run),
    )
