"""Whose run folder it is: one config, one folder."""

import json
import os
from pathlib import Path

from ml_collections import ConfigDict

from jax_train.config import differences, to_json
from jax_train.errors import UserError
from jax_train.report import write_atomically


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
        if stored.exists():
            lines = differences(config, stored)
        elif workdir.exists() and any(workdir.iterdir()):
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


def _check_writable(workdir: Path) -> None:
    """Check the nearest folder that exists."""
    place = workdir.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"--workdir {workdir}: {place} is a file, not a folder.")
    if not os.access(place, os.W_OK):
        raise UserError(f"--workdir {workdir}: {place} cannot be written. Choose another one.")


def results(workdir: Path) -> dict | None:
    """Results of the finished run in a folder, None when it is not finished."""
    try:
        return json.loads((workdir / "results.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{workdir / 'results.json'} cannot be read ({error}): delete it to "
            "finish the run again."
        ) from error


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
