"""Files that are written whole or not at all, CSV among them, and the user's cache folder."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from jax_train.errors import UserError


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the cache folder: `cache_dir`, $JAX_VIT_CNN_CACHE, or the user's cache folder."""
    if given := cache_dir or os.environ.get("JAX_VIT_CNN_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "jax-vit-cnn"


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
    try:
        write_atomically(Path(path), csv_text(rows, "\n"))
    except OSError as error:
        raise UserError(f"--csv {path} cannot be written: {error}. Choose another one.") from error


def json_text(value: object, **how) -> str:
    """A value as JSON that every reader takes: a number that is not finite becomes null.

    `how` are options of `json.dumps`.
    """
    return json.dumps(finite(value), allow_nan=False, **how)


def finite(value: object) -> object:
    """A value of JSON's types with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(rows: Iterable[Sequence], end: str = "\r\n") -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator=end).writerows(rows)
    return text.getvalue()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file that is never seen half-written; text as UTF-8."""
    temporary = path.with_suffix(path.suffix + ".part")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
