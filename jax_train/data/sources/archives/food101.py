"""Food-101: 101 dishes, 750 photos of each to train and 250 to test."""

from pathlib import Path

from jax_train.data.sources.archives.bounded import Limits, members
from jax_train.data.sources.archives.photos import Photos
from jax_train.data.sources.archives.recipe import ANOTHER, PhotoRecipe
from jax_train.errors import UserError

_LIMITS = Limits(member=2**25, total=6 * 2**30, members=110_000)
_ROOT, _SPLITS = "food-101", ("train", "test")


def _unpack(paths: dict[str, Path], photos: Photos, class_names: list[str]) -> None:
    """Unpack `images/DISH/NUMBER.jpg`; `meta/train.txt` and `meta/test.txt` list DISH/NUMBER."""
    (path,) = paths.values()
    lists = {f"{_ROOT}/meta/{split}.txt": split for split in _SPLITS}
    found = {}

    def wanted(name: str) -> bool:
        return name in lists or (name.startswith(f"{_ROOT}/images/") and name.endswith(".jpg"))

    for name, content in members(path, wanted, _LIMITS):
        if name in lists:
            found[lists[name]] = content.decode("utf-8", "replace").split()
        else:
            photos.add(name.removeprefix(f"{_ROOT}/images/").removesuffix(".jpg"), content)
    if missing := [split for split in _SPLITS if not found.get(split)]:
        raise UserError(f"{path} has no meta/{missing[0]}.txt with photos. {ANOTHER}")
    where = []
    for split, keys in found.items():
        for key in keys:
            label, _, number = key.partition("/")
            if label not in class_names or not number.isalnum():
                raise UserError(f"{path}, {split}.txt names {key!r}: no photo of it. {ANOTHER}")
            where.append((key, split, label, f"{number}.jpg"))
    photos.sort(where, path)


FOOD101 = PhotoRecipe("http://data.vision.ee.ethz.ch/cvl/", ("food-101.tar.gz",), _unpack, 101_000)
