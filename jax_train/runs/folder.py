"""Whose run folder it is: one config, one folder."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from jax_train.config.fields import differences, flatten, to_json
from jax_train.errors import UserError
from jax_train.files import write_atomically

_LOCK = ".lock"


def check(workdir: Path, config: ConfigDict) -> None:
    """Refuse a folder that holds something else than a run of this config.

    Raises:
      UserError: the folder belongs to another config (all differing fields are named), is not
        empty and no run, or cannot be read.
    """
    stored = workdir / "config.json"
    lines = []
    try:
        _check_writable(workdir)
        if (workdir / _LOCK).exists():
            with _lock_file(workdir):
                pass
        if stored.exists():
            lines = differences(config, stored)
        elif workdir.exists() and any(map(_holds_something, workdir.iterdir())):
            raise UserError(
                f"--workdir {workdir} is not empty and holds no run (no config.json). Choose "
                "another one."
            )
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be used: {error}.") from error
    if lines:
        raise UserError(
            f"{workdir} holds a run of another config. Choose another --workdir, or go back to its "
            "values:\n  " + "\n  ".join(lines)
        )


def _holds_something(path: Path) -> bool:
    """Whether a file is more than what a start leaves that found no room for config.json."""
    return path.name != _LOCK and not (path.name.endswith(".part") and "config.json" in path.name)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Create the folder and keep other runs out of it while the `with` block runs.

    The operating system drops the lock when the process ends, however it ends.

    Raises:
      UserError: another run holds it, or the folder cannot be written.
    """
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


def read_config(workdir: Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
      UserError: there is no run, or its config cannot be read or is of another version.
    """
    stored = workdir / "config.json"
    try:
        config = ConfigDict(json.loads(stored.read_text()), convert_dict=True)
    except FileNotFoundError as error:
        raise UserError(
            f"{workdir} is no run folder (no config.json). Name one, such as runs/vit_digits."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{stored} cannot be read ({error}).") from error
    for field, value in flatten(config).items():
        if isinstance(value, list):
            config.update_from_flattened_dict({field: tuple(value)})
    return config


def results(workdir: Path) -> dict | None:
    """Results of the finished run in a folder, None when it is not finished."""
    try:
        return json.loads((workdir / "results.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        text = f"{workdir / 'results.json'} cannot be read ({error}): delete it to finish the run"
        raise UserError(f"{text} again.") from error


def set_aside(workdir: Path) -> Path:
    """Rename a run folder to the first free NAME.1, NAME.2, … and return the new path."""
    number = 1
    while (aside := workdir.with_name(f"{workdir.name}.{number}")).exists():
        number += 1
    workdir.rename(aside)
    return aside


def create(workdir: Path, config: ConfigDict) -> None:
    """Create the folder and write config.json into it.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomically(workdir / "config.json", to_json(config) + "\n")
    except OSError as error:
        raise UserError(
            f"--workdir {workdir} cannot be written: {error}. Choose another one, or make room."
        ) from error
