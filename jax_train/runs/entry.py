"""How a run enters its folder: a new one, or going on with the one that is there."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jax_train.config import fields
from jax_train.data import Splits
from jax_train.errors import UserError
from jax_train.runs import data_record
from jax_train.runs import folder as run_folder
from jax_train.runs.data_record import DataRecord


class Entry(NamedTuple):
    """What a run finds in its folder; of JSON's types.

    Attributes:
      epochs: that the run there was last trained for; None for a new run.
      statistics: `mean` and `std` of the pixels that the run there began with.
      notes: what has to be told.
    """

    epochs: int | None
    statistics: Mapping[str, Sequence[float]]
    notes: list[str]


def enter(
    workdir: str | os.PathLike,
    config: ConfigDict,
    splits: Splits,
    *,
    extend: bool = False,
    held: bool = False,
) -> Entry:
    """Look whether a config may be trained in a folder on these data; nothing is changed.

    `extend` and `held` as of `folder.check`.

    Raises:
      UserError: the folder holds another run, its data had other classes, or had other files and
        `config.data.on_change` is 'refuse'.
    """
    workdir = Path(workdir)
    run_folder.check(workdir, config, extend=extend, held=held)
    if not (workdir / "config.json").exists():
        return Entry(None, {}, [])
    stored = fields.read_stored(workdir / "config.json").fields
    accepted = config.data.on_change == "accept"
    then, now, notes = data_record.read(workdir), data_record.describe(config, splits), []
    if then:
        _check_crops(workdir, then, now, stored["data.memory_limit"])
        notes = _changes(workdir, then, now, accepted)
    known = then or accepted  # of older runs only mean and std tell that the data were the same
    statistics = {key: stored[f"data.{key}"] for key in ("mean", "std") if known}
    return Entry(stored["train.epochs"], statistics, notes)


def check_finished(workdir: Path, config: ConfigDict, load) -> None:
    """Refuse to report a finished run for other data; they are looked at if the path is another.

    Args:
      workdir: of the finished run, which fits the config but for the path to its data.
      config: that was asked for.
      load: config -> its data.

    Raises:
      UserError: the data are not those of the run.
    """
    then = data_record.read(workdir)
    before = then or data_record.located(run_folder.read_config(workdir))
    config = data_record.pinned(config, workdir)
    if data_record.located(config) == (before.name, before.data_dir):
        return
    now = data_record.describe(config, load(config))
    told = "that they are the same is not recorded"
    if then:
        data_record.check_classes(workdir, now.name, then.class_names, now.class_names)
        told = data_record.changes(then, now)
    if told:
        raise _refusal(workdir, now, told, "Choose another --workdir.")


def _check_crops(workdir: Path, then: DataRecord, now: DataRecord, limit: float) -> None:
    """Refuse to train on crops of stored images after those of whole files, or the other way."""
    if then.cuts_whole_files != now.cuts_whole_files:
        whole, stored = "whole files, which streamed", "images kept in memory"
        before, after = (whole, stored) if then.cuts_whole_files else (stored, whole)
        raise UserError(
            f"The run in {workdir} takes its random resized crops from {before}; now they would be "
            f"of {after.replace('streamed', 'stream')}, which are other pixels. Go on with "
            f"--config.data.memory_limit={limit:g}, as the run began, or choose another --workdir."
        )


def _changes(workdir: Path, then: DataRecord, now: DataRecord, accepted: bool) -> list[str]:
    data_record.check_classes(workdir, now.name, then.class_names, now.class_names)
    told = data_record.changes(then, now)
    if not told:
        return []
    if not accepted:
        cure = "Put them back, choose another --workdir, or go on with the data as they are now: "
        raise _refusal(workdir, now, told, f"{cure}--config.data.on_change=accept.")
    return [
        f"note: going on with other data than the run began with ({told}); mean and std of the "
        "pixels stay as they were, and the steps of an epoch are counted anew"
    ]


def _refusal(workdir: Path, now: DataRecord, told: str, cure: str) -> UserError:
    name = data_record.shown(now.name)
    return UserError(f"The run in {workdir} began with other data than {name}: {told}. {cure}")


def leave_finished(workdir: Path, epochs: int) -> None:
    """Keep the results of a finished run under a name of their own: it goes on to more epochs."""
    with contextlib.suppress(FileNotFoundError):
        (workdir / "results.json").rename(workdir / f"results_{epochs}_epochs.json")
