"""Data sets by name: what had to be decoded is cached; what exceeds a limit of memory streams."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from functools import cache

import numpy as np

from jax_train.config.ranges import check_value
from jax_train.data.cache import Arrays, cached, find_cached
from jax_train.data.checks import CHECKS
from jax_train.data.decoding import allocate
from jax_train.data.examples import Dataset
from jax_train.data.source import Fit, Records
from jax_train.data.sources.by_name import open_source, resizes, scheme_of
from jax_train.data.split import resolve_split, with_view
from jax_train.data.streamed import StreamedDataset, whole_pass
from jax_train.errors import UserError


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    interpolation: str | None = None,
    download: bool = True,
    cache_dir: str | os.PathLike | None = None,
    memory_limit: float | None = None,
    on_damaged: str = "stop",
    max_megapixels: float | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    threads: int | None = None,
) -> Dataset | StreamedDataset:
    """Load a split of a data set.

    Args:
      name: 'digits', 'folder:PATH', 'parquet:PATH', 'hf:ORG/NAME', or a TFDS data set: 'name',
        'name:version' or 'name/config'. Those of `prepare` are prepared on first use; others must
        be prepared already, in the array_record format.
      split: in TFDS's syntax, such as 'train', 'train[:45000]', 'train[10%:20%]' or
        'train+test' (https://www.tensorflow.org/datasets/splits); of folders also a slice of each
        class, such as 'train[80%:90%] by class'.
      data_dir: folder of prepared TFDS data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      image_size: for image files only: side in pixels of the square that images are resized
        (shorter side) and cropped (centre) to.
      interpolation: for image files only: of that, see `decoding.INTERPOLATIONS`.
      download: whether to fetch and prepare missing data.
      cache_dir: folder for decoded images; None: see `files.cache_root`.
      memory_limit: gigabytes (1e9 bytes) that the images of the split, one byte per value, may
        take; a larger split is returned as a `StreamedDataset`, which is decoded
        while it is used and never cached. None: no limit.
      on_damaged: for image files only: 'stop' refuses those that cannot be decoded, 'skip' leaves
        them out.
      max_megapixels: for image files only: see `decoding.open_image`.
      image_column, label_column: for 'hf:' and 'parquet:' only; None: found by their types.
      threads: how many decode a split that streams; None: one per CPU, at most 8.

    Returns:
      The images and labels. A split that is one range is a view of the cached base split; of a
      base split that itself exceeds the limit, the range alone is decoded and cached.

    Raises:
      UserError: the data, the split, or a file of the data is not usable; says which and why.
    """
    options = {"image_size": image_size, "download": download, "on_damaged": on_damaged}
    options |= {"max_megapixels": max_megapixels, "cache_dir": cache_dir}
    options |= {"interpolation": interpolation}
    options |= {"image_column": image_column, "label_column": label_column}
    for option, value in {**options, "threads": threads}.items():
        if option not in ("image_size", "cache_dir"):  # these are told where they are used
            check_value(f"data.{option}", value, CHECKS[f"data.{option}"])
    return Store(name, data_dir, memory_limit=memory_limit, threads=threads, **options).load(split)


class Store:
    """A data set with its cache: each base split is decoded, mapped or opened once, when needed.

    Args are those of `load`; and `fit`, which brings the images to its shape: they then stream.

    Attributes:
      source: where the data comes from.
    """

    def __init__(
        self, name: str, data_dir: str | None, *, memory_limit: float | None, image_size, cache_dir,
        fit: Fit | None = None, threads: int | None = None, **options,
    ):  # fmt: skip
        if memory_limit not in (None, math.inf):
            check_value("data.memory_limit", memory_limit, CHECKS["data.memory_limit"])
        self._limit = math.inf if memory_limit is None else memory_limit * 1e9  # in bytes
        self._limit, self._fit = 0 if fit else self._limit, fit
        options |= {"image_size": image_size, "cache_dir": cache_dir, "fit": fit}
        self.source = open_source(name, data_dir, **options)
        self._resizes, self._threads = resizes(name, data_dir), threads
        self._image_size, self._cache_dir = image_size, cache_dir
        self._open, self._contents = cache(self._open_base), cache(self.source.contents)
        self._whole = cache(lambda base: self._decoded(base, 0, self._size(base), ""))

    def load(self, split: str) -> Dataset | StreamedDataset:
        """Return a split; raises UserError as `load`."""
        self.source = with_view(split, self.source)
        ranges, limit = resolve_split(split, self.source), self._limit
        if limit < math.inf:
            shapes = {base: self.image_shape(base) for base, _, _ in ranges}
            self._check_shapes(split, shapes)
            image_bytes = math.prod(self.image_shape(ranges[0][0]))
            if image_bytes * sum(stop - start for _, start, stop in ranges) > limit:
                return self.stream(split, ranges)
            limit /= image_bytes  # now in images
        parts = [self.arrays(*part, whole=self._size(part[0]) <= limit) for part in ranges]
        shapes = zip(ranges, parts, strict=True)
        found = {base: part.images.shape[1:] for (base, _, _), part in shapes}
        self._check_shapes(split, found)
        images, labels, (class_names, *_) = zip(*parts, strict=True)
        return Dataset(
            **self.facts(split, ranges, class_names),
            images=images[0] if len(parts) == 1 else np.concatenate(images),
            labels=labels[0] if len(parts) == 1 else np.concatenate(labels),
        )

    def arrays(self, base: str, start: int, stop: int, *, whole: bool) -> Arrays:
        """Return a range; unless the `whole` base split may be decoded, of the range alone."""
        if whole or self.source.fingerprint is None or self._find(base):
            found = self._whole(base)
            return found._replace(images=found.images[start:stop], labels=found.labels[start:stop])
        return self._decoded(base, start, stop, f"\n{start}:{stop}")

    def stream(self, split: str, ranges: tuple[tuple[str, int, int], ...]) -> StreamedDataset:
        """Return a split that is decoded while it is used."""
        records = {base: self._open(base) for base, _, _ in ranges}
        facts = self.facts(split, ranges, records[ranges[0][0]].class_names)
        how = {"fingerprint": self.source.fingerprint, "cache_dir": self._cache_dir}
        how["threads"] = self._threads
        return StreamedDataset(**facts, records=records, labels=self._labels(ranges), **how)

    def _labels(self, ranges: tuple[tuple[str, int, int], ...]) -> np.ndarray | None:
        if self.source.labels is None:
            return None
        parts = []
        for base, start, stop in ranges:
            whole, index = self.source.views.get(base, (base, slice(None)))
            parts.append(self.source.labels(whole)[index][start:stop])
        return np.concatenate(parts)

    def facts(self, split: str, ranges, class_names: tuple[str, ...]) -> dict:
        """Return what is known of a split's examples, as keywords of `Examples`."""
        source = self.source
        known = {"name": source.name, "source": source.identity, "split": split}
        known |= {"file": source.file, "views": source.views, "notes": source.notes}
        known |= {"ranges": ranges, "class_names": class_names}
        whole = {view: of for view, (of, _) in source.views.items()}
        return known | {"contents": lambda base: self._contents(whole.get(base, base))}

    def image_shape(self, base: str) -> tuple[int, int, int]:
        """Return height, width and channels of the images; from the cache it is quicker."""
        found = self._find(base)
        return found.images.shape[1:] if found else self._open(base).image_shape

    def _check_shapes(self, split: str, shapes: dict[str, tuple[int, ...]]) -> None:
        if len(set(shapes.values())) > 1:
            cure = ", or set one size, such as --config.data.image_size=64" * self._resizes
            raise UserError(
                f"The split {split!r} of {self.source.name} joins images of different shapes "
                f"(height, width, channels): {shapes}. Load the splits one by one{cure}."
            )

    def _size(self, base: str) -> int:
        return sum(self.source.splits[base])

    def _open_base(self, base: str) -> Records:
        if base not in self.source.views:
            records = self.source.open(base)
            return records if self._fit is None or self._resizes else _fitted(records, self._fit)
        whole, index = self.source.views[base]
        records, fitted = self._open(whole), None
        if records.read_fitted:
            fitted = lambda rows, *how: records.read_fitted(index[rows], *how)  # noqa: E731
        return replace(records, read=lambda rows: records.read(index[rows]), read_fitted=fitted)

    def _label(self, base: str) -> str:
        return f"{self.source.identity}\n{base}\n{self._image_size}"

    def _find(self, base: str) -> Arrays | None:
        if self._fit:
            return None
        return find_cached(self._label(base), self.source.fingerprint, self._cache_dir)

    def _decoded(self, base: str, start: int, stop: int, part: str) -> Arrays:
        """Return a range from the cache, or decode it; `part` names it among those of the base."""

        def build() -> Arrays:
            return _gather(self.stream(base, ((base, start, stop),)))

        label = self._label(base) + part
        return cached(label, self.source.fingerprint, build, self._cache_dir)


def _fitted(records: Records, fit: Fit) -> Records:
    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = records.read(rows)
        return np.stack([fit(pixels) for pixels in images]), labels

    return replace(records, image_shape=fit.image_shape, read=read)


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
