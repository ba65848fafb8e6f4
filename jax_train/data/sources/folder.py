"""`folder:PATH`: image files sorted into one folder per class, decoded with Pillow."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import repeat
from pathlib import Path

import numpy as np

from jax_train.data import image_files
from jax_train.data.cache import Folder, cached_json, fingerprint_of
from jax_train.data.contents import Contents, contents_of
from jax_train.data.source import DamagedFiles, Records, Source
from jax_train.data.sources.folder_layout import find_layout, some
from jax_train.data.sources.folder_scan import Split, scan
from jax_train.errors import UserError
from jax_train.files import cache_root, expand, write_atomically
from jax_train.printing import counted, progress_bar


def folder_source(
    path: str,
    image_size: int | None,
    *,
    interpolation: str | None = None,
    on_damaged: str = "stop",
    max_megapixels: float | None = None,
    cache_dir: Folder = None,
) -> Source:
    """Return the images below a folder as a data set.

    With a subfolder `train` that itself has subfolders, the splits are `train` and those of
    `test`, `val` and `validation` that are there, each with one folder per class; see
    `folder_layout` for other names of them. Otherwise the folder holds one folder per class and
    everything is the split `train`. Classes are numbered in the order of the sorted names of
    train's; the other splits may lack some of them. Within a split the files stand in the order of
    a hash of their relative path, so that slices hold all classes, on every machine the same.
    For the files within a class folder, and what is left out, see `image_files.image_files`.

    Images are turned upright by their EXIF tag. They come out grey (1 channel) if all images of
    all splits are stored as grey, otherwise RGB; transparency is dropped, 16-bit samples keep
    their upper 8 bits, and animations their first frame.

    Args:
      path: the folder; `~` is the user's home.
      image_size: side of the square, in pixels, that images are brought to: the shorter side
        resized (antialiased), then the centre cropped. None: as they are, if all have one size.
      interpolation: of resizing, one of `image_files.INTERPOLATIONS`; None: bilinear.
      on_damaged: 'skip' leaves out the files that cannot be decoded; all are tried beforehand.
      max_megapixels: see `image_files.open_image`.
      cache_dir: see `cache_root`.

    Raises:
      UserError: a folder is missing, empty or has a single class, or a split has classes that
        train lacks.
    """
    if image_size is not None and not (type(image_size) is int and image_size > 0):
        raise UserError(
            f"config.data.image_size is {image_size!r}; expected a positive whole number of "
            "pixels, such as --config.data.image_size=64."
        )
    root = expand(path)
    if not path or not os.path.isdir(root):  # Path's own raises on names that are too long
        raise UserError(
            f"config.data.name is 'folder:{path}', but there is no folder {root.absolute()}. "
            "Expected a folder with one folder of images per class."
        )
    found = scan(layout := find_layout(root))
    how = {"image_size": image_size, "interpolation": interpolation}
    how |= {"max_megapixels": max_megapixels, "cache_dir": cache_dir}
    images = _Images(found.splits, f"folder {root.resolve()}", **how)
    notes = found.notes
    if on_damaged == "skip":
        notes = notes + images.leave_out_damaged(found.unreadable)
    elif found.unreadable:
        raise images.refusal(found.unreadable)
    return Source(
        name=f"folder:{path}",
        identity=images.identity,
        splits={name: (len(split.files),) for name, split in images.splits.items()},
        open=images.open,
        fingerprint=images.fingerprint(),
        contents=images.contents,
        file=lambda name, i: os.path.relpath(images.splits[name].path(i), root),
        aliases=layout.aliases,
        absent=found.absent,
        labels=lambda name: images.splits[name].labels,
        notes=tuple(notes),
    )


class _Images:
    """The images of a folder's splits, and the damaged files among them."""

    def __init__(
        self,
        splits: dict[str, Split],
        identity: str,
        *,
        image_size: int | None,
        interpolation: str | None,
        max_megapixels: float | None,
        cache_dir: Folder,
    ):
        self.splits, self.identity, self._cache_dir = splits, identity, cache_dir
        self._size, self._max_megapixels = image_size and (image_size, image_size), max_megapixels
        self._interpolation = interpolation
        self._channels = cache(lambda: 1 if _all_grey(splits) else 3)  # when first needed

    def fingerprint(self) -> str:
        """Changes with the files and with what becomes of them."""
        pairs = self.splits.items()
        files = ((f"{name}/{file}", stat) for name, s in pairs for file, _, stat in s.files)
        size = self._size and self._size[0]
        later = self._max_megapixels, self._interpolation  # than the first data in caches
        given = (value for value in later if value is not None)
        return fingerprint_of(files, size, *given, tuple(self.splits))

    def contents(self, name: str) -> Contents:
        """What a split consists of."""
        split = self.splits[name]
        return contents_of((file, split.root / file, stat.st_size) for file, _, stat in split.files)

    def open(self, name: str) -> Records:
        """Return random access to a split; its first whole image gives the shape, without a size.

        Raises:
          UserError: no file is whole.
        """
        split = self.splits[name]
        paths, labels, decode, size = split.paths, split.labels, self._decode, self._size
        # Decoded whole: the EXIF tag that turns an image may stand behind its pixels.
        try:
            shape = size and ((*size, self._channels()), paths[0])
            like = shape or image_files.first_shape(paths, decode)
        except DamagedFiles as error:
            raise self._damage(error) from error

        def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            images = image_files.decode_all([paths[i] for i in indices], repeat(decode), like)
            return images, labels[indices]

        def read_fitted(indices: np.ndarray, fits: Sequence[Callable], fitted: tuple[int, int]):
            like = (*fitted, self._channels()), paths[indices[0]]
            decoders = (partial(decode, fit=fit) for fit in fits)
            files = [paths[i] for i in indices]
            return image_files.decode_all(files, decoders, like), labels[indices]

        more = (self._damage, read_fitted) if size else (self._damage,)
        return Records(like[0], split.class_names, read, *more)

    def leave_out_damaged(self, unreadable: Sequence[str]) -> list[str]:
        """Take the files that cannot be decoded out of the splits; return a note on them.

        Raises:
          UserError: nothing is left of a class of train or of another split.
        """
        told = "The names of damaged files are", "tries all files"
        label, where = f"damaged\n{self.identity}", self._cache_dir
        build, known = self._find_damaged, self.fingerprint()
        damaged = cached_json(label, known, build, _are_damaged, where, told)
        names = {name for name, _, _ in damaged}
        self.splits = {name: _without(split, name, names) for name, split in self.splits.items()}
        lost = [*unreadable, *(f"{path} ({why})" for _, path, why in damaged)]
        if not lost:
            return []
        place = self._list(lost)
        count = f"{counted(len(lost), 'damaged file')} left out"
        return [f"{count}, listed in {place}" if place else count]

    def refusal(self, files: Sequence[str]) -> DamagedFiles:
        """The error for damaged files, path and reason of each, which are listed in a file."""
        cure = ", or leave damaged files out with --config.data.on_damaged=skip"
        return DamagedFiles(files, self._list(files), cure)

    def _decode(self, path: Path, fit: Callable | None = None) -> np.ndarray:
        if self._size and not fit:
            fit = partial(image_files.fitted, size=self._size, interpolation=self._interpolation)
        return image_files.decode_image(path, self._channels(), fit, self._max_megapixels)

    def _damage(self, error: DamagedFiles) -> DamagedFiles:
        files = [f"{path} ({why})" for _, path, why in self._find_damaged()]
        return self.refusal(files or error.files)

    def _find_damaged(self) -> list[tuple[str, str, str]]:
        """Try all files: (name with that of the split, path, reason) of each that is damaged."""
        names = (f"{name}/{file}" for name, s in self.splits.items() for file, _, _ in s.files)
        paths = [path for split in self.splits.values() for path in split.paths]

        def reason(path: Path) -> str:
            found = image_files.try_decoding(path, self._decode)
            return found if isinstance(found, str) else ""

        threads, damaged = min(8, os.cpu_count() or 1), []
        with (
            ThreadPoolExecutor(threads, "decode") as pool,
            progress_bar(len(paths), "Checking") as bar,
        ):
            for name, path, why in zip(names, paths, pool.map(reason, paths), strict=True):
                damaged += [(name, str(path), why)] if why else []
                bar.update()
        return damaged

    def _list(self, files: Sequence[str]) -> Path | None:
        """Write what is damaged into a file of the cache folder; return its path."""
        name = hashlib.sha256(os.fsencode(self.identity)).hexdigest()[:16]
        place = cache_root(self._cache_dir) / "damaged" / f"{name}.txt"
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, os.fsencode("".join(f"{file}\n" for file in files)))
        except OSError:
            return None
        return place


def _are_damaged(value: object) -> bool:
    """Whether a result from the cache can be one of `_find_damaged`."""
    return all(len(one) == 3 and all(isinstance(text, str) for text in one) for one in value)


def _without(split: Split, name: str, damaged: set[str]) -> Split:
    files = tuple(file for file in split.files if f"{name}/{file[0]}" not in damaged)
    lost = {label for _, label, _ in split.files} - {label for _, label, _ in files}
    if lost and (name == "train" or not files):
        classes = some(split.class_names[label] for label in sorted(lost))
        raise UserError(
            f"Every image of {name} is damaged, of the classes {classes}. Replace some of them, or "
            "remove the folders."
        )
    return split._replace(files=files)


def _all_grey(splits: dict[str, Split]) -> bool:
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
