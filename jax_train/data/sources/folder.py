"""`folder:PATH`: image files sorted into one folder per class, decoded with Pillow."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_train.data import image_files
from jax_train.data.cache import Folder, cached_json, fingerprint_of
from jax_train.data.source import DamagedFiles, Records, Source
from jax_train.data.sources.folder_layout import (
    below,
    find_layout,
    images_told,
    loose_images,
    named_like_splits,
    some,
    subfolders,
)
from jax_train.errors import UserError
from jax_train.files import cache_root, write_atomically
from jax_train.printing import progress_bar

_CURE = ", or leave damaged files out with --config.data.on_damaged=skip"


class _Split(NamedTuple):
    """The files of a split in their fixed order: path below the split's root, label, stat."""

    root: Path
    class_names: tuple[str, ...]
    files: tuple[tuple[str, int, os.stat_result], ...]


class _Scan(NamedTuple):
    """What lies in a folder; see `Source` for `absent`."""

    splits: dict[str, _Split]
    absent: dict[str, str]
    left_out: Counter
    unreadable: list[str]


def folder_source(
    path: str,
    image_size: int | None,
    *,
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
        resized (bilinear, antialiased), then the centre cropped. None: as they are, if all
        have one size.
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
    root = Path(os.path.expanduser(path))  # Path's own raises where it knows no home
    if not path or not os.path.isdir(root):  # and here on names that are too long
        raise UserError(
            f"config.data.name is 'folder:{path}', but there is no folder {root.absolute()}. "
            "Expected a folder with one folder of images per class."
        )
    identity, layout = f"folder {root.resolve()}", find_layout(root)
    scan = _scan(layout.splits)
    listed = partial(_list_damaged, identity=identity, cache_dir=cache_dir)
    if scan.unreadable and on_damaged != "skip":
        raise DamagedFiles(scan.unreadable, listed(scan.unreadable), _CURE)
    notes = [
        *layout.notes,
        *(f"the folder of {name} is not used: {why}" for name, why in scan.absent.items()),
    ]
    notes += filter(None, [image_files.told(scan.left_out), *_doubts(scan.splits)])
    splits = scan.splits
    channels = cache(lambda: 1 if _all_grey(scan.splits) else 3)  # found out when first needed
    size = image_size and (image_size, image_size)

    def decode(path: Path) -> np.ndarray:
        return image_files.decode_image(path, channels(), size, max_megapixels)

    def fingerprint() -> str:
        names = (
            (f"{name}/{file}", stat) for name, s in splits.items() for file, _, stat in s.files
        )
        return fingerprint_of(names, image_size, max_megapixels, tuple(splits))

    if on_damaged == "skip":
        damaged = _damaged_of(splits, decode, f"damaged\n{identity}", fingerprint(), cache_dir)
        splits = {name: _without(split, name, damaged) for name, split in splits.items()}
        if lost := scan.unreadable + [f"{path} ({why})" for _, path, why in damaged]:
            place = listed(lost)
            notes.append(
                f"{len(lost):,} damaged files left out" + f", listed in {place}" * bool(place)
            )

    def damage(error: DamagedFiles) -> DamagedFiles:
        files = [f"{path} ({why})" for _, path, why in _find_damaged(splits, decode)]
        files = files or error.files
        return DamagedFiles(files, listed(files), _CURE)

    return Source(
        name=f"folder:{path}",
        identity=identity,
        splits={name: (len(split.files),) for name, split in splits.items()},
        open=lambda name: _open(splits[name], decode, channels, size, damage),
        fingerprint=fingerprint(),
        aliases=layout.aliases,
        absent=scan.absent,
        labels=lambda name: _labels(splits[name]),
        notes=tuple(notes),
    )


# Which files


def _scan(folders: dict[str, Path]) -> _Scan:
    """Find the files of the splits; raise UserError where their classes do not do."""
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
    return _Scan(splits, absent, left_out, unreadable)


def _scan_training(root: Path, left_out: Counter, unreadable: list[str]) -> _Split:
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
        loose = f" It holds {images_told(n)} itself." if (n := loose_images(root)) else ""
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


def _in_order(root: Path, class_names: tuple[str, ...], by_label) -> _Split:
    files = [(name, label, stat) for label, found in by_label for name, stat in found]
    files.sort(key=lambda file: hashlib.sha256(os.fsencode(file[0])).digest())
    return _Split(root, class_names, tuple(files))


def _unlabelled(folder: Path, train: _Split) -> str:
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
    text = f"{root} has a single class folder, {some([name])} ({images_told(len(files))})"
    if loose := loose_images(root):
        text += f", beside {images_told(loose)}"
    text += ". Expected one folder of images per class."
    if found := below(root / name):
        place, names = found
        return f"{text} In {place} are {some(names)}: if that is meant, name folder:{place}."
    return f"{text} Sort the images into one folder per class."


def _doubts(splits: dict[str, _Split]) -> Iterator[str]:
    """Notes on what may be meant otherwise: classes that look like others, files used twice."""
    train = splits["train"]
    known = {}
    for name in train.class_names:
        if (first := known.setdefault(name.casefold().strip(), name)) != name:
            yield f"the classes {some([first])} and {some([name])} differ by the writing only"
    for (first, a), (second, b) in combinations(splits.items(), 2):
        if shared := len(_inodes(a) & _inodes(b)):
            yield f"{images_told(shared)} of {second} are also in {first}, through links"
    if twice := len(train.files) - len(_inodes(train)):
        yield f"{images_told(twice)} of train stand there twice, through links"
    inside = [set() for _ in train.class_names]
    for name, label, _ in train.files:
        inside[label].add(name.split("/")[1] if name.count("/") > 1 else "")
    same = set.intersection(*inside)
    if len(same) > 1 and "" not in same:
        what = "are they classes?"
        if named_like_splits(same):
            what = "all images are for training"
        yield f"all of {some(train.class_names)} hold the folders {some(sorted(same))}: {what}"


def _inodes(split: _Split) -> set:
    """What tells files apart, whatever they are called; of a system without, the names."""
    return {(s.st_dev, s.st_ino) if s.st_ino else file for file, _, s in split.files}


# Damaged files


def _find_damaged(splits: dict[str, _Split], decode: Callable) -> list[tuple[str, str, str]]:
    """Try all files: (name with that of the split, path, reason) of each that is damaged."""
    work = [
        (f"{name}/{f}", split.root / f) for name, split in splits.items() for f, *_ in split.files
    ]

    def reason(item: tuple[str, Path]) -> str:
        found = image_files.try_decoding(item[1], decode)
        return found if isinstance(found, str) else ""

    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, "decode") as pool, progress_bar(len(work), "Checking") as bar:
        found = []
        for (name, path), why in zip(work, pool.map(reason, work), strict=True):
            found += [(name, str(path), why)] if why else []
            bar.update()
    return found


