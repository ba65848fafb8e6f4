"""Files of features, NumPy's .npz or Apache Parquet, written while the features come."""

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from jax_models.output import is_stream
from jax_train.analysis import feature_tables
from jax_train.analysis.features import Features, Part
from jax_train.errors import UserError
from jax_train.files import write_atomically

_TEXTS = ("model", "weights", "source", "data")  # besides the names of the classes


class Spool:
    """Features on their way into a file, on disk: those of all images need not fit in memory.

    Args:
      beside: the file that they will go into, in whose folder they wait; None: that for temporary
        files.

    Raises:
      UserError: they cannot be kept there, here or in `add`.
    """

    def __init__(self, beside: str | os.PathLike | None):
        is_file = beside is not None and not is_stream(beside)
        folder = Path(os.path.realpath(beside)).parent if is_file else None
        self._place = folder or tempfile.gettempdir()
        with self._told():
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with it
        self._of_one, self.places, self._labels = None, [], []

    def add(self, parts: Iterable[Part]) -> None:
        """Take the features of all parts, at least one."""
        for part in parts:
            self._of_one = part.features[:0]
            self.places += part.places.tolist()
            self._labels += [] if part.labels is None else part.labels.tolist()
            with self._told():
                self._file.write(np.ascontiguousarray(part.features).data)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"The features cannot be kept in {self._place} until all are there: {error}. Make "
                "room, or write them elsewhere."
            ) from error

    @property
    def labels(self) -> np.ndarray | None:
        """int32 [N], where they are known."""
        return np.array(self._labels, np.int32) if self._labels else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all features."""
        return (len(self.places), *self._of_one.shape[1:])

    def array(self) -> np.ndarray:
        """The features [N,…], which stay on disk."""
        with self._told():
            self._file.flush()
        return np.memmap(self._file, self._of_one.dtype, "r", shape=self.shape)

    def write_npy(self, target: BinaryIO) -> None:
        """Write them as NumPy's .npy."""
        descr = np.lib.format.dtype_to_descr(self._of_one.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(target, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, target, 1 << 20)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def write(option: str, path: str | os.PathLike, found: Features, spool: Spool) -> None:
    """Write features as the file that an option names; it appears when it is complete.

    Of .parquet see `feature_tables`. Any other is an .npz file: its arrays are `features`, `names`
    and texts about them, and where labels are known `labels` and `class_names`; the same features
    make the same bytes.

    Args:
      option, path: of the file.
      found: all but the features.
      spool: these.

    Raises:
      UserError: it cannot be written.
    """
    if is_table(path):
        _write(option, path, lambda file: _write_table(file, found, spool))
        return
    arrays = {"names": np.array(found.names, str)}
    if found.labels is not None:
        arrays |= {"labels": found.labels, "class_names": np.array(found.class_names, str)}
    arrays |= {name: np.array(getattr(found, name), str) for name in _TEXTS}

    def content(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(_member("features"), "w", force_zip64=True) as target:
                spool.write_npy(target)
            for name, array in arrays.items():
                with archive.open(_member(name), "w", force_zip64=True) as target:
                    np.lib.format.write_array(target, array, allow_pickle=False)

    _write(option, path, content)


def is_table(path: str | os.PathLike) -> bool:
    """Whether a file of features of this name is one of Parquet."""
    return os.fspath(path).endswith(".parquet")


def _write_table(file: BinaryIO, found: Features, spool: Spool) -> None:
    more = {name: getattr(found, name) for name in _TEXTS}
    more |= {"class_names": found.class_names, "shape": spool.shape[1:]}
    blocks = feature_tables.blocks(spool.array())
    feature_tables.write(file, found.names, found.labels, more, blocks)


def _write(option: str, path: str | os.PathLike, content: Callable[[BinaryIO], object]) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(
            f"{option} {path} cannot be written: {error}. Choose another one."
        ) from error


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy")  # of 1980, whenever it is written


def read(path: str | os.PathLike) -> Features:
    """Read a file of features.

    Raises:
      UserError: there is none, or it is damaged or no file of features.
    """
    made = "Make one with python -m jax_train features RUN IMAGES --to FILE.npz."
    if is_table(path):
        feature_tables.library()
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file of features. {made}")
    try:
        arrays = feature_tables.read(path) if is_table(path) else _arrays(path)
    except Exception as error:  # damage shows in many ways: BadZipFile, zlib.error, EOFError, …
        raise UserError(f"{path} cannot be read as features ({error}). {made}") from error
    wrong = list(_wrong(arrays))
    if wrong:
        raise UserError(f"{path} is no file of features: {wrong[0]}. {made}")
    texts = {name: str(arrays[name]) for name in _TEXTS}
    names = tuple(arrays["names"].tolist())
    classes = tuple(arrays["class_names"].tolist()) if "labels" in arrays else ()
    return Features(arrays["features"], names, arrays.get("labels"), classes, **texts)


def _arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _wrong(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """What is wrong with the arrays of a file."""
    labelled = ("class_names",) if "labels" in arrays else ()
    for name in ("features", "names", *labelled, *_TEXTS):
        if name not in arrays:
            yield f"it has no array {name!r}"
            return
    features, count = arrays["features"], len(np.atleast_1d(arrays["names"]))
    if features.dtype.kind != "f" or features.ndim < 2 or not features.size:
        yield f"its features are {features.dtype} {features.shape}, not numbers [N,F]"
    elif len(features) != count:
        yield f"it has {count:,} names for {len(features):,} features"
    elif not np.isfinite(features).all():
        yield "its features are not finite"
    if labelled:
        labels, classes = arrays["labels"], len(np.atleast_1d(arrays["class_names"]))
        if labels.dtype.kind != "i" or labels.shape != features.shape[:1]:
            yield f"its labels are {labels.dtype} {labels.shape}, not whole numbers [N]"
        elif not 0 <= labels.min() <= labels.max() < classes:
            yield f"its labels go from {labels.min()} to {labels.max()}, of {classes:,} classes"
