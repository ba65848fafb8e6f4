"""Data sets of images with labels, in memory or memory-mapped: `load` and `Dataset`.

Sources are scikit-learn's embedded digits, TFDS data sets read without TensorFlow, and folders
of images by class. Every source takes the split syntax of TFDS, and what had to be decoded is
kept in a cache (`jax_train.data.cache`). What exceeds a limit of memory is read while it is used
(`jax_train.data.streamed`).
"""

from __future__ import annotations

import math
import os
from functools import cache

import numpy as np

from jax_train.config import ranges
from jax_train.data.cache import Arrays, cached, find_cached
from jax_train.data.checks import CHECKS
from jax_train.data.examples import Dataset
from jax_train.data.source import Source
from jax_train.data.sources.by_name import open_source
from jax_train.data.split import resolve_split
from jax_train.data.streamed import StreamedDataset
from jax_train.errors import UserError


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
        cache_dir: folder for decoded images; None: see `files.cache_root`.
        progress: show progress bars, where stderr is a terminal.
        memory_limit: gigabytes (1e9 bytes) that the images of the split, one byte per value, may
            take; a larger split is returned as a `StreamedDataset`, which is decoded
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
        from jax_train.data.streamed import gather

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
        from jax_train.data.streamed import StreamedDataset

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
    if memory_limit is None or memory_limit == math.inf:
        return math.inf
    ranges.check_value("data.memory_limit", memory_limit, CHECKS["data.memory_limit"])
    return memory_limit * 1e9


def _check_shapes(split: str, source: Source, shapes: dict[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1:
        folder = source.name.startswith("folder:")
        raise UserError(
            f"The split {split!r} of {source.name} joins images of different shapes "
            f"(height, width, channels): {shapes}. Load the splits one by one"
            + (", or set one size, such as --config.data.image_size=64." if folder else ".")
        )
