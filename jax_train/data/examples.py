"""The examples of a split, in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


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
    streamed: ClassVar[bool] = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and the number of channels."""
        return tuple(self.images.shape[1:])


def count_shared(a: Examples, b: Examples) -> int:
    """Return how many examples stand in both, each counted once; 0 for different sources."""
    if a.source != b.source:
        return 0
    shared = 0
    for base in {base for base, _, _ in a.ranges}:
        shared += int(np.count_nonzero(_held(a, base, b) & _held(b, base, a)))
    return shared


def _held(dataset: Examples, base: str, other: Examples) -> np.ndarray:
    """Return a mask over the examples of a base split; long enough for both data sets."""
    mask = np.zeros(max(stop for _, _, stop in (*dataset.ranges, *other.ranges)), bool)
    for name, start, stop in dataset.ranges:
        if name == base:
            mask[start:stop] = True
    return mask
