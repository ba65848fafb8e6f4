"""Weights wherever they lie, in a run folder too: opened as a model, and known by a checksum."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import jax_models
from jax_models.pretrained import Opened, SourceError
from jax_models.pretrained.folder import weight_files
from jax_models.pretrained.hub import is_on_hub
from jax_train.engine.state import split
from jax_train.errors import UserError
from jax_train.files import expand
from jax_train.machine import processes
from jax_train.runs import pretrained, trained


class Found(NamedTuple):
    """Weights that were opened.

    Attributes:
      opened: the model that they are of.
      sha256: of their file; of several files that of the lines that `sha256sum` writes for them;
        of a run that of its arrays.
      notes: what a user should know, besides the notes in `opened`.
    """

    opened: Opened
    sha256: str
    notes: tuple[str, ...] = ()


def located(source: str) -> str:
    """The name of weights, understood in every working folder."""
    return source if is_on_hub(source) else os.path.abspath(expand(source))


def is_there(place: str) -> bool:
    """Whether there is something in a place; of what is on the hub it is not known."""
    return is_on_hub(place) or os.path.exists(place)


def find(place: str, name: str | None, settings: dict[str, Any], revision: str | None) -> Found:
    """Open weights.

    Args:
      place: as `config.model.init_from`, located.
      name: of the model, of a file.
      settings: its keywords, of a file.
      revision: of a source on the hub; None: the newest.

    Raises:
      SourceError, UserError: there are none, or they cannot be read.
    """
    if _is_run(place):
        return _of_run(place)
    if is_on_hub(place):
        place = place if revision is None else f"{place.partition('@')[0]}@{revision}"
        if jax.process_count() > 1:  # the others find it in the cache
            processes.on_main(lambda: jax_models.open_pretrained(place) and None)
    opened = jax_models.open_pretrained(place, name=name, **settings)
    return Found(opened, of_files(opened.files))


def checksum(place: str) -> str | None:
    """That of local weights, as in `Found`; None where they are not to be had."""
    try:
        if is_on_hub(place):
            return None
        if _is_run(place):
            return _of_run(place).sha256
        path = Path(place)
        return of_files(weight_files(path) if path.is_dir() else [path])
    except (OSError, UserError, SourceError):
        return None


def arrays(state: nnx.State) -> dict[str, Any]:
    """The values of a state by the paths of its variables, such as `blocks.0.mlp.bias`."""
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): variable.get_value() for path, variable in flat}


def _is_run(place: str) -> bool:
    is_folder = not is_on_hub(place) and os.path.isfile(os.path.join(place, "config.json"))
    return is_folder and not pretrained.is_source(place)


def _of_run(place: str) -> Found:
    """The weights that a run reports, with its adapters folded in."""
    wide = jax.config.jax_enable_x64
    try:
        run = trained.open_run(place)
        graphdef, values = split(run.model)
        values = jax.device_get(values)
    finally:  # whether this run is in float64 is not for that one to say
        jax.config.update("jax_enable_x64", wide)
    model = nnx.merge(graphdef, *values)
    checksum = _of_arrays(arrays(nnx.state(model)))
    return Found(Opened(place, run.description, model), checksum, run.notes)


def of_files(files: Iterable[Path]) -> str:
    """The checksum of files; see `Found`."""
    digests = {}
    for path in files:
        with open(path, "rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _of_arrays(values: dict[str, Any]) -> str:
    """The checksum of arrays, each with its name, dtype and shape."""
    digest = hashlib.sha256()
    for name, value in sorted(values.items()):
        value = np.ascontiguousarray(value)
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(value.reshape(-1).view(np.uint8))
    return digest.hexdigest()
