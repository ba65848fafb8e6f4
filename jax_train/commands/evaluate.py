"""`python -m jax_train evaluate`: all figures of a model, or of a classifier on its features."""

import argparse
from collections.abc import Sequence

from jax_train.commands import on_features
from jax_train.commands.options import (
    add_data_place,
    add_evaluation_options,
    add_run_or_source,
    names_source,
    open_run,
    open_source,
)
from jax_train.commands.predict import unread_files
from jax_train.errors import Incomplete, UserError
from jax_train.files import check_output, write_csv
from jax_train.printing import WIDTH, as_paragraph, columns, counted, figure, pad, readable, shorten

HELP = "evaluate a trained or pretrained model on any split, class by class"
DESCRIPTION = (
    "Evaluate the model of a run: accuracy with its confidence interval, loss, precision, recall, "
    "F1, calibration, and a table by class. A pretrained model is evaluated on data (--data) whose "
    "classes are among its own by their names. With --knn or --linear the figures are those of a "
    "classifier on the features of the frozen model, whatever classes it knows: of a training and "
    "a test split, or of two files that `features` wrote, RUN being the one to train on. Nothing "
    "is chosen on the test images."
)
_MOST_CLASSES = 30  # shown in the table; of more only the worst
_WORST = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, the data, and the file of the table."""
    add_run_or_source(parser)
    add = parser.add_argument
    add("--split", help="such as test or 'train[:1000]' (default: the run's test split)")
    add_data_place(parser, ", or other data with the same classes, by default their split 'test'")
    choice = "what a pretrained model chooses among: all its classes (the default), or the subset "
    choice += "of them that the data have"
    add("--classes", choices=("all", "subset"), help=choice)
    add("--csv", metavar="FILE", help="also write the table by class as CSV")
    add_evaluation_options(parser)
    on_features.add_arguments(parser)


def run(args: argparse.Namespace) -> str:
    """Evaluate; return the report for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run, the data or the file cannot be used.
    """
    from jax_train.analysis.evaluation import absent_classes, evaluate, notes
    from jax_train.analysis.scoring import parse_tta

    of_features = on_features.is_asked(args)
    views = parse_tta(args.tta)
    check_output("--csv", args.csv, args.overwrite)
    if of_features:
        unread: dict[str, str] = {}
        told: list[str] = []
        about, evaluation = on_features.evaluate(args, unread, told)
        found = [*told, *evaluation.notes, *absent_classes(evaluation)]
        text = _told(args, about, evaluation, found)
        if unread:
            text = Incomplete("\n".join([text, "", *unread_files(unread)]))
        return text
    run, examples, about = (_of_source if names_source(args) else _of_run)(args)
    evaluation = evaluate(run, examples, views, progress=True)
    found = [*notes(run, evaluation), *about, *absent_classes(evaluation), *examples.notes]
    return _told(args, _about(run, evaluation), evaluation, found)


def _told(args: argparse.Namespace, about: Sequence[str], evaluation, notes: Sequence[str]) -> str:
    """Write the CSV file; return all that is printed."""
    lines = [report(about, evaluation), *(as_paragraph(f"note: {note}") for note in notes)]
    if args.csv:
        write_csv("--csv", args.csv, _csv_rows(evaluation))
        lines.append(f"{args.csv}: {counted(len(evaluation.class_names), 'class', 'classes')}")
    return "\n".join(lines)


def _of_source(args: argparse.Namespace):
    """A pretrained model, the examples to evaluate it on, and notes on these."""
    if args.data is None:
        raise UserError(
            f"{args.run_folder} is a pretrained model, which has no data of its own: say which, as "
            "in --data folder:PATH or --data cifar10. Their classes have to be among the model's."
        )
    subset = args.classes == "subset"
    run, examples = open_source(args).on(args.data, args.data_dir, args.split, subset=subset)
    return run, examples, []


def _of_run(args: argparse.Namespace):
    """The same of a run."""
    from jax_train.analysis.evaluation import data_changes, training_overlap
    from jax_train.runs.trained import holds_data_of

    if args.classes is not None:
        raise UserError(
            f"--classes {args.classes} is for pretrained models, and {args.run_folder} is none: a "
            "run has the classes of its data. Leave it out."
        )
    place = args.data, args.data_dir
    own = args.data is None or holds_data_of(args.run_folder, *place)
    run = open_run(args.run_folder, *(place if own else ()))
    split = run.config.data.test_split if own else "test"
    split = split if args.split is None else args.split
    examples = run.split(split) if own else run.other_split(*place, split)
    return run, examples, [*data_changes(run, examples), *training_overlap(run, examples)]


def _about(run, evaluation) -> list[str]:
    """What the figures of a run are of, for people."""
    from jax_train.analysis import scoring

    images = counted(len(evaluation.labels), "image")
    lines = [
        f"{run.config.model.name} on {readable(evaluation.data)}",
        f"  {evaluation.split}: {images}; {run.whose_weights}",
    ]
    if evaluation.tta:
        count, named = len(scoring.views(run, evaluation.tta)), " and ".join(evaluation.tta)
        what = "logits" if scoring.AIRBENCH in evaluation.tta else "probabilities"
        lines.append(f"  {what} averaged over {count} views of each image ({named})")
    return lines


def report(about: Sequence[str], evaluation) -> str:
    """What it is of, the figures and the table by class, at most 80 columns wide."""
    figures, (low, high) = evaluation.figures, evaluation.top1_interval
    lines = list(about)
    span = f"95 % interval {figure(low, '.2%')} to {figure(high, '.2%')}"
    lines += ["", f"  top-1              {figure(figures['top1'], '7.2%')}   {span}"]
    if len(evaluation.class_names) > 5:
        lines.append(f"  top-5              {figure(figures['top5'], '7.2%')}")
    calibration = figure(evaluation.calibration_error, "7.2%")
    lines += [
        f"  loss               {figure(figures['loss'], '7.4f')}",
        f"  calibration error  {calibration}   expected, in 15 bins",
    ]
    if evaluation.seconds is not None:
        lines.append(f"  images per second  {evaluation.images_per_sec:7,.0f}")
    lines += ["", "               macro     micro"]
    for label, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1")):
        macro, micro = (figure(figures[f"{key}_{mean}"], "9.2%") for mean in ("macro", "micro"))
        lines.append(f"  {label:9} {macro} {micro}")
    lines += ["", *_table(evaluation)]
    return "\n".join(shorten(line, WIDTH) for line in lines)


def _table(evaluation) -> list[str]:
    """The table by class, or of many classes the worst."""
    by_class, names = evaluation.by_class, [readable(name) for name in evaluation.class_names]
    shown, lines = range(len(names)), []
    if len(names) > _MOST_CLASSES:
        worst_first = by_class["f1"].argsort(kind="stable")
        shown = worst_first[by_class["images"][worst_first] > 0][:_WORST]
        lines.append(f"  the {_WORST} classes with the lowest F1; --csv FILE writes all")
    width = min(24, max(5, *map(columns, names)))
    lines.append(f"  {'class':{width}}  images  precision   recall       F1  most often taken for")
    wrong, often = evaluation.most_confused
    for k in shown:
        taken_for = f"{shorten(names[wrong[k]], 16)} ({often[k]:,})" if often[k] else "-"
        if often[k] and (ties := (evaluation.mistakes[k] == often[k]).sum() - 1):
            taken_for = f"{taken_for} and {ties} more"
        cells = {"precision": 10, "recall": 8, "f1": 8}
        figures = " ".join(figure(by_class[key][k], f"{room}.2%") for key, room in cells.items())
        start = f"  {pad(shorten(names[k], width), width)} {by_class['images'][k]:7,}"
        lines.append(f"{start} {figures}  {taken_for}")
    return lines


def _csv_rows(evaluation) -> list[list]:
    """Header and rows of the CSV file, a row for each class; shares are in [0, 1]."""
    by_class, (wrong, often) = evaluation.by_class, evaluation.most_confused
    rows = [[*("class", *by_class), "most_often_taken_for", "times"]]
    for k, name in enumerate(evaluation.class_names):
        keys = "precision", "recall", "f1"
        figures = [f"{by_class[key][k]:.6g}" if by_class["images"][k] else "" for key in keys]
        other = evaluation.class_names[wrong[k]] if often[k] else ""
        rows.append([name, int(by_class["images"][k]), *figures, other, int(often[k])])
    return rows
