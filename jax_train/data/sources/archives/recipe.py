"""What has to be known of an original data set to prepare it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_train.errors import UserError

ANOTHER = "The archive is not the original one: fetch it again."


class Contents(NamedTuple):
    """What an archive holds.

    Attributes:
      splits: (name, images uint8 [N, H, W, C], label key -> integers [N]) of each split.
      class_names: label key -> names, where the archive has them.
      id_digits: of the `id` that the TFDS examples carry; 0: they have none.
    """

    splits: tuple[tuple[str, np.ndarray, dict[str, np.ndarray]], ...]
    class_names: dict[str, list[str]]
    id_digits: int = 0


class Recipe(NamedTuple):
    """How to get images of one size: where files are, and how to read them (file name -> path)."""

    url: str
    files: tuple[str, ...]
    read: Callable[[dict[str, Path]], Contents]


class PhotoRecipe(NamedTuple):
    """How to get photos of many sizes, which become a folder by split and class.

    Attributes:
      url, files: where the archives are.
      unpack: (file name -> path, `photos.Photos`, names of the classes by TFDS): adds and sorts.
      count: of the photos.
    """

    url: str
    files: tuple[str, ...]
    unpack: Callable
    count: int


def check_labels(labels: np.ndarray, count: int, where: str, key: str) -> None:
    """Raise a UserError where labels [N] of a file are not below `count`."""
    wrong = np.flatnonzero(labels >= count)
    if len(wrong):
        raise UserError(
            f"{where}: record {wrong[0]} has {key} {labels[wrong[0]]}; expected 0 to {count - 1}. "
            f"{ANOTHER}"
        )
