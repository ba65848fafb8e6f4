"""`python -m jax_train predict`: the classes of image files."""

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from jax_train.commands.options import (
    add_data_place,
    add_evaluation_options,
    add_run_or_source,
    open_run_or_source,
)
from jax_train.errors import Incomplete, UserError
from jax_train.files import check_output, write_csv
from jax_train.printing import WIDTH, as_paragraph, columns, counted, pad, readable, shorten

HELP = "predict the classes of image files with a trained or pretrained model"
DESCRIPTION = (
    "Predict the classes of image files with the model of a run, or with a pretrained one. Images "
    "of any size are brought to the model's: shorter side resized, centre cropped, or as a "
    "pretrained model says. Files that cannot be read are listed; the exit code is then 1."
)
_MOST_UNREAD = 5  # shown
Name = TypeVar("Name", str, Path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, the images, and what is shown and written."""
    add_run_or_source(parser)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image file, or a folder to search for them")
    add("--top", type=int, default=5, metavar="K", help="classes to show (default: 5)")
    add("--csv", metavar="FILE", help="also write the predictions as CSV")
    add("--all", action="store_true", help="write the probabilities of all classes into it")
    add_evaluation_options(parser)
    add_data_place(parser)


def run(args: argparse.Namespace) -> str:
    """Predict; return the predictions and notes for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run or a file cannot be used.
    """
    from jax_train.analysis.prediction import predict
    from jax_train.analysis.scoring import parse_tta, tta_notes
    from jax_train.data.given_images import find_images
    from jax_train.data.image_files import told

    views = parse_tta(args.tta)
    if args.top < 1:
        raise UserError(f"--top {args.top}: expected a whole number of classes, at least 1.")
    if args.all and not args.csv:
        raise UserError("--all writes all probabilities into a file: give --csv FILE too.")
    check_output("--csv", args.csv, args.overwrite)
    left_out: Counter[str] = Counter()
    files = find_images(args.images, left_out)
    run = open_run_or_source(args)
    found = predict(run, files, top=args.top, tta=views, keep_all=args.all, progress=True)
    lines = _table(found)
    notes = (
        *run.notes,
        *tta_notes(run, views),
        *_changes(found, run),
        *filter(None, [told(left_out)]),
    )
    lines += [as_paragraph(f"note: {note}") for note in notes]
    if args.csv:
        write_csv("--csv", args.csv, _csv_rows(found))
        lines.append(f"{args.csv}: {counted(len(found.files) + len(found.unread), 'file')}")
    if found.unread:
        total = len(found.files) + len(found.unread)
        lines += ["", *unread_files(found.unread, total, "; --csv FILE lists all")]
    return (Incomplete if found.unread else str)("\n".join(lines))


def unread_files(
    unread: Mapping[Name, str], total: int | None = None, all_in: str = ""
) -> list[str]:
    """Lines on the first of the files that could not be read, with the reasons.

    `total` is how many there are in all, and `all_in` says what lists those that cannot be read.
    """
    shown, count = list(unread.items())[:_MOST_UNREAD], len(unread)
    of = counted(count, "file") if total is None else f"{count:,} of {counted(total, 'file')}"
    lines = [f"{of} cannot be read:"]
    lines += [as_paragraph(f"{readable(file)}: {why}") for file, why in shown]
    return lines + [f"and {count - len(shown):,} more{all_in}"] * (count > len(shown))


def _changes(found, run) -> list[str]:
    """One line on the images that had to be changed much; none where none had."""
    from jax_train.data.given_images import FAR
    from jax_train.runs.trained import image_shape

    height, width, _ = image_shape(run)
    texts = {
        "resized": f"resized over {FAR}x to {width}x{height}",
        "colour": "colour read as grey",
        "grey": "grey in a colour model",
        "transparent": "transparent",
    }
    counts = [f"{n:,} {text}" for kind, text in texts.items() if (n := found.differences[kind])]
    return [f"of {counted(len(found.files), 'image')} {', '.join(counts)}"] if counts else []


def _table(found) -> list[str]:
    """The predictions for people, at most 80 columns wide, the likeliest class first.

    A line for each file where that fits, otherwise the file and its classes below it.
    """
    files = [readable(file) for file in found.files]
    names = [shorten(readable(name), 40) for name in found.class_names]
    width = max(columns(names[k]) for k in set(found.classes.flat))
    cells = [
        [f"   {pad(names[k], width)} {share:6.1%}" for k, share in zip(*row, strict=True)]
        for row in zip(found.classes, found.probabilities, strict=True)
    ]
    margin = max(map(columns, files))
    if margin + columns("".join(cells[0])) <= WIDTH:
        return [
            f"{pad(file, margin)}{''.join(row)}" for file, row in zip(files, cells, strict=True)
        ]
    lines, fitting = [], WIDTH // columns(cells[0][0])
    for file, row in zip(files, cells, strict=True):
        # The end of a long path says more than its beginning; the CSV file has it whole.
        lines.append(shorten(file[::-1], WIDTH)[::-1])
        lines += ["".join(row[i : i + fitting]) for i in range(0, len(row), fitting)]
    return lines


def _csv_rows(found) -> list[list[str]]:
    """Header and rows of the CSV file: file, class and probability by rank, then all; error."""
    ranks = range(1, found.classes.shape[1] + 1)
    header = ["file", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))]
    if found.all_probabilities is not None:
        header += [f"p({name})" for name in found.class_names]
    rows = [[*header, "error"]]
    for i, file in enumerate(found.files):
        row = [str(file)]
        for k, share in zip(found.classes[i], found.probabilities[i], strict=True):
            row += [found.class_names[k], f"{share:.6g}"]
        if found.all_probabilities is not None:
            row += [f"{share:.6g}" for share in found.all_probabilities[i]]
        rows.append([*row, ""])
    blank = [""] * (len(header) - 1)
    return rows + [[str(file), *blank, why] for file, why in found.unread.items()]
