"""The images of a source's splits, of any sizes and kinds: decoded, and those that cannot be."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np

from jax_train.data import decoding
from jax_train.data.cache import Folder, cached_json, fingerprint_of
from jax_train.data.decoding import ImageFile
from jax_train.data.source import DamagedFiles, Fit, Records
from jax_train.data.sources.folder_layout import some
from jax_train.errors import UserError
from jax_train.files import cache_root, write_atomically
from jax_train.printing import counted, progress_bar


class Split(Protocol):
    """The images of a base split in their order, with labels."""

    class_names: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        """Classes: int32 [N]."""

    @property
    def names(self) -> list[str]:
        """A name of each image, as it stands in the data."""

    def images(self, indices: Iterable[int]) -> list[ImageFile]:
        """Images that are not decoded yet."""

    def stats(self) -> Iterable[tuple[str, os.stat_result]]:
        """What the split was read from, by name."""

    def keep(self, indices: Sequence[int]) -> "Split":
        """The split with these images alone."""


class Images:
    """The images of some splits, brought to one form, and the damaged files among them.

    They come out grey (1 channel) if all images of all splits are stored as grey, otherwise RGB.

    Args:
      splits: by name.
      identity: the same for every way to name the data.
      image_size, interpolation, max_megapixels, cache_dir: as of `data.load`.
      fit: brings them to its shape instead.
    """

    def __init__(
        self,
        splits: dict[str, Split],
        identity: str,
        *,
        image_size: int | None,
        interpolation: str | None,
        fit: Fit | None,
        max_megapixels: float | None,
        cache_dir: Folder,
    ):
        self.splits, self.identity, self._cache_dir = splits, identity, cache_dir
        self._size, self._max_megapixels = image_size and (image_size, image_size), max_megapixels
        self._interpolation, self._given_fit = interpolation, fit
        self._channels = cache(self._count_channels)  # when first needed

    def _count_channels(self) -> int:
        given = self._given_fit
        if given:
            return given.image_shape[2]
        return 1 if _all_grey(self.splits, self._max_megapixels) else 3

    def fingerprint(self) -> str:
        """Changes with the files and with what becomes of them."""
        pairs = self.splits.items()
        files = ((f"{name}/{file}", stat) for name, s in pairs for file, stat in s.stats())
        size = self._size and self._size[0]
        # By its name: under the bare number caches may hold colours as grey.
        most = self._max_megapixels and ("max_megapixels", self._max_megapixels)
        later = most, self._interpolation  # than the first data in caches
        given = (value for value in later if value is not None)
        return fingerprint_of(files, size, *given, tuple(self.splits))

    def open(self, name: str) -> Records:
        """Return random access to a split; its first whole image gives the shape, without a size.

        Raises:
          UserError: no file is whole.
        """
        split, decode, size = self.splits[name], self._decode, self._size
        shape = size and (*size, self._channels())
        shape = self._given_fit.image_shape if self._given_fit else shape
        labels, (first,) = split.labels, split.images([0])
        # Decoded whole: the EXIF tag that turns an image may stand behind its pixels.
        try:
            each = (split.images([i])[0] for i in range(len(labels)))
            like = (shape, first) if shape else decoding.first_shape(each, decode)
        except DamagedFiles as error:
            raise self._damage(error) from error

        def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            images = decoding.decode_all(split.images(indices), repeat(decode), like)
            return images, labels[indices]

        def read_fitted(indices: np.ndarray, fits: Sequence[Callable], fitted: tuple[int, int]):
            files, like = split.images(indices), ((*fitted, self._channels()), first)
            decoders = (partial(decode, fit=fit) for fit in fits)
            return decoding.decode_all(files, decoders, like), labels[indices]

        more = (self._damage, read_fitted) if size else (self._damage,)
        return Records(like[0], split.class_names, read, *more)

    def leave_out_damaged(self, unreadable: Sequence[str] = ()) -> list[str]:
        """Take the files that cannot be decoded out of the splits; return a note on them.

        Raises:
          UserError: nothing is left of a class of train or of another split.
        """
        told = "The names of damaged files are", "tries all files"
        label, where = f"damaged\n{self.identity}", self._cache_dir
        # What is damaged to the readers of today may be whole to those that are installed later.
        known = fingerprint_of((), self.fingerprint(), decoding.formats())
        damaged = cached_json(label, known, self._find_damaged, _are_damaged, where, told)
        names = {name for name, _, _ in damaged}
        self.splits = {name: _without(split, name, names) for name, split in self.splits.items()}
        self._channels.cache_clear()  # those of the whole files alone, whether tried now or before
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

    def _decode(self, file: ImageFile, fit: Callable | None = None) -> np.ndarray:
        if self._given_fit and not fit:
            fit = self._given_fit.apply
        elif self._size and not fit:
            fit = partial(decoding.fitted, size=self._size, interpolation=self._interpolation)
        return decoding.decode_image(file, self._channels(), fit, self._max_megapixels)

    def _damage(self, error: DamagedFiles) -> DamagedFiles:
        files = [f"{path} ({why})" for _, path, why in self._find_damaged()]
        return self.refusal(files or error.files)

    def _find_damaged(self) -> list[tuple[str, str, str]]:
        """Try all files: (name with that of the split, path, reason) of each that is damaged."""
        names = (f"{name}/{image}" for name, s in self.splits.items() for image in s.names)
        places = [(split, i) for split in self.splits.values() for i in range(len(split.labels))]

        def reason(place: tuple[Split, int]) -> tuple[str, str]:
            (image,) = place[0].images([place[1]])
            found = decoding.try_decoding(image, self._decode)
            return str(image), found if isinstance(found, str) else ""

        threads, damaged = min(8, os.cpu_count() or 1), []
        with (
            ThreadPoolExecutor(threads, "decode") as pool,
            progress_bar(len(places), "Checking") as bar,
        ):
            for name, (path, why) in zip(names, pool.map(reason, places), strict=True):
                damaged += [(name, path, why)] if why else []
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
    names, labels = split.names, split.labels
    whole = [i for i, image in enumerate(names) if f"{name}/{image}" not in damaged]
    lost = set(labels.tolist()) - set(labels[whole].tolist())
    if lost and (name == "train" or not whole):
        classes = some(split.class_names[label] for label in sorted(lost))
        raise UserError(
            f"Every image of {name} is damaged, of the classes {classes}. Replace some of them, or "
            "remove the folders."
        )
    return split.keep(whole)


def _all_grey(splits: dict[str, Split], max_megapixels: float | None) -> bool:
    """Return whether every image is stored as grey; reads headers up to the first colour image."""
    for split in splits.values():
        for i in range(len(split.labels)):
            try:
                with decoding.open_image(*split.images([i]), max_megapixels) as image:
                    if image.mode not in decoding.GREY:
                        return False
            except Exception:  # damaged or too large: reported when it is decoded
                continue
    return True
