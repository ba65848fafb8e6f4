"""data.json: which data a run began with, and whether that is what is found now.

A run is known by the content of its data: class names in their order, and the files of the base
splits it uses, in the order of the examples, each by name below the root, size and checksum (see
`data.contents`). Neither the path to the root nor times of change count, so a folder that was
copied, moved or named otherwise is the same.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from jax_train.data import Splits
from jax_train.data.contents import Contents
from jax_train.data.crops import cuts_whole_files
from jax_train.data.sources.by_name import scheme_of
from jax_train.data.sources.huggingface import COMMIT
from jax_train.errors import UserError
from jax_train.printing import counted, readable, shorten

FILE = "data.json"
_NAMED = 3  # files of each kind that a message names


class DataRecord(NamedTuple):
    """The data of a run.

    Attributes:
      name: as `config.data.name`, understood in every working folder, with the revision if the data
        have some.
      data_dir: as `config.data.data_dir`, likewise.
      class_names: in the order of the labels.
      image_shape: height and width in pixels, and channels.
      files: base split -> its files in the order of the examples.
      cuts_whole_files: see `crops.cuts_whole_files`.
    """

    name: str
    data_dir: str | None
    class_names: Sequence[str]
    image_shape: Sequence[int]
    files: dict[str, Contents]
    cuts_whole_files: bool = False


class Place(NamedTuple):
    """Where data lie: `config.data.name` and `config.data.data_dir`, for any working folder."""

    name: str
    data_dir: str | None


def located(config: ConfigDict) -> Place:
    """Where a config's data lie."""
    name, data_dir = config.data.name, config.data.data_dir
    return Place(*scheme_of(name).located(name, data_dir))


def describe(config: ConfigDict, splits: Splits) -> DataRecord:
    """Describe the data that was loaded for a config."""
    train = splits.train
    bases = set().union(*(split.bases for split in vars(splits).values() if split))
    files = {base: train.contents(base) for base in sorted(bases)}
    place = located(config)
    if scheme_of(place.name).pins:
        place = place._replace(name=train.name)
    facts = list(train.class_names), list(train.image_shape), files
    return DataRecord(*place, *facts, cuts_whole_files(config, train))


def pinned(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
    """The config with the revision of the data that the run in a folder began with, if any.

    A branch of the data may have moved since; a commit that the config names itself stays.
    """
    name, record = config.data.name, read(workdir)
    if record is None or not scheme_of(name).pins or not scheme_of(record.name).pins:
        return config
    base, _, revision = name.partition("@")
    if base != record.name.partition("@")[0] or COMMIT.fullmatch(revision):
        return config
    config = config.copy_and_resolve_references()
    config.data.name = record.name
    return config


def read(workdir: str | os.PathLike) -> DataRecord | None:
    """Read the record of a run folder; None where the run was begun without one.

    Raises:
      UserError: it cannot be read.
    """
    path = Path(workdir) / FILE
    try:
        return DataRecord(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}, which says what data the run began with, cannot be read ({error}). Delete "
            "that file to go on with the data as they are now."
        ) from error


def check_classes(
    workdir: str | os.PathLike, name: str, then: Sequence[str], now: Sequence[str]
) -> None:
    """Refuse data that have other classes now than when the run in a folder began.

    Raises:
      UserError: says which are new, which are gone, or that their order is another.
    """
    if list(then) == list(now):
        return
    kinds = {"new": set(now) - set(then), "gone": set(then) - set(now)}
    told = [f"{kind}: {_names(names)}" for kind, names in kinds.items() if names]
    raise UserError(
        f"The classes of {shown(name)} are not those of the run in {workdir}: "
        f"{'; '.join(told) or 'their order is another'} ({len(then)} then, {len(now)} now). Its "
        "model would take one for another. Put the classes back as they were, or choose other "
        "data or, to train, another --workdir."
    )


def changes(then: DataRecord, now: DataRecord) -> str:
    """Say what differs between the files: '2 files added (…), 1 removed (…)'; '' for nothing."""
    pairs = [(then.files[base], now.files.get(base, {})) for base in then.files]
    if then.files == now.files and all(list(one) == list(other) for one, other in pairs):
        return ""  # quickly, of a million files
    old, new = _flat(then.files), _flat(now.files)
    altered = [name for name in old if name in new and _differ(old[name], new[name])]
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": altered,
    }
    told = [f"{len(names):,} {kind} ({_names(names)})" for kind, names in kinds.items() if names]
    if told:
        return f"{counted(len(old), 'file')} then, {len(new):,} now: {', '.join(told)}"
    return "" if list(old) == list(new) else "the same files, but in another order"


def _flat(files: dict[str, Contents]) -> dict[str, list]:
    return {f"{base}/{name}": facts for base, part in files.items() for name, facts in part.items()}


def _differ(old: list, new: list) -> bool:
    """Compare size and checksum; the latter only where both have one."""
    return old[0] != new[0] or (None not in (old[1], new[1]) and old[1] != new[1])


def _names(names: Sequence[str] | set[str]) -> str:
    some = [shown(name) for name in sorted(names)[:_NAMED]]
    return ", ".join(some) + ", …" * (len(names) > _NAMED)


def shown(name: str) -> str:
    """A name of data or of a file for people, in one line."""
    return shorten(readable(Path(name)), 60)
