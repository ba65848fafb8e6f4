"""Data sets of images with labels, in memory or memory-mapped: `load` and `Dataset`.

Sources are scikit-learn's embedded digits, TFDS data sets read without TensorFlow, and folders
of images by class. Every source takes the split syntax of TFDS, and what had to be decoded is
kept in a cache (`jax_train.data_cache`). What exceeds a limit of memory is read while it is used
(`jax_train.data_stream`).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from jax_train.data_cache import Arrays, cached, find_cached
from jax_train.data_sources import Source, open_source
from jax_train.errors import UserError

if TYPE_CHECKING:
    from jax_train.data_stream import StreamedDataset

_SYNTAX = "'train', 'train[:90%]', 'train[1000:2000]', 'train[-100:]' or 'train+test'"


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """What is known of the examples of a split, wherever their images are.

    Attributes:
        name: as given to `load`, such as 'cifar10'.
        split: as given to `load`, such as 'train[:90%]'.
        class_names: name of each class.
        source: what the examples were read from; equal for splits of the same data.
        ranges: the examples held, in order, as (base split, start, stop).
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    source: str
    ranges: tuple[tuple[str, int, int], ...]

    @property
    def num_classes(self) -> int:
        """Number of classes of the data, also where the split lacks some of them."""
        return len(self.class_names)

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.ranges)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(Examples):
    """Images and labels of one split.

    Attributes:
        images: uint8 [N, H, W, C], values 0 to 255; may be a read-only memory map.
        labels: int32 [N], from 0 up to but not including `num_classes`.
    """

    images: np.ndarray
    labels: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and the number of channels."""
        return tuple(self.images.shape[1:])


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    download: bool = True,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
    memory_limit: float | None = None,
) -> Dataset | StreamedDataset:
    """Load a split of a data set.

    Args:
        name: 'digits', 'folder:PATH', or a TFDS data set: 'name', 'name:version' or
            'name/config'. cifar10, cifar100 and mnist are prepared on first use; others must
            be prepared already, in the array_record format.
        split: in TFDS's syntax, such as 'train', 'train[:45000]', 'train[10%:20%]' or
            'train+test' (https://www.tensorflow.org/datasets/splits).
        data_dir: folder of prepared TFDS data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_size: for folders only: side in pixels of the square that images are resized
            (shorter side) and cropped (centre) to.
        download: whether to fetch and prepare missing data.
        cache_dir: folder for decoded images; None: see `data_cache.cache_root`.
        progress: show progress bars, where stderr is a terminal.
        memory_limit: gigabytes (1e9 bytes) that the images of the split, one byte per value, may
            take; a larger split is returned as a `data_stream.StreamedDataset`, which is decoded
            while it is used and never cached. None: no limit.

    Returns:
        The images and labels. A split that is one range is a view of the cached base split; of a
        base split that itself exceeds the limit, the range alone is decoded and cached.

    Raises:
        UserError: the data, the split, or a file of the data is not usable; says which and why.
    """
    limit = _limit_bytes(memory_limit)
    source = open_source(
        name, data_dir, image_size=image_size, download=download, progress=progress
    )
    store = _Store(source, image_size, cache_dir, progress)
    ranges = resolve_split(split, source)
    about = {"name": name, "split": split, "source": source.identity, "ranges": ranges}
    if limit < math.inf:
        _check_shapes(split, source, {base: store.image_shape(base) for base, _, _ in ranges})
        image_bytes = math.prod(store.image_shape(ranges[0][0]))
        if image_bytes * sum(stop - start for _, start, stop in ranges) > limit:
            return store.stream(**about)
        limit /= image_bytes  # now in images
    parts = [store.arrays(*part, whole=sum(source.splits[part[0]]) <= limit) for part in ranges]
    shapes = zip(ranges, parts, strict=True)
    _check_shapes(split, source, {base: part.images.shape[1:] for (base, _, _), part in shapes})
    return Dataset(
        **about,
        images=parts[0].images if len(parts) == 1 else np.concatenate([p.images for p in parts]),
        labels=parts[0].labels if len(parts) == 1 else np.concatenate([p.labels for p in parts]),
        class_names=parts[0].class_names,
    )


def count_shared(a: Examples, b: Examples) -> int:
    """Return how many examples stand in both, each counted once; 0 for different sources."""
    if a.source != b.source:
        return 0
    shared = 0
    for base in {base for base, _, _ in a.ranges}:
        shared += int(np.count_nonzero(_held(a, base, b) & _held(b, base, a)))
    return shared


def resolve_split(split: str, source: Source) -> tuple[tuple[str, int, int], ...]:
    """Return the ranges (base split, start, stop) that a split in TFDS's syntax means.

    Raises:
        UserError: the syntax is wrong, a base split is unknown, or no example is left.
    """
    if split in source.splits:  # without importing TFDS, which takes longer than the reading
        return ((split, 0, sum(source.splits[split])),)
    held = ", ".join(f"{base} ({sum(shards):,})" for base, shards in source.splits.items())
    help_text = f"The splits of {source.name} and their sizes are: {held}. Write {_SYNTAX}."
    if not isinstance(split, str) or not split.strip():
        raise UserError(f"The split {split!r} of {source.name} is empty. {help_text}")
    from tensorflow_datasets.core.splits import ReadInstruction

    infos = {
        base: SimpleNamespace(num_examples=sum(shards), shard_lengths=list(shards))
        for base, shards in source.splits.items()
    }
    try:
        parts = ReadInstruction.from_spec(split).to_absolute(infos)
    except Exception as error:  # TFDS raises many kinds for the one cause: a bad spec
        raise UserError(
            f"The split {split!r} of {source.name} cannot be read: "
            f"{_last_sentence(error)} {help_text}"
        ) from error
    ranges = []
    for part in parts:
        start = part.from_ or 0
        stop = infos[part.splitname].num_examples if part.to is None else part.to
        if stop > start:
            ranges.append((part.splitname, start, stop))
    if not ranges:
        raise UserError(f"The split {split!r} of {source.name} holds no example. {help_text}")
    return tuple(ranges)


class _Store:
    """A source with its cache: each base split is read, mapped or opened once, when needed."""

    def __init__(self, source: Source, image_size, cache_dir, progress: bool):
        self._source, self._image_size = source, image_size
        self._cache_dir, self._progress = cache_dir, progress
        self._open = cache(source.open)
        self._whole = cache(self._read_whole)

    def arrays(self, base: str, start: int, stop: int, *, whole: bool) -> Arrays:
        """Return a range; unless the `whole` base split may be decoded, of the range alone."""
        source = self._source
        if whole or source.fingerprint is None or self._find(base):
            found = self._whole(base)
            return found._replace(images=found.images[start:stop], labels=found.labels[start:stop])
        from jax_train.data_stream import gather

        about = {"name": source.name, "split": base, "source": source.identity}
        label = f"{self._label(base)}\n{start}:{stop}"
        return cached(
            label,
            source.fingerprint,
            lambda: gather(self.stream(**about, ranges=((base, start, stop),)), self._progress),
            self._cache_dir,
        )

    def stream(self, *, ranges: tuple[tuple[str, int, int], ...], **about) -> StreamedDataset:
        """Return a split, described as in `Examples`, that is decoded while it is used."""
        from jax_train.data_stream import StreamedDataset

        records = {base: self._open(base) for base, _, _ in ranges}
        return StreamedDataset(
            **about,
            ranges=ranges,
            class_names=records[ranges[0][0]].class_names,
            records=records,
            fingerprint=self._source.fingerprint,
            cache_dir=self._cache_dir,
        )

    def image_shape(self, base: str) -> tuple[int, int, int]:
        """Return height, width and channels of the images; from the cache it is quicker."""
        found = self._find(base)
        return found.images.shape[1:] if found else self._open(base).image_shape

    def _label(self, base: str) -> str:
        return f"{self._source.identity}\n{base}\n{self._image_size}"

    def _find(self, base: str) -> Arrays | None:
        mark = self._source.fingerprint
        return find_cached(self._label(base), mark, self._cache_dir) if mark else None

    def _read_whole(self, base: str) -> Arrays:
        mark = self._source.fingerprint
        if mark is None:
            return self._source.read(base, self._progress)
        read = self._source.read
        return cached(self._label(base), mark, lambda: read(base, self._progress), self._cache_dir)


def _limit_bytes(memory_limit: float | None) -> float:
    if memory_limit is None:
        return math.inf
    is_number = isinstance(memory_limit, (int, float)) and not isinstance(memory_limit, bool)
    if not is_number or not memory_limit >= 0:  # nan is not
        raise UserError(
            f"config.data.memory_limit is {memory_limit!r}; expected a number of gigabytes from 0, "
            "such as --config.data.memory_limit=8."
        )
    return memory_limit * 1e9


def _check_shapes(split: str, source: Source, shapes: dict[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1:
        folder = source.name.startswith("folder:")
        raise UserError(
            f"The split {split!r} of {source.name} joins images of different shapes "
            f"(height, width, channels): {shapes}. Load the splits one by one"
            + (", or set one size, such as --config.data.image_size=64." if folder else ".")
        )


def _held(dataset: Examples, base: str, other: Examples) -> np.ndarray:
    """Return a mask over the examples of a base split; long enough for both data sets."""
    mask = np.zeros(max(stop for _, _, stop in (*dataset.ranges, *other.ranges)), bool)
    for name, start, stop in dataset.ranges:
        if name == base:
            mask[start:stop] = True
    return mask


def _last_sentence(error: Exception) -> str:
    """Return the cause TFDS gives, without its links."""
    text = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return text.split(" See format at")[0].rstrip(".") + "."
