"""`python -m jax_train predict`: the classes of image files."""

import argparse
import os
from collections.abc import Sequence

import numpy as np

from jax_train.analysis.prediction import Predictions, predict
from jax_train.analysis.scoring import parse_tta, tta_notes
from jax_train.commands.options import _add_evaluation_options
from jax_train.data.given_images import FAR, find_images
from jax_train.errors import UserError
from jax_train.files import check_csv, write_csv
from jax_train.machine.runtime import enable_compilation_cache
from jax_train.printing import WIDTH, readable, shorten
from jax_train.runs import trained
from jax_train.runs.trained import TrainedRun, image_shape


def add_predict(commands) -> None:
    """Add `predict`: the classes of image files."""
    parser = commands.add_parser(
        "predict",
        help="predict the classes of image files with a trained model",
        description="Predict the classes of image files with the model of a run. Images of any "
        "size are brought to the model's: shorter side resized, centre cropped.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="image file, or a folder to search for them"
    )
    parser.add_argument(
        "--top", type=int, default=5, metavar="K", help="classes to show (default: 5)"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the predictions as CSV")
    parser.add_argument(
        "--all", action="store_true", help="write the probabilities of all classes into it"
    )
    _add_evaluation_options(parser)
    parser.set_defaults(run=run_predict)


def run_predict(args: argparse.Namespace) -> None:
    """Run `predict` and print the predictions."""
    pass

    print(
        predict_and_describe(
            args.run_folder,
            args.images,
            top=args.top,
            tta=args.tta,
            csv_path=args.csv,
            keep_all=args.all,
            overwrite=args.overwrite,
        )
    )


def predict_and_describe(
    folder: str | os.PathLike, places: Sequence[str], *, top: int = 5, tta: str = "",
    csv_path: str | None = None, keep_all: bool = False, overwrite: bool = False,
) -> str:  # fmt: skip
    """Predict the classes of image files with the run in a folder.

    Args:
      folder: the run folder.
      places: image files, and folders to search for them.
      top: classes to show for each file.
      tta: see `scoring.parse_tta`.
      csv_path: file to write; None: none.
      keep_all: write the probabilities of all classes into it.
      overwrite: replace that file where it exists.

    Returns:
      The predictions and notes for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run or a file cannot be used.
    """
    views = parse_tta(tta)
    if top < 1:
        raise UserError(f"--top {top}: expected a whole number of classes, at least 1.")
    if keep_all and not csv_path:
        raise UserError("--all writes all probabilities into a file: give --csv FILE too.")
    check_csv(csv_path, overwrite)
    files = find_images(places)
    enable_compilation_cache()
    run = trained.open_run(folder)
    found = predict(run, files, top=top, tta=views, keep_all=keep_all, progress=True)
    lines = [describe(found)]
    lines += [f"note: {note}" for note in (*tta_notes(run, views), *_changes(found, run))]
    if csv_path:
        write_csv(csv_path, csv_rows(found))
        lines.append(f"{csv_path}: {len(files):,} files")
    return "\n".join(lines)


def _changes(found: Predictions, run: TrainedRun) -> list[str]:
    """One line on the images that had to be changed much; none where none had."""
    height, width, _ = image_shape(run)
    texts = {
        "resized": f"resized over {FAR}x to {width}x{height}",
        "colour": "colour read as grey",
        "grey": "grey in a colour model",
        "transparent": "transparent",
    }
    counts = [f"{found.differences[kind]:,} {text}" for kind, text in texts.items()
              if found.differences[kind]]  # fmt: skip
    return [f"of {len(found.files):,} images {', '.join(counts)}"] if counts else []


def describe(found: Predictions) -> str:
    """The predictions for people, at most 80 columns wide, the likeliest class first.

    A line for each file where that fits, otherwise the file and its classes below it.
    """
    files = [readable(file) for file in found.files]
    names = [shorten(name, 40) for name in found.class_names]
    width = max(len(names[k]) for k in np.unique(found.classes))
    cells = [
        [f"   {names[k]:{width}} {share:6.1%}" for k, share in zip(*row, strict=True)]
        for row in zip(found.classes, found.probabilities, strict=True)
    ]
    margin = max(len(file) for file in files)
    if margin + len("".join(cells[0])) <= WIDTH:
        return "\n".join(
            f"{file:{margin}}{''.join(row)}" for file, row in zip(files, cells, strict=True)
        )
    lines, fitting = [], WIDTH // len(cells[0][0])
    for file, row in zip(files, cells, strict=True):
        # The end of a long path says more than its beginning; the CSV file has it whole.
        lines.append(file if len(file) <= WIDTH else f"…{file[1 - WIDTH :]}")
        lines += ["".join(row[i : i + fitting]) for i in range(0, len(row), fitting)]
    return "\n".join(lines)


def csv_rows(found: Predictions) -> list[list[str]]:
    """Header and rows of the CSV file: file, then class and probability by rank, then all."""
    ranks = range(1, found.classes.shape[1] + 1)
    header = ["file", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))]
    if found.all_probabilities is not None:
        header += [f"p({name})" for name in found.class_names]
    rows = [header]
    for i, file in enumerate(found.files):
        row = [readable(file)]
        for k, share in zip(found.classes[i], found.probabilities[i], strict=True):
            row += [found.class_names[k], f"{share:.6g}"]
        if found.all_probabilities is not None:
            row += [f"{share:.6g}" for share in found.all_probabilities[i]]
        rows.append(row)
    return rows
