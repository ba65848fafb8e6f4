"""SVHN, cropped digits, in MATLAB files."""

from pathlib import Path

import numpy as np

from jax_train.data.sources.archives.recipe import ANOTHER, Contents, Recipe, check_labels
from jax_train.errors import UserError

_SPLITS = ("train", "test", "extra")


def _read_svhn(paths: dict[str, Path]) -> Contents:
    """Read the three files, X uint8 [32, 32, 3, N] and y [N, 1] from 1 to 10, which is the digit 0.

    http://ufldl.stanford.edu/housenumbers/, format 2.
    """
    splits = []
    for split, path in zip(_SPLITS, paths.values(), strict=True):
        images, labels = _read_mat(path)
        check_labels(labels - 1, 10, str(path), "y - 1 =")
        splits.append((split, np.moveaxis(images, -1, 0), {"label": labels % 10}))
    return Contents(tuple(splits), {}, id_digits=6)


def _read_mat(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=("X", "y"))
        images, labels = found["X"], found["y"].ravel().astype(np.int64)
    except Exception as error:  # scipy raises many kinds on what is no such file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is no MATLAB file with X and y ({reason}). {ANOTHER}") from error
    if images.shape != (32, 32, 3, len(labels)) or images.dtype != np.uint8 or not len(labels):
        raise UserError(
            f"{path}: X is {images.dtype}{list(images.shape)} with {len(labels):,} labels; "
            f"expected uint8[32, 32, 3, N] with N. {ANOTHER}"
        )
    return images, labels


SVHN = Recipe(
    "http://ufldl.stanford.edu/housenumbers/",
    tuple(f"{split}_32x32.mat" for split in _SPLITS),
    _read_svhn,
)
