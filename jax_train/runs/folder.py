"""Whose run folder it is: one config, one folder."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jax_train.config import fields
from jax_train.config.fields import FROM_DATA, Stored
from jax_train.data.sources.by_name import scheme_of
from jax_train.errors import UserError
from jax_train.files import json_text, write_atomically
from jax_train.printing import note
from jax_train.runs import data_record
from jax_train.runs.data_record import DataRecord

_LOCK, _DATA = ".lock", data_record.FILE
# For results of other versions.
_NO_RESULTS: dict[str, Any] = {
    "reported_weights": "last",
    "notes": [],
    "images": {},
    "versions": {},
}
_NO_RESULTS |= dict.fromkeys(("model", "data", "parameters", "epochs", "steps", "reported_epoch"))
_NO_RESULTS |= dict.fromkeys(("val", "test", "seconds", "train_images_per_sec", "device"))
_NO_RESULTS |= {"git_commit": None, "ended": None, "began_with": None}
_SHOWN = 4  # fields in a note


def check(
    workdir: str | os.PathLike, config: ConfigDict, *, extend: bool = False, held: bool = False
) -> None:
    """Refuse a folder that holds something else than a run of this config.

    With `extend` the run may have been begun for fewer epochs, with other patience; with `held`
    this process holds the folder's lock. A name of the data that is a path is not compared: see
    `data_record`.

    Raises:
      UserError: the folder belongs to another config (all differing fields are named), is not
        empty and no run, or cannot be read.
    """
    workdir = Path(workdir)
    stored = None
    try:
        _check_writable(workdir)
        if not held and (workdir / _LOCK).exists():
            with _lock_file(workdir):
                pass
        if (workdir / "config.json").exists():
            stored = _read_stored(workdir, "Choose another --workdir, or delete that folder.")
        elif workdir.exists() and any(map(_holds_something, workdir.iterdir())):
            raise UserError(
                f"--workdir {workdir} is not empty and holds no run (no config.json). Choose "
                "another one."
            )
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be used: {error}.") from error
    if stored:
        _check_same(workdir, config, stored, extend)


def _check_same(workdir: Path, config: ConfigDict, stored: Stored, extend: bool) -> None:
    """Refuse to go on with a run under another config."""
    ignored, epochs = [], stored.fields["train.epochs"]
    if all(scheme_of(name).is_path for name in (config.data.name, stored.fields["data.name"])):
        ignored.append("data.name")
    longer = isinstance(epochs, int) and config.train.epochs > epochs
    if extend and longer:
        ignored += ["train.epochs", "train.patience"]
    lines = fields.differences(config, stored, ignored)
    if not lines:
        return
    told = "\n  ".join(lines.values())
    if set(lines) <= set(FROM_DATA):
        raise UserError(
            f"The data, {config.data.name}, are not those that the run in {workdir} began with: "
            "these values follow from them. Put the data back as they were, or choose another "
            f"--workdir.\n  {told}"
        )
    hint = ""
    if longer and set(lines) == {"train.epochs"}:
        hint = f", or go on with it to {config.train.epochs} epochs: --extend"
    raise UserError(
        f"{workdir} holds a run of another config. Choose another --workdir, or go back to its "
        f"values{hint}:\n  {told}"
    )


def _read_stored(workdir: Path, cure: str) -> Stored:
    path = workdir / "config.json"
    try:
        return fields.read_stored(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} is no run folder (no config.json). Name one, such as runs/vit_digits."
        ) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}). {cure}".rstrip()) from error


def _holds_something(path: Path) -> bool:
    """Whether a file is more than what a start leaves that found no room for config.json."""
    begun = any(name in path.name for name in ("config.json", _DATA))
    return path.name not in (_LOCK, _DATA) and not (begun and path.name.endswith(".part"))


@contextlib.contextmanager
def locked(workdir: str | os.PathLike) -> Iterator[None]:
    """Create the folder and keep other runs out of it while the `with` block runs.

    The operating system drops the lock when the process ends, however it ends.

    Raises:
      UserError: another run holds it, or the folder cannot be written.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = _lock_file(workdir)
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error}.") from error
    with lock:
        yield


def _lock_file(workdir: Path):
    """The lock file, open and locked; closing it gives the lock up."""
    file = open(workdir / _LOCK, "a+")  # noqa: SIM115 - returned
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"--workdir {workdir} is in use by {holder}. Wait until it ends, stop it, or choose "
            "another --workdir."
        ) from error
    except (ImportError, OSError):  # no such locks on this system or disk: go without
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _check_writable(workdir: Path) -> None:
    """Check the nearest folder that exists."""
    place = workdir.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"--workdir {workdir}: {place} is a file, not a folder.")
    if not os.access(place, os.W_OK):
        raise UserError(f"--workdir {workdir}: {place} cannot be written. Choose another one.")


def read_config(workdir: str | os.PathLike) -> ConfigDict:
    """The config of the run in a folder.

    A field that another version did not write has its default, and one that this version does not
    know is left out; both are told, the former where it may change a result.

    Raises:
      UserError: there is no run, its config cannot be read, or a field that follows from the data
        is missing.
    """
    workdir = Path(workdir)
    stored = _read_stored(workdir, "")
    path, cause = workdir / "config.json", "Another version may have written it."
    if lost := [field for field in FROM_DATA if field in stored.missing]:
        raise UserError(
            f"{path} lacks {_listed(lost)}, which followed from the data and without which the "
            f"weights cannot be used. {cause} Put the field back from a copy of the file."
        )
    if filled := [field for field in stored.missing if not fields.is_free(field)]:
        values = [f"{field}={stored.fields[field]!r}" for field in filled]
        note(f"{path} lacks {_listed(values)}: taken as given here. {cause}")
    if stored.unknown:
        values = [f"{field}={value!r}" for field, value in stored.unknown.items()]
        note(f"{path} has {_listed(values)}, which this version does not know. {cause}")
    return fields.from_fields(stored.fields)


def _listed(what: list[str]) -> str:
    more = len(what) - _SHOWN if len(what) > _SHOWN + 1 else 0
    text = ", ".join(f"config.{one}" for one in what[: len(what) - more])
    return f"{text} and {more} other fields" if more else text


def results(workdir: str | os.PathLike) -> dict | None:
    """Results of the finished run in a folder, None when it is not finished."""
    path = Path(workdir) / "results.json"
    try:
        found = json.loads(path.read_text(), parse_constant=lambda _: None)
        return _NO_RESULTS | found
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        text = f"{path} cannot be read ({error}): delete it to finish the run"
        raise UserError(f"{text} again.") from error


def set_aside(workdir: str | os.PathLike) -> Path:
    """Rename a run folder to the first free NAME.1, NAME.2, … and return the new path."""
    workdir, number = Path(workdir), 1
    while (aside := workdir.with_name(f"{workdir.name}.{number}")).exists():
        number += 1
    workdir.rename(aside)
    return aside


def create(
    workdir: str | os.PathLike, config: ConfigDict, record: DataRecord | None = None
) -> None:
    """Create the folder and write data.json and config.json into it.

    Raises:
      UserError: the folder cannot be written.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if record:
            write_atomically(workdir / _DATA, json_text(record._asdict()))
        write_atomically(workdir / "config.json", fields.to_json(config) + "\n")
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written: {error}. Choose another one, or make room."
        ) from error
