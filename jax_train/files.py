"""Files that are written whole or not at all, CSV among them, and the user's cache folder."""

import contextlib
import csv
import functools
import io
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from jax_train.errors import UserError
from jax_train.printing import note


def expand(path: str | os.PathLike) -> Path:
    """Return a path with `~` replaced by the user's home.

    Raises:
      UserError: it begins with `~`, and nothing says where that is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{path}: this user has no home folder that ~ could stand for. Write the path out, or "
            "set HOME."
        ) from error


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """Return the cache folder: `cache_dir`, $JAX_VIT_CNN_CACHE, or the user's cache folder.

    Of a user without one that can be written to it is a temporary folder, which is told once.

    Raises:
      UserError: there is no place for that folder either.
    """
    if given := cache_dir or os.environ.get("JAX_VIT_CNN_CACHE"):
        return expand(given)
    base = user_folder("XDG_CACHE_HOME", ".cache")
    return base / "jax-vit-cnn" if base else _temporary_cache()


def user_folder(variable: str, name: str) -> Path | None:
    """Return $VARIABLE or `name` in the user's home; None where nothing can be written there."""
    try:
        folder = Path(os.environ.get(variable) or Path.home() / name)
    except RuntimeError:  # neither HOME nor an entry for this user
        return None
    return folder if _can_hold_files(folder) else None


def _can_hold_files(folder: Path) -> bool:
    """Whether files can be written into a folder, once it is made if it is missing."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


@functools.cache
def _temporary_cache() -> Path:
    """Make a folder for caches that is this user's alone, and tell of it."""
    try:
        folder = Path(tempfile.gettempdir()) / f"jax-vit-cnn-{getattr(os, 'getuid', str)()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_mode & 0o77 or not _is_own(folder):
            folder = Path(tempfile.mkdtemp(prefix="jax-vit-cnn-"))  # compiled programs are run
    except OSError as error:
        raise UserError(
            f"There is neither a home folder nor a temporary one to keep caches in ({error}). Set "
            "JAX_VIT_CNN_CACHE to a folder."
        ) from error
    note(
        "there is no home folder that can be written to, so what is cached between runs is kept "
        f"in {folder}. Set JAX_VIT_CNN_CACHE to a folder that stays."
    )
    return folder


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()


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


def check_folder(option: str, path: str | os.PathLike) -> None:
    """Check, before anything slow starts, that files can be written into the folder of an option.

    Raises:
      UserError: it is no folder, or can neither be written to nor made.
    """
    if not _can_hold_files(Path(path)):
        raise UserError(
            f"{option} {path}: expected a folder that can be written to, or made. Choose another "
            "place."
        )


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


def json_text(value: object, **how) -> str:
    """A value as JSON that every reader takes: a number that is not finite becomes null.

    `how` are options of `json.dumps`.
    """
    return json.dumps(finite(value), allow_nan=False, **how)


def finite(value: Any) -> Any:
    """A value of JSON's types with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(rows: Iterable[Sequence], end: str = "\r\n") -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO()
    usual = csv.writer(text, lineterminator=end)
    for row in rows:
        # The module lets a carriage return stand bare where lines do not end in one.
        returns = any("\r" in str(cell) for cell in row)
        write = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL) if returns else usual
        write.writerow(row)
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


def write_both(path: str | os.PathLike, text: str, write_other: Callable[[], object]) -> None:
    """Write a text beside another file; neither is replaced before both have found room.

    Args:
      path: of the text.
      text: as of `write_atomically`.
      write_other: writes the other file, whole or not at all.

    Raises:
      OSError: the text cannot be written; and what `write_other` raises.
    """

    def content(file: BinaryIO) -> None:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        write_other()

    write_atomically(path, content)


def check_new_folder(option: str, path: str | os.PathLike) -> None:
    """Check, before anything slow starts, that the folder an option names can be made.

    Raises:
      UserError: there is something of that name, or it cannot be made where it would lie.
    """
    if os.path.lexists(path):
        raise UserError(
            f"{option} {path} exists already, and a folder is never replaced: delete it, or choose "
            "another name."
        )
    check_output(option, path, overwrite=False)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give an empty folder that gets this name when all that is done in it is done.

    Raises:
      OSError: it cannot be made, or there is something of that name.
    """
    place = Path(os.path.abspath(path))
    temporary = place.with_name(f".{place.name[:50]}.{secrets.token_hex(4)}.part")
    temporary.mkdir()
    try:
        yield temporary
        if os.path.lexists(place):
            raise FileExistsError(f"{place} has come to be there meanwhile")
        temporary.rename(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
