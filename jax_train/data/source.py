"""What a data source gives: its splits, and random access to their examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jax_train.data.contents import Contents
from jax_train.errors import UserError

REPORTED = 5  # damaged files named in one error


class DamagedFiles(UserError):
    """Image files that cannot be decoded; `files` are path and reason of up to five of them."""

    def __init__(self, files: Sequence[str]):
        self.files = tuple(files[:REPORTED])
        count = len(self.files)
        more = " (and perhaps more)" if count == REPORTED else ""
        super().__init__(
            f"{count}{more} image file{'s' if count > 1 else ''} cannot be decoded: "
            f"{'; '.join(self.files)}. Replace or remove {'them' if count > 1 else 'it'}."
        )


@dataclass(frozen=True)
class Records:
    """Random access to the examples of a base split.

    Attributes:
      image_shape: height and width in pixels, and channels, of every image.
      class_names: name of each class.
      read: indices [n] within the base split, at least one -> images uint8 [n, H, W, C] and labels
        int32 [n]; may be called from several threads. Raises UserError; `DamagedFiles` where more
        of the same may follow.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """One data set that can be read.

    Attributes:
      name: for messages.
      identity: the same for every way to name the same data.
      splits: base split -> number of examples in each of its shards.
      open: base split -> random access to it, decoding nothing yet but perhaps one image.
      fingerprint: changes with the source's files; None: too quick to read to be cached.
      contents: base split -> its files, the same wherever they lie and whenever they were written.
    """

    name: str
    identity: str
    splits: dict[str, tuple[int, ...]]
    open: Callable[[str], Records]
    fingerprint: str | None
    contents: Callable[[str], Contents]
