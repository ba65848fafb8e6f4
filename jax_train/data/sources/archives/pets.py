"""Oxford-IIIT Pet: 37 breeds of cats and dogs, 3,680 photos to train and 3,669 to test."""

from pathlib import Path, PurePosixPath

from jax_train.data.sources.archives.bounded import Limits, members
from jax_train.data.sources.archives.photos import Photos
from jax_train.data.sources.archives.recipe import ANOTHER, PhotoRecipe
from jax_train.errors import UserError

_LIMITS = Limits(member=2**25, total=2**30, members=40_000)
_LISTS = {"annotations/trainval.txt": "train", "annotations/test.txt": "test"}


def _unpack(paths: dict[str, Path], photos: Photos, class_names: list[str]) -> None:
    """Unpack `images/BREED_NUMBER.jpg`; lists have lines `BREED_NUMBER class species breed`."""
    archive, annotations = paths.values()
    where = []
    found = dict(members(annotations, _LISTS.__contains__, _LIMITS))
    for name, split in _LISTS.items():
        lines = found.get(name, b"").decode("utf-8", "replace").splitlines()
        keys = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise UserError(f"{annotations} has no {name} with photos. {ANOTHER}")
        for key in keys:
            breed, _, number = key.rpartition("_")
            if breed not in class_names or not number.isdecimal():
                raise UserError(f"{annotations}, {name} names {key!r}: no photo of it. {ANOTHER}")
            where.append((f"{key}.jpg", split, breed, f"{key}.jpg"))
    for name, content in members(archive, lambda name: name.endswith(".jpg"), _LIMITS):
        photos.add(PurePosixPath(name).name, content)
    photos.sort(where, annotations)


PETS = PhotoRecipe(
    "https://thor.robots.ox.ac.uk/~vgg/data/pets/",
    ("images.tar.gz", "annotations.tar.gz"),
    _unpack,
    7390,
)
