"""What commands print, at most 80 columns wide, and the CSV files they write."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from jax_train import report
from jax_train.errors import UserError

WIDTH = 80  # columns of what is printed


def shorten(text: str, width: int) -> str:
    """Cut a text that is longer than `width` characters, and mark that by '…'."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def check_csv(path: str | None, overwrite: bool) -> None:
    """Check, before anything slow starts, that a CSV file can be written.

    Raises:
      UserError: it exists and is not to be replaced, or its folder is missing or not writable.
    """
    if path is None:
        return
    folder = Path(path).absolute().parent
    if Path(path).is_dir():
        raise UserError(f"--csv {path} is a folder. Name a file, such as {path}/out.csv.")
    if Path(path).exists() and not overwrite:
        raise UserError(f"--csv {path} exists already; give --overwrite or choose another name.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "cannot be written to" if folder.is_dir() else "does not exist"
        raise UserError(f"--csv {path}: the folder {folder} {what}. Choose another one.")


def write_csv(path: str, rows: Sequence[Sequence]) -> None:
    """Write rows as CSV; the file appears when it is complete.

    Raises:
      UserError: it cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    try:
        report.write_atomically(Path(path), text.getvalue())
    except OSError as error:
        raise UserError(f"--csv {path} cannot be written: {error}. Choose another one.") from error
