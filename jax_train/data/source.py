"""What a data source gives: its splits, and random access to their examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jax_train.data.cache import Arrays


@dataclass(frozen=True)
class Records:
    """Random access to the examples of a base split.

    Attributes:
        image_shape: height and width in pixels, and channels, of every image.
        class_names: name of each class.
        read: (indices within the base split, at least one) -> images uint8 [n, H, W, C] and
            labels int32 [n]; may be called from several threads. Raises UserError.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    read: Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """One data set that can be read.

    Attributes:
        name: for messages.
        identity: the same for every way to name the same data.
        splits: base split -> number of examples in each of its shards.
        read: (base split, show progress) -> its arrays.
        open: base split -> random access to it, decoding nothing yet but perhaps one image.
        fingerprint: changes with the source's files; None: too quick to read to be cached.
    """

    name: str
    identity: str
    splits: dict[str, tuple[int, ...]]
    read: Callable[[str, bool], Arrays]
    open: Callable[[str], Records]
    fingerprint: str | None
