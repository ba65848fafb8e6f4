"""Image files: found below a folder, and decoded with Pillow."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import numpy as np

from jax_train.data.source import REPORTED, DamagedFiles
from jax_train.errors import UserError

_KINDS = "bmp gif jfif jpeg jpg pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
# Pillow's readers for these; of its others one runs Ghostscript, whatever the file is called. The
# likely ones come first: each one tried before costs 10 % of the decoding of a small image.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "PPM", "TIFF")
GREY = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"])


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


def suffixes_told(ignored: Counter) -> str:
    """Say which files, counted by suffix, are no images, and what the suffix of one can be."""
    left_out = ", ".join(f"{n} x {suffix}" for suffix, n in ignored.most_common(5))
    start = f"Files ignored for their suffix: {left_out}. " if ignored else ""
    return f"{start}Expected files with one of {', '.join(sorted(SUFFIXES))}."


def decode_all(
    paths: Sequence[Path],
    decode: Callable[[Path], np.ndarray],
    like: tuple[tuple[int, ...], Path],
    in_order: Callable = map,
) -> np.ndarray:
    """Return the images of files as uint8 [n, H, W, C].

    Args:
      paths, decode: the files, and what gives the pixels of one.
      like: the shape [H, W, C] all must have, and the file it was taken from.
      in_order: a `map`, perhaps one over threads.

    Raises:
      DamagedFiles: files cannot be decoded.
      UserError: a size differs, or there is not enough memory.
    """
    shape, first = like
    images, damaged = allocate(len(paths), shape), []
    results = in_order(lambda path: _pixels_or_damage(path, decode), paths)
    for i, (path, result) in enumerate(zip(paths, results, strict=True)):
        if isinstance(result, str):
            damaged.append(result)
            if len(damaged) == REPORTED:
                break
        elif damaged:
            continue  # only looking for further damaged files
        elif result.shape != shape:
            raise UserError(
                f"{path} is {_size(result.shape)} pixels (width x height), but {first} is "
                f"{_size(shape)}. Resize and crop all images to one side in pixels, for example "
                "with --config.data.image_size=64."
            )
        else:
            images[i] = result
    if damaged:
        raise DamagedFiles(damaged)
    return images


def first_shape(
    paths: Sequence[Path], decode: Callable[[Path], np.ndarray]
) -> tuple[tuple[int, ...], Path]:
    """Return the shape of the first whole file, and the file; or raise DamagedFiles."""
    damaged = []
    for path in paths[:REPORTED]:
        result = _pixels_or_damage(path, decode)
        if not isinstance(result, str):
            return result.shape, path
        damaged.append(result)
    raise DamagedFiles(damaged)


def allocate(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return room for images, uint8 [count, H, W, C]; or raise UserError."""
    try:
        return np.empty((count, *shape), np.uint8)
    except MemoryError as error:
        gigabytes = count * int(np.prod(shape, dtype=np.int64)) / 1e9
        raise UserError(
            f"{count:,} images of {_size(shape)} pixels need {gigabytes:.1f} GB of memory, more "
            f"than there is. Let them stream with --config.data.memory_limit={gigabytes / 2:.1f}, "
            "or give those of a folder a smaller side, such as --config.data.image_size=64."
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


@cache
def formats() -> tuple[str, ...]:
    """Those of the formats that this build of Pillow reads; with others it reads none at all."""
    from PIL import Image

    Image.init()
    # It is refused where it is decoded: filters of warnings are not safe in threads.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def open_image(file: Path | BinaryIO):
    """Return Pillow's image of a file, its pixels not decoded yet."""
    from PIL import Image

    return Image.open(file, formats=formats())


def _pixels_or_damage(path: Path, decode: Callable[[Path], np.ndarray]) -> np.ndarray | str:
    try:
        return decode(path)
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        return f"{path} ({_reason(path, error)})"


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
    return f"no whole image of the formats {', '.join(sorted(formats()))}"


def decode_image(path: Path, channels: int, size: tuple[int, int] | None) -> np.ndarray:
    """Return one image, upright, as uint8 [H, W, channels]; H and W as of `size`, if any."""
    from PIL import Image, ImageOps

    with open_image(path) as opened:
        # Pillow itself refuses only twice as many.
        if Image.MAX_IMAGE_PIXELS and opened.width * opened.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(
                f"{opened.width}x{opened.height} pixels; expected up to {Image.MAX_IMAGE_PIXELS:,}"
            )
        opened.load()
        try:
            image = ImageOps.exif_transpose(opened)
        except Exception as error:  # readers of EXIF raise many kinds too
            raise ValueError("its EXIF data is damaged; save it without") from error
        if image.mode.startswith("I"):  # Pillow's own conversion of 16 bits clips them to white
            pixels = np.asarray(image)
            if pixels.min() < 0 or pixels.max() > 0xFFFF:
                raise ValueError("32-bit pixels; expected 8 or 16 bits")
            image = Image.fromarray((pixels >> 8).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("floating-point pixels; expected 8 or 16 bits")
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("L" if channels == 1 else "RGB")
        if size is not None:
            # Crops first, then resizes: the same view as the other way round, for less work.
            image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(image.height, image.width, channels)
