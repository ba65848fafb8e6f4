"""The examples of a split: which they are, and those in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from jax_train.data.contents import Contents
from jax_train.printing import readable

_BLOCK_BYTES = 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """What is known of the examples of a split, wherever their images are.

    Attributes:
      name: as given to `load`, such as 'cifar10'.
      split: as given to `load`, such as 'train[:90%]'.
      class_names: name of each class.
      source: what the examples were read from; equal for splits of the same data.
      ranges: the examples held, in order, as (base split, start, stop).
      file: see `Source`.
      views: base split that is a selection -> (the one it is of, indices [n] in that).
      notes: what the user has to know of the data.
      contents: base split -> the files it consists of; see `Source`.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    source: str
    ranges: tuple[tuple[str, int, int], ...]
    file: Callable[[str, int], str] | None = None
    views: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    contents: Callable[[str], Contents] = lambda base: {}

    @property
    def num_classes(self) -> int:
        """Number of classes of the data, also where the split lacks some of them."""
        return len(self.class_names)

    @property
    def bases(self) -> set[str]:
        """The data's own splits that the examples are of."""
        return {self.views.get(base, (base,))[0] for base, _, _ in self.ranges}

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.ranges)

    def places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of examples at indices [n]: the number of their range, and indices in its base split."""
        ends = np.cumsum([stop - start for _, start, stop in self.ranges])
        parts = np.searchsorted(ends, index, side="right")
        return parts, index - ends[parts] + np.array([stop for *_, stop in self.ranges])[parts]

    def names(self, index: np.ndarray) -> list[str]:
        """A name for people of each example at indices [n]; see `exact_names`."""
        return [readable(name) for name in self.exact_names(index)]

    def exact_names(self, index: np.ndarray) -> list[str]:
        """The path of the file of each example at indices [n] within the data.

        Of data without files such as 'test image 17' or 'test[:50%] 17'.
        """
        if self.file is None:
            whole = f"{self.split} image" if self.split.isidentifier() else self.split
            return [f"{whole} {i}" for i in index]
        places = zip(*self.places(np.asarray(index)), strict=True)
        return [self.file(*self._place(self.ranges[part][0], i)) for part, i in places]

    def _place(self, base: str, i: int) -> tuple[str, int]:
        """Where an example of a base split stands in the data's own ones."""
        base, index = self.views.get(base, (base, None))
        return base, int(i if index is None else index[i])


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset(Examples):
    """Images and labels of one split in memory. `StreamedDataset` answers the same calls.

    Attributes:
      images: uint8 [N, H, W, C], values 0 to 255; may be a read-only memory map.
      labels: int32 [N], from 0 up to but not including `num_classes`.
    """

    streamed: ClassVar[bool] = False
    images: np.ndarray
    labels: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and the number of channels."""
        return tuple(self.images.shape[1:])

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, H, W, C] and labels int32 [n] at indices [n] within the split.

        Raises:
          TypeError, IndexError: the indices are not as described.
        """
        index = checked_order(index, len(self))
        return self.images[index], self.labels[index]

    def batches(self, order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the examples of each step: images uint8 [...rows, H, W, C], labels int32 [...rows].

        Args:
          order: indices of examples within the split, [steps, ...rows]; any may stand repeatedly.

        Raises:
          TypeError, IndexError: at once, if the order is not as described.
        """
        order = checked_order(order, len(self))
        return ((self.images[rows], self.labels[rows]) for rows in order)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield images and labels of all examples in order, a few megabytes at once."""
        size = block_size(self.image_shape)
        for start in range(0, len(self), size):
            yield self.images[start : start + size], self.labels[start : start + size]


def block_size(image_shape: tuple[int, int, int]) -> int:
    """How many images are handled at once, for a few megabytes."""
    return max(1, _BLOCK_BYTES // math.prod(image_shape))


def checked_order(order: np.ndarray, count: int) -> np.ndarray:
    """Return indices of `count` examples as int64; or raise TypeError or IndexError."""
    order = np.asarray(order)
    if order.ndim == 0 or (order.size and order.dtype.kind not in "iu"):
        raise TypeError(
            f"order has shape {order.shape} and type {order.dtype}; expected "
            "whole numbers, [steps, ...rows]"
        )
    if order.size and not 0 <= order.min() <= order.max() < count:
        raise IndexError(f"order holds {order.min()} to {order.max()}; expected 0 to {count - 1}")
    return order.astype(np.int64)


def count_shared(a: Examples, b: Examples) -> int:
    """Return how many examples stand in both, each counted once; 0 for different sources."""
    if a.source != b.source:
        return 0
    held, others = _held(a), _held(b)
    return sum(len(np.intersect1d(held[base], others[base])) for base in held.keys() & others)


def _held(dataset: Examples) -> dict[str, np.ndarray]:
    """Return the indices of the examples within each base split, of selections in the whole."""
    parts = {}
    for name, start, stop in dataset.ranges:
        base, index = dataset.views.get(name, (name, None))
        part = np.arange(start, stop) if index is None else index[start:stop]
        parts.setdefault(base, []).append(part)
    return {base: np.concatenate(found) for base, found in parts.items()}
