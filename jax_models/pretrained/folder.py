"""Local folders of a model: which files they hold, and the weights in them, opened."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_models.pretrained.description import read_fields
from jax_models.pretrained.errors import SourceError
from jax_models.torch_weights import files

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_INDEX = ".index.json"
# In the order in which they are looked for.
_NAMES = ("model.safetensors", "pytorch_model.bin")
WEIGHTS = tuple(f"{name}{end}" for name in _NAMES for end in ("", _INDEX))


def shards(path: Path) -> list[str]:
    """The files that an index of weights names; none where a file is no index.

    Raises:
      SourceError: the index cannot be read, or names what is no file beside it.
    """
    if not path.name.endswith(_INDEX):
        return []
    index = read_fields(path)
    names = sorted({str(name) for name in index.part("weight_map").values()})
    for name in names:
        if Path(name).name != name or not name.endswith((".safetensors", ".bin")):
            index.refuse("weight_map", name, "names of files of weights beside it")
    if not names:
        index.refuse("weight_map", None, "the name of a file for each tensor")
    return names


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder, in the order of their names.

    Raises:
      SourceError: there are none, or one of them is missing.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise SourceError(f"{folder} holds no weights: expected one of {', '.join(WEIGHTS)}.")
    places = [folder / name for name in shards(path)] or [path]
    for place in places:
        if not place.is_file():
            raise SourceError(
                f"{path} names {place.name}, which is not there: fetch the missing file."
            )
    return places


def open_weights(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors in a folder by name, those of safetensors unread, and notes.

    Raises:
      SourceError: the folder holds no weights, or they cannot be read.
    """
    parts, notes = [], []
    for place in weight_files(folder):
        state, said = open_file(place)
        parts.append(state)
        notes += said
    return _joined(folder, parts), list(dict.fromkeys(notes))


def open_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of a file by name, those of safetensors unread, and notes.

    Raises:
      SourceError: it cannot be read.
    """
    notes: list[str] = []
    try:
        with noted(notes):
            return files.read(path), notes
    except (OSError, ImportError, ValueError) as error:
        raise SourceError(str(error)) from None


@contextlib.contextmanager
def noted(notes: list[str]) -> Iterator[None]:
    """Turn warnings into notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [str(warning.message) for warning in caught]


def _joined(folder: Path, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for part in parts:
        if twice := state.keys() & part.keys():
            raise SourceError(f"{folder}: {min(twice)} stands in two files. Fetch them again.")
        state |= part
    return state
