"""`folder:PATH`: image files sorted into one folder per class, decoded with Pillow."""

import hashlib
import logging
import os
from collections import Counter
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_train.data import image_files
from jax_train.data.cache import fingerprint_of
from jax_train.data.contents import contents_of
from jax_train.data.source import Records, Source
from jax_train.errors import UserError
from jax_train.files import expand

SPLITS = ("train", "test", "val", "validation")
_log = logging.getLogger(__name__)


class _Split(NamedTuple):
    """The files of a split in their fixed order: path below the split's root, label, stat."""

    root: Path
    class_names: tuple[str, ...]
    files: tuple[tuple[str, int, os.stat_result], ...]


def folder_source(path: str, image_size: int | None) -> Source:
    """Return the images below a folder as a data set.

    With a subfolder `train` that itself has subfolders, the splits are `train` and those of
    `test`, `val` and `validation` that are there, each with one folder per class. Otherwise the
    folder holds one folder per class and everything is the split `train`. Classes are numbered in
    the order of their sorted names. Within a split the files stand in the order of a hash of
    their relative path, so that slices hold all classes, on every machine the same. Folders
    within a class folder are searched too; hidden files and files without an image's suffix
    are ignored.

    Images are turned upright by their EXIF tag. They come out grey (1 channel) if all images of
    all splits are stored as grey, otherwise RGB; transparency is dropped, 16-bit samples keep
    their upper 8 bits, and animations their first frame.

    Args:
      path: the folder; `~` is the user's home.
      image_size: side of the square, in pixels, that images are brought to: the shorter side
        resized (bilinear, antialiased), then the centre cropped. None: as they are, if all
        have one size.

    Raises:
      UserError: a folder is missing or empty, or the classes of two splits differ.
    """
    if image_size is not None and not (type(image_size) is int and image_size > 0):
        raise UserError(
            f"config.data.image_size is {image_size!r}; expected a positive whole number of "
            "pixels, such as --config.data.image_size=64."
        )
    root = expand(path)
    if not path or not root.is_dir():
        raise UserError(
            f"config.data.name is 'folder:{path}', but there is no folder {root.absolute()}. "
            "Expected a folder with one folder of images per class."
        )
    splits = _scan(root)
    channels = cache(lambda: 1 if _all_grey(splits) else 3)  # found out when first needed
    files = (
        (f"{name}/{file}", stat) for name, split in splits.items() for file, _, stat in split.files
    )
    return Source(
        name=f"folder:{path}",
        identity=f"folder {root.resolve()}",
        splits={name: (len(split.files),) for name, split in splits.items()},
        open=lambda name: _open(splits[name], channels(), image_size),
        fingerprint=fingerprint_of(files, image_size, tuple(splits)),
        contents=lambda name: contents_of(
            (file, splits[name].root / file, stat.st_size) for file, _, stat in splits[name].files
        ),
    )


def _scan(root: Path) -> dict[str, _Split]:
    """Find the splits, their classes and their files."""
    folders = [folder.name for folder in _subfolders(root)]
    if "train" not in folders or not _subfolders(root / "train"):
        if "train" in folders and set(folders) <= set(SPLITS):
            raise UserError(
                f"{root / 'train'} holds no folders. Expected one folder of images per class, "
                f"such as {root / 'train' / 'cat' / '1.jpg'}."
            )
        return {"train": _scan_split(root)}
    if others := sorted(set(folders) - set(SPLITS)):
        _log.warning(
            f"{root} has a folder train with folders of its own, so it is read as splits; left "
            f"out: {', '.join(others)}"
        )
    splits = {name: _scan_split(root / name) for name in SPLITS if (root / name).is_dir()}
    expected = set(splits["train"].class_names)
    for name, split in splits.items():
        missing, extra = expected - set(split.class_names), set(split.class_names) - expected
        if missing or extra:
            parts = [f"{', '.join(sorted(missing))} missing"] if missing else []
            parts += [f"{', '.join(sorted(extra))} not in train"] if extra else []
            raise UserError(
                f"The class folders of {root / name} differ from those of {root / 'train'}: "
                f"{'; '.join(parts)}. Expected the same class folders in every split."
            )
    return splits


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _scan_split(root: Path) -> _Split:
    classes = _subfolders(root)
    if not classes:
        raise UserError(
            f"{root} holds no folders. Expected one folder of images per class, such as "
            f"{root / 'cat' / '1.jpg'}."
        )
    files, ignored, empty = [], Counter(), []
    for label, folder in enumerate(classes):
        found = image_files.image_files(folder, root, ignored)
        of_class = [(relative, label, stat) for relative, stat in found]
        files += of_class
        if not of_class:
            empty.append(folder.name)
    if empty:
        raise UserError(
            f"No image in {len(empty)} of the {len(classes)} class folders of {root}: "
            f"{', '.join(empty[:10])}{', ...' if len(empty) > 10 else ''}. "
            f"{image_files.suffixes_told(ignored)} Remove the folder or add images to it."
        )
    files.sort(key=lambda file: hashlib.sha256(os.fsencode(file[0])).digest())
    return _Split(root, tuple(folder.name for folder in classes), tuple(files))


def _open(split: _Split, channels: int, image_size: int | None) -> Records:
    """Return random access to a split; its first whole image gives the shape, if no size is set."""
    paths = [split.root / file for file, _, _ in split.files]
    labels = np.array([label for _, label, _ in split.files], np.int32)
    size = image_size and (image_size, image_size)
    decode = partial(image_files.decode_image, channels=channels, size=size)
    # Decoded whole: the EXIF tag that turns an image may stand behind its pixels.
    like = ((*size, channels), paths[0]) if size else image_files.first_shape(paths, decode)

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return image_files.decode_all([paths[i] for i in indices], decode, like), labels[indices]

    return Records(like[0], split.class_names, read)


def _all_grey(splits: dict[str, _Split]) -> bool:
    """Return whether every image is stored as grey; reads headers up to the first colour image."""
    for split in splits.values():
        for name, _, _ in split.files:
            try:
                with image_files.open_image(split.root / name) as image:
                    if image.mode not in image_files.GREY:
                        return False
            except Exception:  # damaged or too large: reported when it is decoded
                continue
    return True
