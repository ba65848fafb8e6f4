"""Files that are written whole or not at all, CSV among them, and the user's cache folder."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from jax_train.errors import UserError


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the cache folder: `cache_dir`, $JAX_VIT_CNN_CACHE, or the user's cache folder."""
    if given := cache_dir or os.environ.get("JAX_VIT_CNN_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jax-vit-cnn"


def check_output(option: str, path: str | os.PathLike | None, overwrite: bool) -> None:
    """Check, before anything slow starts, that the file an option names can be written.

    Pipes and devices can be, and what a link leads to; see `write_atomically`.

    Raises:
      UserError: it exists and is not to be replaced, is no file, such as a folder, or its folder
        is missing or not writable.
    """
    from jax_models import output

    if path is None:
        return
    try:
        if output.is_stream(path):
            return
    except OSError as error:
        what = "is a folder" if isinstance(error, IsADirectoryError) else f"is no file ({error})"
        raise UserError(f"{option} {path} {what}. Name a file.") from error
    place = Path(os.path.realpath(path))
    if place.exists() and not overwrite:
        raise UserError(f"{option} {path} exists already; give --overwrite or choose another name.")
    folder = place.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "cannot be written to" if folder.is_dir() else "does not exist"
        raise UserError(f"{option} {path}: the folder {folder} {what}. Choose another one.")


def write_csv(option: str, path: str | os.PathLike, rows: Sequence[Sequence]) -> None:
    """Write rows as the CSV file that an option names; it appears when it is complete.

    Raises:
      UserError: it cannot be written.
    """
    try:
        write_atomically(path, csv_text(rows, "\n"))
    except OSError as error:
        raise UserError(
            f"{option} {path} cannot be written: {error}. Choose another one."
        ) from error


def csv_text(rows: Iterable[Sequence], end: str = "\r\n") -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    for row in rows:
        # The module lets a carriage return stand bare where lines do not end in one.
        returns = any("\r" in str(cell) for cell in row)
        quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        csv.writer(text, lineterminator=end, quoting=quoting).writerow(row)
    return text.getvalue()


def write_atomically(
    path: str | os.PathLike, content: str | bytes | Callable[[BinaryIO], object]
) -> None:
    """Write a file that is never seen half-written; every output but logs goes through here.

    Links are followed, and pipes and devices written into. Text becomes UTF-8, in which a name that
    the file system has in other bytes keeps them.

    Args:
      path: of the file.
      content: text, bytes, or a function that writes them into a binary file.

    Raises:
      OSError: it cannot be written, or the path is that of something else, such as a folder.
    """
    from jax_models import output  # which the models write with too; it comes with JAX

    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    output.write(path, content)
