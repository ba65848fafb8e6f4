"""Data sets by name: what had to be decoded is cached; what exceeds a limit of memory streams."""

from __future__ import annotations

import math
import os
from functools import cache

import numpy as np

from jax_train.config.ranges import check_value
from jax_train.data.cache import Arrays, cached, find_cached
from jax_train.data.checks import CHECKS
from jax_train.data.examples import Dataset
from jax_train.data.image_files import allocate
from jax_train.data.source import Source
from jax_train.data.sources.by_name import open_source, scheme_of
from jax_train.data.split import resolve_split
from jax_train.data.streamed import StreamedDataset, whole_pass
from jax_train.errors import UserError


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    download: bool = True,
    cache_dir: str | os.PathLike | None = None,
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
      memory_limit: gigabytes (1e9 bytes) that the images of the split, one byte per value, may
        take; a larger split is returned as a `StreamedDataset`, which is decoded
        while it is used and never cached. None: no limit.

    Returns:
      The images and labels. A split that is one range is a view of the cached base split; of a
      base split that itself exceeds the limit, the range alone is decoded and cached.

    Raises:
      UserError: the data, the split, or a file of the data is not usable; says which and why.
    """
    if memory_limit not in (None, math.inf):
        check_value("data.memory_limit", memory_limit, CHECKS["data.memory_limit"])
    limit = math.inf if memory_limit is None else memory_limit * 1e9  # in bytes
    source = open_source(name, data_dir, image_size, download)
    store = _Store(source, image_size, cache_dir)
    ranges = resolve_split(split, source)
    if limit < math.inf:
        _check_shapes(split, source, {base: store.image_shape(base) for base, _, _ in ranges})
        image_bytes = math.prod(store.image_shape(ranges[0][0]))
        if image_bytes * sum(stop - start for _, start, stop in ranges) > limit:
            return store.stream(split, ranges)
        limit /= image_bytes  # now in images
    parts = [store.arrays(*part, whole=sum(source.splits[part[0]]) <= limit) for part in ranges]
    shapes = zip(ranges, parts, strict=True)
    _check_shapes(split, source, {base: part.images.shape[1:] for (base, _, _), part in shapes})
    images, labels, (class_names, *_) = zip(*parts, strict=True)
    return Dataset(
        **store.facts(split, ranges, class_names),
        images=images[0] if len(parts) == 1 else np.concatenate(images),
        labels=labels[0] if len(parts) == 1 else np.concatenate(labels),
    )


class _Store:
    """A source with its cache: each base split is decoded, mapped or opened once, when needed."""

    def __init__(self, source: Source, image_size, cache_dir):
        self._source, self._image_size, self._cache_dir = source, image_size, cache_dir
        self._open, self._contents = cache(source.open), cache(source.contents)
        self._whole = cache(lambda base: self._decoded(base, 0, sum(source.splits[base]), ""))

    def arrays(self, base: str, start: int, stop: int, *, whole: bool) -> Arrays:
        """Return a range; unless the `whole` base split may be decoded, of the range alone."""
        if whole or self._source.fingerprint is None or self._find(base):
            found = self._whole(base)
            return found._replace(images=found.images[start:stop], labels=found.labels[start:stop])
        return self._decoded(base, start, stop, f"\n{start}:{stop}")

    def stream(self, split: str, ranges: tuple[tuple[str, int, int], ...]) -> StreamedDataset:
        """Return a split that is decoded while it is used."""
        records = {base: self._open(base) for base, _, _ in ranges}
        facts = self.facts(split, ranges, records[ranges[0][0]].class_names)
        how = {"fingerprint": self._source.fingerprint, "cache_dir": self._cache_dir}
        return StreamedDataset(**facts, records=records, **how)

    def facts(self, split: str, ranges, class_names: tuple[str, ...]) -> dict:
        """Return what is known of a split's examples, as keywords of `Examples`."""
        known = {"name": self._source.name, "source": self._source.identity, "split": split}
        known |= {"ranges": ranges, "class_names": class_names}
        return known | {"contents": self._contents}

    def image_shape(self, base: str) -> tuple[int, int, int]:
        """Return height, width and channels of the images; from the cache it is quicker."""
        found = self._find(base)
        return found.images.shape[1:] if found else self._open(base).image_shape

    def _label(self, base: str) -> str:
        return f"{self._source.identity}\n{base}\n{self._image_size}"

    def _find(self, base: str) -> Arrays | None:
        return find_cached(self._label(base), self._source.fingerprint, self._cache_dir)

    def _decoded(self, base: str, start: int, stop: int, part: str) -> Arrays:
        """Return a range from the cache, or decode it; `part` names it among those of the base."""

        def build() -> Arrays:
            return _gather(self.stream(base, ((base, start, stop),)))

        label = self._label(base) + part
        return cached(label, self._source.fingerprint, build, self._cache_dir)


def _gather(dataset: StreamedDataset) -> Arrays:
    """Return all examples of a split that fits in memory."""
    images = allocate(len(dataset), dataset.image_shape)
    labels = np.empty(len(dataset), np.int32)
    what = f"Decoding {scheme_of(dataset.name).title(dataset.name)} {dataset.split}"
    done = 0
    for some_images, some_labels in whole_pass(dataset, what):
        end = done + len(some_labels)
        images[done:end], labels[done:end] = some_images, some_labels
        done = end
    return Arrays(images, labels, dataset.class_names)


def _check_shapes(split: str, source: Source, shapes: dict[str, tuple[int, ...]]) -> None:
    if len(set(shapes.values())) > 1:
        resizes = scheme_of(source.name).resizes
        raise UserError(
            f"The split {split!r} of {source.name} joins images of different shapes "
            f"(height, width, channels): {shapes}. Load the splits one by one"
            + (", or set one size, such as --config.data.image_size=64." if resizes else ".")
        )
