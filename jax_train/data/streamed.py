"""Data sets larger than memory, decoded by Grain's threads while they are used."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jax_train.data.cache import Arrays
from jax_train.data.examples import Examples
from jax_train.data.source import Records
from jax_train.printing import progress_bar

# Examples go through the threads in blocks: records are read quicker together, and large images
# still stay few at a time.
_BLOCK_IMAGES = 256


_BLOCK_BYTES = 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedDataset(Examples):
    """One split whose images are decoded when they are asked for, and not kept.

    Attributes:
        records: random access to each base split that `ranges` names; all of one image shape.
        fingerprint: changes with the source's files; None: nothing of it is cached.
        cache_dir: see `files.cache_root`.
    """

    records: Mapping[str, Records]
    fingerprint: str | None
    cache_dir: str | os.PathLike | None
    streamed: ClassVar[bool] = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and the number of channels."""
        return tuple(self.records[self.ranges[0][0]].image_shape)

    def batches(
        self, order: np.ndarray, *, threads: int | None = None, prefetch: int | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the examples of each step: what `images[order[i]], labels[order[i]]` would be.

        The threads start with the first `next` and end when the iterator is used up, closed or
        dropped. Every array is new: the caller may keep or change it.

        Args:
            order: indices of examples within the split, [steps, ...rows]; any may stand repeatedly.
            threads: how many decode; None: one per CPU, at most 8.
            prefetch: steps decoded ahead; at least one block per thread, of up to 256 images and
                about 4 MB, is decoded ahead also where this is more. None: 2.

        Yields:
            images uint8 [...rows, H, W, C] and labels int32 [...rows].

        Raises:
            TypeError, IndexError, ValueError: at once, if an argument is not as described.
            UserError: while iterating, if a file or record is damaged; names it.
        """
        order = np.asarray(order)
        if order.ndim == 0 or (order.size and order.dtype.kind not in "iu"):
            raise TypeError(
                f"order has shape {order.shape} and type {order.dtype}; expected "
                "whole numbers, [steps, ...rows]"
            )
        if order.size and not 0 <= order.min() <= order.max() < len(self):
            raise IndexError(
                f"order holds {order.min()} to {order.max()}; expected 0 to {len(self) - 1}"
            )
        threads = min(8, os.cpu_count() or 1) if threads is None else threads
        prefetch = 2 if prefetch is None else prefetch
        if threads < 1 or prefetch < 1:
            raise ValueError(f"threads={threads}, prefetch={prefetch}: expected at least 1")
        return self._steps(order, threads, prefetch)

    def _steps(self, order: np.ndarray, threads: int, prefetch: int) -> Iterator:
        """Yield the steps, put together from the blocks that the threads decode."""
        rows = order.shape[1:]
        size = math.prod(rows)
        blocks = self._blocks(order.reshape(-1), threads, prefetch * size)
        with contextlib.closing(blocks):
            pieces = _cut(blocks, size)
            for _ in range(len(order)):
                images = np.empty((size, *self.image_shape), np.uint8)
                labels = np.empty(size, np.int32)
                filled = 0
                while filled < size:
                    some_images, some_labels = next(pieces)
                    end = filled + len(some_labels)
                    images[filled:end], labels[filled:end] = some_images, some_labels
                    filled = end
                yield images.reshape(*rows, *self.image_shape), labels.reshape(rows)

    def _blocks(self, order: np.ndarray, threads: int, ahead: int) -> Iterator:
        """Yield images and labels of consecutive parts of `order` [n], decoded in threads."""
        if not len(order):
            return
        import grain  # takes about a second, and only streaming needs it

        size = max(1, min(_BLOCK_IMAGES, _BLOCK_BYTES // math.prod(self.image_shape)))
        starts = grain.MapDataset.range(0, len(order), size)
        decoded = starts.map(lambda start: self._read(order[start : start + size]))
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, math.ceil(ahead / size))
        )
        iterator = iter(decoded.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()

    def _read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decode the examples at these indices within the split."""
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        labels = np.empty(len(indices), np.int32)
        ends = np.cumsum([stop - start for _, start, stop in self.ranges])
        parts = np.searchsorted(ends, indices, side="right")
        for part in np.unique(parts):
            base, _, stop = self.ranges[part]
            here = np.flatnonzero(parts == part)
            within = indices[here].astype(np.int64) - ends[part] + stop
            images[here], labels[here] = self.records[base].read(within)
        return images, labels


def gather(dataset: StreamedDataset, progress: bool) -> Arrays:
    """Return all examples of a split that fits in memory."""
    images = np.empty((len(dataset), *dataset.image_shape), np.uint8)
    labels = np.empty(len(dataset), np.int32)
    done = 0
    for some_images, some_labels in _pass(dataset, f"Decoding {dataset.split}", progress):
        end = done + len(some_labels)
        images[done:end], labels[done:end] = some_images, some_labels
        done = end
    return Arrays(images, labels, dataset.class_names)


def _pass(dataset: StreamedDataset, what: str, progress: bool) -> Iterator:
    """Yield images and labels of all examples in order, in blocks, with a progress bar."""
    threads = min(8, os.cpu_count() or 1)
    blocks = dataset._blocks(np.arange(len(dataset)), threads, 0)
    with contextlib.closing(blocks), progress_bar(len(dataset), what, progress) as bar:
        for images, labels in blocks:
            yield images, labels
            bar.update(len(labels))


def _cut(blocks: Iterable, size: int) -> Iterator:
    """Cut blocks where steps of `size` examples end, so that a piece is of one step."""
    left = size
    for images, labels in blocks:
        start = 0
        while start < len(labels):
            stop = min(start + left, len(labels))
            yield images[start:stop], labels[start:stop]
            left = left - (stop - start) or size
            start = stop
