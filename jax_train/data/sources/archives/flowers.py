"""Oxford Flowers: 102 kinds, 10 photos of each to train, 10 to validate, 6,149 to test."""

from pathlib import Path, PurePosixPath

import numpy as np

from jax_train.data.sources.archives.bounded import Limits, members
from jax_train.data.sources.archives.photos import Photos
from jax_train.data.sources.archives.recipe import ANOTHER, PhotoRecipe
from jax_train.errors import UserError

_LIMITS = Limits(member=2**25, total=2**30, members=10_000)
_SPLITS = {"trnid": "train", "valid": "val", "tstid": "test"}


def _unpack(paths: dict[str, Path], photos: Photos, class_names: list[str]) -> None:
    """Unpack `jpg/image_00001.jpg` and so on; `setid.mat` has the numbers of each split."""
    archive, labels_path, sets_path = paths.values()
    labels = _read(labels_path, "labels")
    where = []
    for key, split in _SPLITS.items():
        numbers = _read(sets_path, key)
        if not 1 <= numbers.min() <= numbers.max() <= len(labels):
            raise UserError(f"{sets_path}, {key}: not all from 1 to {len(labels):,}. {ANOTHER}")
        for number in numbers:
            label, name = labels[number - 1], f"image_{number:05d}.jpg"
            if not 1 <= label <= len(class_names):
                raise UserError(f"{labels_path}: the label {label} of {name}. {ANOTHER}")
            where.append((name, split, class_names[label - 1], name))
    for name, content in members(archive, lambda name: name.endswith(".jpg"), _LIMITS):
        photos.add(PurePosixPath(name).name, content)
    photos.sort(where, sets_path)


def _read(path: Path, key: str) -> np.ndarray:
    """A row of whole numbers of a MATLAB file."""
    from scipy.io import loadmat

    try:
        found = loadmat(path, variable_names=(key,))[key].ravel().astype(np.int64)
    except Exception as error:  # scipy raises many kinds on what is no such file
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is no MATLAB file with {key} ({reason}). {ANOTHER}") from error
    if not len(found):
        raise UserError(f"{path}: {key} is empty. {ANOTHER}")
    return found


FLOWERS = PhotoRecipe(
    "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ("102flowers.tgz", "imagelabels.mat", "setid.mat"),
    _unpack,
    8189,
)
