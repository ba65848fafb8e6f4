"""`folder:PATH`: image files sorted into one folder per class, decoded with Pillow."""

import hashlib
import logging
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from stat import S_ISREG

import numpy as np

from jax_train.data_cache import Arrays, fingerprint
from jax_train.data_sources import Records, Source, progress_bar
from jax_train.errors import UserError

SPLITS = ("train", "test", "val", "validation")
SUFFIXES = frozenset(
    [
        ".bmp",
        ".gif",
        ".jfif",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
# Pillow's readers for these; of its others one runs Ghostscript, whatever the file is called.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GREY = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"])
_BLOCK = 256  # files decoded in one go
_REPORTED = 5  # damaged files named in one error

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Split:
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
    size_is_valid = isinstance(image_size, int) and not isinstance(image_size, bool)
    if image_size is not None and not (size_is_valid and image_size > 0):
        raise UserError(
            f"config.data.image_size is {image_size!r}; expected a positive whole number of "
            "pixels, such as --config.data.image_size=64."
        )
    root = Path(path).expanduser()
    if not path or not root.is_dir():
        raise UserError(
            f"config.data.name is 'folder:{path}', but there is no folder {root.absolute()}. "
            "Expected a folder with one folder of images per class."
        )
    splits = _scan(root)
    channels = cache(lambda: 1 if _all_grey(splits) else 3)  # found out when first needed
    marks = (
        (f"{name}/{file}", stat) for name, split in splits.items() for file, _, stat in split.files
    )
    return Source(
        name=f"folder:{path}",
        identity=f"folder {root.resolve()}",
        splits={name: (len(split.files),) for name, split in splits.items()},
        read=lambda name, progress: _read(splits[name], channels(), image_size, progress),
        open=lambda name: _open(splits[name], channels(), image_size),
        fingerprint=fingerprint(marks, image_size, tuple(splits)),
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
            "%s has a folder train with folders of its own, so it is read as splits; left out: %s",
            root,
            ", ".join(others),
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
        before = len(files)
        for relative, stat in image_files(folder, root, ignored):
            files.append((relative, label, stat))
        if len(files) == before:
            empty.append(folder.name)
    if empty:
        left_out = ", ".join(f"{n} x {suffix}" for suffix, n in ignored.most_common(5))
        raise UserError(
            f"No image in {len(empty)} of the {len(classes)} class folders of {root}: "
            f"{', '.join(empty[:10])}{', ...' if len(empty) > 10 else ''}. "
            + (f"Files ignored for their suffix: {left_out}. " if ignored else "")
            + f"Expected files with one of {', '.join(sorted(SUFFIXES))}. Remove the folder or add "
            "images to it."
        )
    files.sort(key=lambda file: hashlib.sha256(os.fsencode(file[0])).digest())
    return _Split(root, tuple(folder.name for folder in classes), tuple(files))


def image_files(folder: Path, root: Path, ignored: Counter) -> Iterable:
    """Yield (path below root with `/`, stat) of the images; count the other files by suffix."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            path = Path(where, name)
            if path.suffix.lower() not in SUFFIXES:
                ignored[path.suffix.lower() or "no suffix"] += 1
                continue
            try:
                stat = path.stat()
            except OSError as error:
                raise UserError(f"{path} cannot be read: {error.strerror}. Remove it.") from error
            if not S_ISREG(stat.st_mode):
                raise UserError(  # reading a pipe would wait for ever
                    f"{path} is a pipe or a device; expected an image file. Remove it."
                )
            yield path.relative_to(root).as_posix(), stat


def _read(split: _Split, channels: int, image_size: int | None, progress: bool) -> Arrays:
    """Decode all images of a split."""
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow only warns of images that would fill the memory up to twice its own limit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        bar = progress_bar(len(split.files), f"Decoding {split.root.name}", progress)
        decode = partial(_decode_or_error, channels=channels, image_size=image_size)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, bar:
            paths = [split.root / file for file, _, _ in split.files]
            # In blocks, so that an error ends the work soon.
            blocks = (paths[i : i + _BLOCK] for i in range(0, len(paths), _BLOCK))
            decoded = (result for block in blocks for result in pool.map(decode, block))
            images = collect(paths, decoded, advance=bar.update)
    return Arrays(images, _labels(split), split.class_names)


def _open(split: _Split, channels: int, image_size: int | None) -> Records:
    """Return random access to a split; its first image gives the shape, if no size is set."""
    decode = partial(_decode_or_error, channels=channels, image_size=image_size)
    labels = _labels(split)
    first = split.root / split.files[0][0]
    if image_size is None:
        # Decoded whole: the EXIF tag that turns an image may stand behind its pixels.
        shape = collect([first], [decode(first)]).shape[1:]
    else:
        shape = (image_size, image_size, channels)

    def read(indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        paths = [split.root / split.files[i][0] for i in indices]
        images = collect(paths, map(decode, paths), like=(shape, first))
        return images, labels[np.asarray(indices)]

    return Records(shape, split.class_names, read)


def _labels(split: _Split) -> np.ndarray:
    return np.array([label for _, label, _ in split.files], np.int32)


def collect(
    paths: list[Path],
    decoded: Iterable,
    *,
    like: tuple[tuple[int, ...], Path] | None = None,
    advance: Callable = lambda _: None,
) -> np.ndarray:
    """Stack the decoded images; raise one error for damaged files or for a size that differs.

    `like` is the shape all must have and the file it was taken from; None: those of the first.
    """
    shape, first = like or (None, None)
    images, damaged = None, []
    for i, (path, result) in enumerate(zip(paths, decoded, strict=True)):
        advance(1)
        if isinstance(result, Exception):
            damaged.append(f"{path} ({_reason(path, result)})")
            if len(damaged) == _REPORTED:
                break
            continue
        if damaged:
            continue  # only looking for further damaged files
        if shape is None:
            shape, first = result.shape, path
        if result.shape != shape:
            raise UserError(
                f"{path} is {_size(result.shape)} pixels (width x height), but {first} is "
                f"{_size(shape)}. Resize and crop all images to one side in pixels, for example "
                "with --config.data.image_size=64."
            )
        if images is None:
            images = _allocate(len(paths), shape)
        images[i] = result
    if damaged:
        more = " (and perhaps more)" if len(damaged) == _REPORTED else ""
        raise UserError(
            f"{len(damaged)}{more} image file{'s' if len(damaged) > 1 else ''} cannot be decoded: "
            f"{'; '.join(damaged)}. Replace or remove {'them' if len(damaged) > 1 else 'it'}."
        )
    return images


def _allocate(count: int, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.empty((count, *shape), np.uint8)
    except MemoryError as error:
        gigabytes = count * int(np.prod(shape, dtype=np.int64)) / 1e9
        raise UserError(
            f"{count:,} images of {_size(shape)} pixels need {gigabytes:.1f} GB of memory, more "
            "than there is. Set a smaller side, such as --config.data.image_size=64, or let them "
            f"stream with --config.data.memory_limit={gigabytes / 2:.1f}."
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _all_grey(splits: dict[str, _Split]) -> bool:
    """Return whether every image is stored as grey; reads headers up to the first colour image."""
    from PIL import Image

    with warnings.catch_warnings():
        # Only headers are read here; images that are too large are refused when decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for split in splits.values():
            for name, _, _ in split.files:
                try:
                    with Image.open(split.root / name, formats=formats()) as image:
                        if image.mode not in GREY:
                            return False
                except Exception:  # damaged: reported when it is decoded
                    continue
    return True


@cache
def formats() -> tuple[str, ...]:
    """Those of the formats that this build of Pillow reads; with others it reads none at all."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _decode_or_error(path: Path, *, channels: int, image_size: int | None):
    try:
        return decode_image(path, channels, image_size)
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        return error


def _reason(path: Path, error: Exception) -> str:
    """Say in a few words why a file cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own words are the path again
        return _content(path)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too large: {error}"
    if isinstance(error, MemoryError):
        return "more pixels than there is memory for"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or cut short: {text}" if isinstance(error, OSError | SyntaxError) else text


def _content(path: Path) -> str:
    """What a file that is no image seems to be."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not start:
        return "empty: 0 bytes"
    line = start.decode("utf-8", "replace").strip().partition("\n")[0][:32]
    if line.isprintable() and "\ufffd" not in line:
        return f"no image but text that starts with {line!r}"
    return f"no whole image of the formats {', '.join(formats())}"


def decode_image(path: Path, channels: int, image_size: int | None) -> np.ndarray:
    """Return one image, upright, as uint8 [H, W, channels]."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=formats()) as opened:
        # Pillow itself refuses only twice as many; filters of warnings are not safe in threads.
        if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(
                f"{opened.width}x{opened.height} pixels; expected up to {Image.MAX_IMAGE_PIXELS:,}"
            )
        opened.load()
        try:
            image = ImageOps.exif_transpose(opened)
        except Exception as error:  # readers of EXIF raise many kinds too
            raise ValueError("its EXIF data is damaged; save it without") from error
        if image.mode.startswith("I"):
            image = _upper_byte(image)
        if image.mode == "F":
            raise ValueError("floating-point pixels; expected 8 or 16 bits")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("L" if channels == 1 else "RGB")
        if image_size is not None:
            # Crops first, then resizes: the same view as the other way round, for less work.
            image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(image.height, image.width, channels)


def _upper_byte(image):
    """Return a 16-bit grey image as 8 bits; Pillow's own conversion clips it to white."""
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 0xFFFF:
        raise ValueError("32-bit pixels; expected 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))