def _damaged_of(splits, decode, label: str, fingerprint: str, cache_dir) -> list:
    """As `_find_damaged`, from the cache where nothing has changed since."""

    def is_valid(value: object) -> bool:
        return all(len(one) == 3 and all(isinstance(s, str) for s in one) for one in value)

    told = "The names of damaged files are", "tries all files"
    build = partial(_find_damaged, splits, decode)
    return cached_json(label, fingerprint, build, is_valid, cache_dir, told)


def _without(split: _Split, name: str, damaged: Sequence) -> _Split:
    names = {file for file, _, _ in damaged}
    files = tuple(file for file in split.files if f"{name}/{file[0]}" not in names)
    lost = {label for _, label, _ in split.files} - {label for _, label, _ in files}
    if lost and (name == "train" or not files):
        classes = some(split.class_names[label] for label in sorted(lost))
        raise UserError(
            f"Every image of {name} is damaged, of the classes {classes}. Replace some of them, or "
            "remove the folders."
        )
    return split._replace(files=files)


def _list_damaged(files: list[str], identity: str, cache_dir: Folder) -> Path | None:
    """Write the names of all damaged files into a file beside the cache; return its path."""
    name = hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]
    place = cache_root(cache_dir) / "damaged" / f"{name}.txt"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(place, "".join(f"{file}\n" for file in files).encode(errors="replace"))
    except OSError:
        return None
    return place


# Decoding


def _open(split: _Split, decode: Callable, channels: Callable, size, damage: Callable) -> Records:
    """Return random access to a split; its first whole image gives the shape, if no size is set."""
    paths, labels = [split.root / file for file, _, _ in split.files], _labels(split)
    # Decoded whole: the EXIF tag that turns an image may stand behind its pixels.
    try:
        shape = size and ((*size, channels()), paths[0])
        like = shape or image_files.first_shape(paths, decode)
    except DamagedFiles as error:
        raise damage(error) from error

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return image_files.decode_all([paths[i] for i in indices], decode, like), labels[indices]

    return Records(like[0], split.class_names, read, damage)


def _labels(split: _Split) -> np.ndarray:
    return np.array([label for _, label, _ in split.files], np.int32)


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
