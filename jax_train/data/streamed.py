"""Data sets larger than memory, decoded by threads while they are used."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from jax_train.data.crops import Crops
from jax_train.data.decoding import allocate
from jax_train.data.examples import Dataset, Examples, block_size, checked_order
from jax_train.data.source import DamagedFiles, Records
from jax_train.printing import progress_bar

# Examples go through the threads in blocks: records are read quicker together, and large images
# still stay few at a time.
_BLOCK_IMAGES = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamedDataset(Examples):
    """One split whose images are decoded when they are asked for, and not kept.

    Attributes:
      records: random access to each base split that `ranges` names; all of one image shape.
      labels: int32 [N], where they are known without reading images.
      fingerprint: changes with the source's files; None: nothing of it is cached.
      cache_dir: see `files.cache_root`.
      threads: how many decode; None: one per CPU, at most 8.
    """

    streamed: ClassVar[bool] = True
    records: Mapping[str, Records]
    fingerprint: str | None
    cache_dir: str | os.PathLike | None
    labels: np.ndarray | None = None
    threads: int | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and the number of channels."""
        return tuple(self.records[self.ranges[0][0]].image_shape)

    @property
    def can_fit(self) -> bool:
        """Whether `batches` takes `crops`."""
        return all(self.records[base].read_fitted for base, _, _ in self.ranges)

    def with_classes(
        self, class_names: tuple[str, ...], numbers: np.ndarray, **changes
    ) -> StreamedDataset:
        """The same examples labelled by other classes, among which each one of here has a number.

        Args:
          class_names: of these classes.
          numbers: [K], of the classes of here, in their order.
          **changes: of further fields.
        """

        def relabelled(records: Records) -> Records:
            def read(rows):
                images, labels = records.read(rows)
                return images, numbers[labels].astype(np.int32)

            return replace(records, class_names=class_names, read=read, read_fitted=None)

        records = {base: relabelled(records) for base, records in self.records.items()}
        labels = None if self.labels is None else numbers[self.labels].astype(np.int32)
        changes |= {"class_names": class_names, "records": records, "labels": labels}
        return replace(self, **changes)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As of `Dataset`; raises UserError where a file or record is damaged."""
        (batch,) = self.batches(checked_order(index, len(self))[None])
        return batch

    def batches(
        self,
        order: np.ndarray,
        *,
        crops: Crops | None = None,
        copies: np.ndarray | None = None,
        threads: int | None = None,
        prefetch: int = 2,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the examples of each step: what `images[order[i]], labels[order[i]]` would be.

        The threads start with the first `next` and end when the iterator is used up, closed or
        dropped. Every array is new: the caller may keep or change it.

        Args:
          order: indices of examples within the split, [steps, ...rows]; any may stand repeatedly.
          crops: to cut out of whole files, instead of `image_shape`; see `can_fit`.
          copies: which copy of its example, from 0 on, each of the order is, in its shape: copies
            have different crops. None: all are the first.
          threads: how many decode; None: those of the data set.
          prefetch: steps decoded ahead; at least one block per thread, of up to 256 images and
            about 4 MB, is decoded ahead also where this is more.

        Yields:
          images uint8 [...rows, H, W, C], H and W those of the crops, and labels int32 [...rows].

        Raises:
          TypeError, IndexError, ValueError: at once, if an argument is not as described.
          UserError: while iterating, if a file or record is damaged; names it.
        """
        order = checked_order(order, len(self))
        copies = np.zeros_like(order) if copies is None else np.asarray(copies, np.int64)
        if copies.shape != order.shape:
            raise ValueError(f"copies of shape {copies.shape}: expected {order.shape}")
        threads = self.threads or _cpus() if threads is None else threads
        if threads < 1 or prefetch < 1:
            raise ValueError(f"threads={threads}, prefetch={prefetch}: expected at least 1")
        return self._steps(order, copies, crops, threads, prefetch)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield images and labels of all examples in order, a few megabytes at once.

        Raises:
          UserError: examples are damaged; of files it names all of the data.
        """
        order, threads = np.arange(len(self)), self.threads or _cpus()
        decoding = self._decode(order, np.zeros_like(order), None, threads, 0)
        with contextlib.closing(decoding) as decoded:
            for block in decoded:
                try:
                    yield block.result()
                except DamagedFiles as error:
                    damage, found = self.records[self.ranges[0][0]].damage, error
                    break
            else:
                return
        raise damage(found)

    def _steps(
        self,
        order: np.ndarray,
        copies: np.ndarray,
        crops: Crops | None,
        threads: int,
        prefetch: int,
    ) -> Iterator:
        """Yield the steps, cut from the blocks that the threads decode."""
        rows = order.shape[1:]
        size = math.prod(rows)
        more_images, more_labels = (), ()  # the rest of a block
        ahead = prefetch * size
        decoding = self._decode(order.ravel(), copies.ravel(), crops, threads, ahead)
        with contextlib.closing(decoding) as decoded:
            for _ in range(len(order)):
                images, labels = self._room(size, crops)
                filled = 0
                while filled < size:
                    if not len(more_labels):
                        more_images, more_labels = next(decoded).result()
                    some = min(size - filled, len(more_labels))
                    here = slice(filled, filled + some)
                    images[here], labels[here] = more_images[:some], more_labels[:some]
                    more_images, more_labels = more_images[some:], more_labels[some:]
                    filled += some
                yield images.reshape(*rows, *images.shape[1:]), labels.reshape(rows)

    def _room(self, count: int, crops: Crops | None) -> tuple[np.ndarray, np.ndarray]:
        shape = (*(crops.size if crops else self.image_shape[:2]), self.image_shape[2])
        return allocate(count, shape, streamed=True), np.empty(count, np.int32)

    def _decode(
        self, order: np.ndarray, copies: np.ndarray, crops: Crops | None, threads: int, ahead: int
    ) -> Iterator[Future]:
        """Yield consecutive parts of `order` [n], decoded in threads: their images and labels."""
        share = math.ceil(len(order) / (4 * threads))  # so that all threads have work to the end
        size = max(1, min(_BLOCK_IMAGES, block_size(self.image_shape), share))
        depth = max(threads, math.ceil(ahead / size))
        pool, waiting = ThreadPoolExecutor(threads, "decode"), deque()
        try:
            for start in range(0, len(order), size):
                part = slice(start, start + size)
                waiting.append(pool.submit(self._read, order[part], copies[part], crops))
                if len(waiting) > depth:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read(
        self, indices: np.ndarray, copies: np.ndarray, crops: Crops | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode the examples at these indices within the split, or crops of them."""
        images, labels = self._room(len(indices), crops)
        parts, places = self.places(indices)
        for part in np.unique(parts):
            here = np.flatnonzero(parts == part)
            records = self.records[self.ranges[part][0]]
            if crops:
                fits = list(map(crops.fit, indices[here].tolist(), copies[here].tolist()))
                found = records.read_fitted(places[here], fits, crops.size)
            else:
                found = records.read(places[here])
            images[here], labels[here] = found
        return images, labels


def whole_pass(dataset: Dataset | StreamedDataset, what: str) -> Iterator:
    """Yield images and labels of all examples in order, in blocks, with a progress bar."""
    with progress_bar(len(dataset), what) as bar:
        for images, labels in dataset.blocks():
            yield images, labels
            bar.update(len(labels))


def _cpus() -> int:
    return min(8, os.cpu_count() or 1)
