"""Which files a `folder:` data set has: those of each split and class, in their fixed order."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_train.data import image_files
from jax_train.data.sources.folder_layout import (
    Layout,
    below,
    loose_images,
    named_like_splits,
    some,
    subfolders,
)
from jax_train.errors import UserError
from jax_train.printing import counted


class Split(NamedTuple):
    """The files of a split in their fixed order: path below the split's root, label, stat."""

    root: Path
    class_names: tuple[str, ...]
    files: tuple[tuple[str, int, os.stat_result], ...]

    def path(self, i: int) -> Path:
        """A file."""
        return self.root / self.files[i][0]

    @property
    def names(self) -> list[str]:
        """Of all files."""
        return [name for name, _, _ in self.files]

    def images(self, indices: Iterable[int]) -> list[Path]:
        """Some files."""
        return [self.path(i) for i in indices]

    def stats(self) -> Iterator[tuple[str, os.stat_result]]:
        """The files as they are on the disk."""
        return ((name, stat) for name, _, stat in self.files)

    def keep(self, indices: Sequence[int]) -> "Split":
        """The split with these files alone."""
        return self._replace(files=tuple(self.files[i] for i in indices))

    @property
    def labels(self) -> np.ndarray:
        """Their classes: int32 [N]."""
        return np.array([label for _, label, _ in self.files], np.int32)


class Scan(NamedTuple):
    """What lies in a folder.

    Attributes:
      splits: those that can be used, by name.
      absent: name -> why the folder of that split cannot.
      unreadable: path and reason of each file with an image's ending that cannot be read.
      notes: what the user has to know.
    """

    splits: dict[str, Split]
    absent: dict[str, str]
    unreadable: list[str]
    notes: list[str]


def scan(layout: Layout) -> Scan:
    """Find the files of the splits.

    Raises:
      UserError: a class of train has no image, there is a single class, or a split has classes
        that train lacks.
    """
    folders = layout.splits
    left_out, unreadable, absent = Counter(), [], {}
    train = _scan_training(folders["train"], left_out, unreadable)
    splits = {"train": train}
    for name, folder in folders.items():
        if name == "train":
            continue
        if why := _unlabelled(folder, train):
            absent[name] = why
            continue
        own = {path.name for path in subfolders(folder)}
        wanted = [folder / class_name for class_name in train.class_names if class_name in own]
        found = [_files_of(path, folder, left_out, unreadable) for path in wanted]
        if any(found):
            labels = [train.class_names.index(path.name) for path in wanted]
            splits[name] = _in_order(folder, train.class_names, zip(labels, found, strict=True))
        else:
            absent[name] = "it holds no image"
    left_out["beside the class folders"] += sum(map(loose_images, folders.values()))
    notes = [f"the folder of {name} is not used: {why}" for name, why in absent.items()]
    notes += [text for text in (image_files.told(left_out), *_doubts(splits)) if text]
    return Scan(splits, absent, unreadable, [*layout.notes, *notes])


def _scan_training(root: Path, left_out: Counter, unreadable: list[str]) -> Split:
    """The files of the split that says which classes there are: at least two, none empty."""
    classes = subfolders(root)
    found, empty = {}, []
    ours = Counter()
    for folder in classes:
        own = Counter()
        files = _files_of(folder, root, own, unreadable)
        ours += own
        if files:
            found[folder.name] = files
        elif not own["run folder"]:  # runs may be kept beside the data
            empty.append(folder.name)
    left_out += ours
    if not found and not empty:
        loose = f" It holds {counted(n, 'image')} itself." if (n := loose_images(root)) else ""
        raise UserError(
            f"{root} holds no folders of images.{loose} Expected one folder of images per class, "
            f"such as {root / 'cat' / '1.jpg'}."
        )
    if empty:
        raise UserError(
            f"No image in {len(empty)} of the {len(classes)} class folders of {root}: "
            f"{some(empty)}. {image_files.expected_files(ours)} Remove the folder or add "
            "images to it."
        )
    if len(found) == 1:
        raise UserError(_one_class(root, *found.items()))
    return _in_order(root, tuple(found), enumerate(found.values()))


def _files_of(folder: Path, root: Path, left_out: Counter, unreadable: list[str]) -> list:
    """The files of a class: path below the split's root, and stat."""
    files = []
    for name, stat in image_files.image_files(folder, root, left_out):
        if stat is not None:
            files.append((name, stat))
            continue
        try:
            image_files.readable_file(root / name)
        except ValueError as error:
            unreadable.append(f"{root / name} ({error})")
    return files


def _in_order(root: Path, class_names: tuple[str, ...], by_label) -> Split:
    files = [(name, label, stat) for label, found in by_label for name, stat in found]
    files.sort(key=lambda file: hashlib.sha256(os.fsencode(file[0])).digest())
    return Split(root, class_names, tuple(files))


def _unlabelled(folder: Path, train: Split) -> str:
    """Say why a split cannot be used, if it has no labels; '' if it has.

    Raises:
      UserError: it has classes that train lacks.
    """
    names = {path.name for path in subfolders(folder)}
    extra = sorted(names - set(train.class_names))
    if not names:
        return "it holds no class folders"
    if len(names) == len(extra) == 1:  # as test/unknown, a way to keep unlabelled images
        return f"its only folder, {some(extra)}, is no class of train"
    if extra:
        missing = sorted(set(train.class_names) - names)
        parts = [f"{some(missing)} missing"] if missing else []
        parts.append(f"{some(extra)} not in {train.root.name}")
        raise UserError(
            f"The class folders of {folder} differ from those of {train.root}: "
            f"{'; '.join(parts)}. Expected no other class folders than there."
        )
    return ""


def _one_class(root: Path, only: tuple[str, list]) -> str:
    name, files = only
    text = f"{root} has a single class folder, {some([name])} ({counted(len(files), 'image')})"
    if loose := loose_images(root):
        text += f", beside {counted(loose, 'image')}"
    text += ". Expected one folder of images per class."
    if found := below(root / name):
        place, names = found
        return f"{text} In {place} are {some(names)}: if that is meant, name folder:{place}."
    return f"{text} Sort the images into one folder per class."


def _doubts(splits: dict[str, Split]) -> Iterator[str]:
    """Notes on what may be meant otherwise: classes that look like others, files used twice."""
    train = splits["train"]
    known = {}
    for name in train.class_names:
        if (first := known.setdefault(name.casefold().strip(), name)) != name:
            yield f"the classes {some([first])} and {some([name])} differ by the writing only"
    for (first, a), (second, b) in combinations(splits.items(), 2):
        if shared := len(_inodes(a) & _inodes(b)):
            yield f"{counted(shared, 'image')} of {second} are also in {first}, through links"
    if twice := len(train.files) - len(_inodes(train)):
        yield f"{counted(twice, 'image')} of train stand there twice, through links"
    inside = [set() for _ in train.class_names]
    for name, label, _ in train.files:
        inside[label].add(name.split("/")[1] if name.count("/") > 1 else "")
    same = set.intersection(*inside)
    if len(same) > 1 and "" not in same:
        what = "are they classes?"
        if named_like_splits(same):
            what = "all images are for training"
        yield f"all of {some(train.class_names)} hold the folders {some(sorted(same))}: {what}"


def _inodes(split: Split) -> set:
    """What tells files apart, whatever they are called; of a system without, the names."""
    return {(s.st_dev, s.st_ino) if s.st_ino else file for file, _, s in split.files}
