"""Imagenette: ten easy classes of ImageNet; version 2, the shorter side 320 pixels."""

from pathlib import Path, PurePosixPath

from jax_train.data.sources.archives.bounded import Limits, members
from jax_train.data.sources.archives.photos import Photos
from jax_train.data.sources.archives.recipe import ANOTHER, PhotoRecipe
from jax_train.errors import UserError

_LIMITS = Limits(member=2**25, total=2**30, members=20_000)
# https://github.com/fastai/imagenette: folders are named by WordNet.
_NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def _unpack(paths: dict[str, Path], photos: Photos, class_names: list[str]) -> None:
    """Unpack `imagenette2-320/SPLIT/WNID/NAME.JPEG`."""
    (path,) = paths.values()
    where = []
    for name, content in members(path, lambda name: name.endswith(".JPEG"), _LIMITS):
        *_, split, label, file = PurePosixPath("x", "x", name).parts
        if split not in ("train", "val") or label not in _NAMES:
            raise UserError(
                f"{path}, member {name!r}: expected train or val, and one of {', '.join(_NAMES)}. "
                f"{ANOTHER}"
            )
        photos.add(name, content)
        where.append((name, split, _NAMES[label], file))
    if not where:
        raise UserError(f"{path} holds no photo. {ANOTHER}")
    photos.sort(where, path)


IMAGENETTE = PhotoRecipe(
    "https://s3.amazonaws.com/fast-ai-imageclas/", ("imagenette2-320.tgz",), _unpack, 13_394
)
