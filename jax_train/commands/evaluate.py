"""`python -m jax_train evaluate`: all figures of a trained model on a split."""

import argparse
import os

import numpy as np

from jax_train import printing
from jax_train.analysis.evaluation import Evaluation, _examples, evaluate, load_other, notes
from jax_train.analysis.scoring import parse_tta, views
from jax_train.commands.options import _add_evaluation_options
from jax_train.files import check_csv, write_csv
from jax_train.machine.runtime import enable_compilation_cache
from jax_train.printing import shorten
from jax_train.runs import trained
from jax_train.runs.trained import TrainedRun

_MOST_CLASSES = 30  # shown in the table; of more only the worst
_WORST = 20


def add_evaluate(commands) -> None:
    """Add `evaluate`: all figures of a trained model on a split."""
    parser = commands.add_parser(
        "evaluate",
        help="evaluate a trained model on any split, class by class",
        description="Evaluate the model of a run: accuracy with its confidence interval, loss, "
        "precision, recall, F1, calibration, and a table by class.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.add_argument(
        "--split", help="such as test or 'train[:1000]' (default: the run's test split)"
    )
    parser.add_argument(
        "--data",
        metavar="NAME",
        help="other data with the same classes, such as folder:PATH; its split 'test' by default",
    )
    parser.add_argument("--data_dir", help="TFDS folder of the data (default: where the run's is)")
    parser.add_argument("--csv", metavar="FILE", help="also write the table by class as CSV")
    _add_evaluation_options(parser)
    parser.set_defaults(run=run_evaluate)


def run_evaluate(args: argparse.Namespace) -> None:
    """Run `evaluate` and print the figures."""
    pass

    print(
        evaluate_and_describe(
            args.run_folder,
            split=args.split,
            name=args.data,
            data_dir=args.data_dir,
            tta=args.tta,
            csv_path=args.csv,
            overwrite=args.overwrite,
        )
    )


# The command


def evaluate_and_describe(
    folder: str | os.PathLike, *, split: str | None = None, name: str | None = None,
    data_dir: str | None = None, tta: str = "", csv_path: str | None = None,
    overwrite: bool = False,
) -> str:  # fmt: skip
    """Evaluate the run in a folder.

    Args:
      folder: the run folder.
      split: None: the run's test split; of other data 'test'.
      name: other data with the run's classes; None: the run's own.
      data_dir: where it is prepared; of the run's own data None is where the run found it.
      tta: see `scoring.parse_tta`.
      csv_path: file for the table by class; None: none.
      overwrite: replace that file where it exists.

    Returns:
      The report for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run, the data or the file cannot be used.
    """
    parts = parse_tta(tta)
    check_csv(csv_path, overwrite)
    enable_compilation_cache()
    run = trained.open_run(folder)
    if data_dir and not name:
        run.config.data.data_dir = data_dir
    split = split if split is not None else "test" if name else run.config.data.test_split
    examples = load_other(run, name, data_dir, split) if name else split
    evaluation = evaluate(run, examples, parts, progress=True)
    lines = [describe(run, evaluation)]
    held = examples if name else _examples(run, split)
    lines += [f"note: {note}" for note in notes(run, evaluation, held)]
    if csv_path:
        write_csv(csv_path, by_class_rows(evaluation))
        lines.append(f"{csv_path}: {len(evaluation.class_names)} classes")
    return "\n".join(lines)


def describe(run: TrainedRun, evaluation: Evaluation) -> str:
    """The figures and the table by class for people, at most 80 columns wide."""
    figures, (low, high) = evaluation.figures, evaluation.top1_interval
    lines = [
        f"{run.config.model.name} on {evaluation.data}",
        f"  {evaluation.split}: {len(evaluation.labels):,} images; weights of step {run.step:,}",
    ]
    if evaluation.tta:
        count, named = len(views(run, evaluation.tta)), " and ".join(evaluation.tta)
        lines.append(f"  probabilities averaged over {count} views of each image ({named})")
    lines += [
        "",
        f"  top-1              {figures['top1']:7.2%}   95 % interval {low:.2%} to {high:.2%}",
        f"  top-5              {figures['top5']:7.2%}",
        f"  loss               {figures['loss']:7.4f}",
        f"  calibration error  {evaluation.calibration_error:7.2%}   expected, in 15 bins",
        f"  images per second  {evaluation.images_per_sec:7,.0f}",
        "",
        "               macro     micro",
    ]
    if len(evaluation.class_names) <= 5:
        lines = [line for line in lines if "top-5" not in line]
    for label, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1")):
        macro, micro = figures[f"{key}_macro"], figures[f"{key}_micro"]
        lines.append(f"  {label:9} {macro:9.2%} {micro:9.2%}")
    lines += ["", *_table(evaluation)]
    return "\n".join(shorten(line, printing.WIDTH) for line in lines)


def _table(evaluation: Evaluation) -> list[str]:
    """The table by class, or of many classes the worst."""
    by_class, names = evaluation.by_class, evaluation.class_names
    shown = range(len(names))
    lines = []
    if len(names) > _MOST_CLASSES:
        shown = np.argsort(by_class["f1"], kind="stable")[:_WORST]
        lines.append(f"  the {_WORST} classes with the lowest F1; --csv FILE writes all")
    width = min(24, max(5, *(len(name) for name in names)))
    lines.append(f"  {'class':{width}}  images  precision   recall       F1  most often taken for")
    wrong, often = evaluation.most_confused
    for k in shown:
        taken_for = f"{shorten(names[wrong[k]], 16)} ({often[k]:,})" if often[k] else "-"
        if often[k] and (ties := np.sum(np.delete(evaluation.confusion[k], k) == often[k]) - 1):
            taken_for = f"{taken_for} and {ties} more"
        lines.append(
            f"  {shorten(names[k], width):{width}} {by_class['images'][k]:7,} "
            f"{by_class['precision'][k]:10.2%} {by_class['recall'][k]:8.2%} "
            f"{by_class['f1'][k]:8.2%}  {taken_for}"
        )
    return lines


def by_class_rows(evaluation: Evaluation) -> list[list]:
    """Header and rows of the CSV file, a row for each class; shares are in [0, 1]."""
    by_class, (wrong, often) = evaluation.by_class, evaluation.most_confused
    rows = [[*("class", *by_class), "most_often_taken_for", "times"]]
    for k, name in enumerate(evaluation.class_names):
        figures = [f"{by_class[key][k]:.6g}" for key in ("precision", "recall", "f1")]
        other = evaluation.class_names[wrong[k]] if often[k] else ""
        rows.append([name, int(by_class["images"][k]), *figures, other, int(often[k])])
    return rows
