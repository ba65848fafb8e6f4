"""Decoded arrays on disk, so that only the first run on a data set pays for decoding.

An entry of arrays is a folder with images.npy, labels.npy and meta.json. Its name is a hash of the
fingerprint of the source, so an entry of a source that has changed since is never found again.
An entry is written beside its final place and renamed, so a half-written one is never used.
Small results, such as counts of pixel values, are entries of one JSON file.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_train.files import cache_root

FORMAT = 1  # of an entry; raise it when the files or the way of decoding change
Folder = str | os.PathLike | None  # of the cache; see `cache_root`
_ABANDONED_SECONDS = 24 * 3600
_log = logging.getLogger(__name__)


class Arrays(NamedTuple):
    """A whole base split: images uint8 [N, H, W, C], labels int32 [N], and the class names."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def fingerprint_of(files: Iterable[tuple[str, os.stat_result]], *settings: object) -> str:
    """Return a hash of the names, sizes and times of change of the files, and of the settings."""
    digest = hashlib.sha256(repr((FORMAT, settings)).encode())
    for name, stat in files:
        line = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def cached(
    label: str, fingerprint: str | None, build: Callable[[], Arrays], cache_dir: Folder = None
) -> Arrays:
    """Return the arrays of an entry; build them if no whole one is found.

    Args:
      label: what the arrays are, with the path of their source; the same for every state of it.
      fingerprint: of the source as it is now; None: nothing is cached.
      build: decodes the arrays.
      cache_dir: see `cache_root`.

    Returns:
      The arrays, images as a read-only memory map. If the cache cannot be written, the arrays
      in memory, after one warning.
    """
    if fingerprint is None:
        return build()
    place = _place(label, fingerprint, cache_dir)
    found = _read_entry(place, fingerprint)
    if found is None:
        arrays = build()
        try:
            _write_entry(place, fingerprint, label, arrays)
        except OSError as error:
            _warn("Decoded images are", "decodes them", place, error)
        found = _read_entry(place, fingerprint) or arrays
    for array in (found.images, found.labels):
        array.flags.writeable = False
    return found


def find_cached(label: str, fingerprint: str | None, cache_dir: Folder = None) -> Arrays | None:
    """Return the arrays `cached` would return without building them, or None."""
    return fingerprint and _read_entry(_place(label, fingerprint, cache_dir), fingerprint)


def cached_json(
    label: str,
    fingerprint: str,
    build: Callable[[], object],
    is_valid: Callable[[object], bool],
    cache_dir: Folder = None,
    told: tuple[str, str] = ("Counts of the pixel values are", "counts"),
) -> object:
    """Return a small result of JSON's types from an entry of its own; arguments as of `cached`.

    `is_valid` says whether a stored result can be used, and may raise ValueError or TypeError;
    `told` says what it is, and what the next run does again if it cannot be stored.
    """
    place = _place(label, fingerprint, cache_dir).with_suffix(".json")
    try:
        entry = json.loads(place.read_text("utf-8"))
        matches = entry["format"] == FORMAT and entry["fingerprint"] == fingerprint
        if matches and is_valid(entry["value"]):
            return entry["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged: built again
    value = build()
    try:
        with _folder_beside(place) as temporary:
            entry = {"format": FORMAT, "fingerprint": fingerprint, "value": value}
            _write(temporary / place.name, json.dumps(entry).encode())
            os.replace(temporary / place.name, place)
    except OSError as error:
        _warn(*told, place, error)
    return value


def _place(label: str, fingerprint: str, cache_dir: Folder) -> Path:
    name = hashlib.sha256(label.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_root(cache_dir) / name / fingerprint[:32]


def _warn(what: str, does: str, place: Path, error: OSError) -> None:
    _log.warning(
        f"{what} not cached, so the next run {does} again: cannot write {place.parents[1]} "
        f"({error.strerror or error}). Set JAX_VIT_CNN_CACHE to a folder with room."
    )


def _read_entry(place: Path, fingerprint: str) -> Arrays | None:
    """Return the arrays of a whole, matching entry, else None."""
    try:
        meta = json.loads((place / "meta.json").read_text("utf-8"))
        if meta["format"] != FORMAT or meta["fingerprint"] != fingerprint:
            return None
        images = np.load(place / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(place / "labels.npy", allow_pickle=False)
        for name, array in (("images", images), ("labels", labels)):
            if meta[name] != _facts(array, (place / f"{name}.npy").stat().st_size):
                return None
        classes = tuple(meta["class_names"])
        known = 0 <= labels.min() <= labels.max() < len(classes)
        return Arrays(images, labels, classes) if known else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _facts(array: np.ndarray, size: int) -> dict:
    return {"dtype": str(array.dtype), "shape": list(array.shape), "bytes": size}


def _write_entry(place: Path, fingerprint: str, label: str, arrays: Arrays) -> None:
    """Write an entry as a whole or not at all; raises OSError."""
    with _folder_beside(place) as temporary:
        meta = {"format": FORMAT, "fingerprint": fingerprint, "source": ascii(label)}
        meta["class_names"] = list(arrays.class_names)
        for name, array in (("images", arrays.images), ("labels", arrays.labels)):
            meta[name] = _facts(array, _write(temporary / f"{name}.npy", array))
        _write(temporary / "meta.json", json.dumps(meta, indent=1).encode())
        _move_into_place(temporary, place, fingerprint)


def _write(path: Path, content: np.ndarray | bytes) -> int:
    """Write a file, through to the disk; return its size in bytes."""
    # Through a file, not a memory map: a full disk is then an error, not SIGBUS.
    with open(path, "wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            np.save(file, content, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


@contextlib.contextmanager
def _folder_beside(place: Path) -> Iterator[Path]:
    """Give a folder on the same disk to write an entry in; then remove its earlier states."""
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(place.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=place.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for other in place.parent.glob("[!.]*"):
        if other.is_dir() and other.name != place.name:
            shutil.rmtree(other, ignore_errors=True)
        elif other.name != place.name:
            other.unlink(missing_ok=True)


def _move_into_place(temporary: Path, place: Path, fingerprint: str) -> None:
    """Rename, giving way to a whole entry of another process and moving a damaged one aside."""
    for attempt in range(5):
        try:
            os.rename(temporary, place)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or attempt == 4:
                raise
        if _read_entry(place, fingerprint) is not None:
            return
        aside = temporary.with_name(f".old{temporary.name}")
        with contextlib.suppress(FileNotFoundError):  # another process moved it first
            os.rename(place, aside)
        shutil.rmtree(aside, ignore_errors=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that were killed while writing have left behind."""
    for path in folder.glob(".*-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
