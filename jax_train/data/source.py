"""What a data source gives: its splits, and random access to their examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_train.data.contents import Contents
from jax_train.errors import UserError

REPORTED = 5  # damaged files named in one error


class DamagedFiles(UserError):
    """Image files that cannot be decoded.

    Args:
      files: path and reason of each; the message names up to five.
      listed: a file that names them all, if there is one.
      cure: what can be done but to replace or remove them.
    """

    def __init__(self, files: Sequence[str], listed: Path | None = None, cure: str = ""):
        self.files, count = tuple(files), len(files)
        more = f" and {count - REPORTED:,} more" if count > REPORTED else ""
        all_named = f" {'All are' if count > 1 else 'It is'} listed in {listed}." if listed else ""
        super().__init__(
            f"{count:,} image file{'s' if count > 1 else ''} cannot be decoded: "
            f"{'; '.join(files[:REPORTED])}{more}.{all_named} "
            f"Replace or remove {'them' if count > 1 else 'it'}{cure}."
        )


class Fit(NamedTuple):
    """How images of any size are brought to what a model takes.

    Attributes:
      image_shape: height and width in pixels, and channels: 1 (grey) or 3 (RGB).
      apply: Pillow's image, grey or RGB -> uint8 of that shape.
    """

    image_shape: tuple[int, int, int]
    apply: Callable[[Any], np.ndarray]

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Bring pixels uint8 [H,W,C] of 1, 3 or 4 channels to that shape."""
        from PIL import Image

        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return self.apply(image.convert("L" if self.image_shape[2] == 1 else "RGB"))


@dataclass(frozen=True)
class Records:
    """Random access to the examples of a base split.

    Attributes:
      image_shape: height and width in pixels, and channels, of every image.
      class_names: name of each class.
      read: indices [n] within the base split, at least one -> images uint8 [n, H, W, C] and labels
        int32 [n]; may be called from several threads. Raises UserError; `DamagedFiles` where more
        of the same may follow.
      damage: the error that names all damaged files of the data, for a `DamagedFiles`.
      read_fitted: of files that are brought to `image_shape`: as `read`, with further arguments for
        what is made of them instead: a function for each index, of Pillow's whole image, that gives
        bytes [h, w, C], and (h, w).
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    damage: Callable[[DamagedFiles], DamagedFiles] = lambda error: error
    read_fitted: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None


@dataclass(frozen=True)
class Source:
    """One data set that can be read.

    Attributes:
      name: for messages.
      identity: the same for every way to name the same data.
      splits: base split -> number of examples in each of its shards.
      open: base split -> random access to it, decoding nothing yet but perhaps one image.
      fingerprint: changes with the source's files; None: too quick to read to be cached.
      file: (base split, index) -> path of that example's file within the data; None: an example
        is no file.
      aliases: further name -> the base split it means.
      absent: name -> why there is no such base split, where more is known than that.
      labels: base split -> int32 [N], where they are known without reading images.
      views: base split -> (another one, indices [N] of its examples in that).
      notes: what the user has to know of the data.
      contents: base split -> its files, the same wherever they lie and whenever they were written.
    """

    name: str
    identity: str
    splits: dict[str, tuple[int, ...]]
    open: Callable[[str], Records]
    fingerprint: str | None
    contents: Callable[[str], Contents]
    file: Callable[[str, int], str] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    labels: Callable[[str], np.ndarray] | None = None
    views: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
