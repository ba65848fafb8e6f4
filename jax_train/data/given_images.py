"""Image files for a trained model: found, and brought to the shape it was trained on."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from jax_train.data import decoding, image_files
from jax_train.data.source import DamagedFiles
from jax_train.errors import UserError
from jax_train.printing import counted

FAR = 4  # a change of size by more than this factor is worth a note
_COLOURFUL = 8  # mean range of R, G, B of a pixel, of 255; grey JPEGs stored as colour stay below


def find_images(
    places: Sequence[str | os.PathLike], left_out: Counter[str] | None = None
) -> list[Path]:
    """Return the image files that are named, and those of the folders that are named.

    Folders are searched with their subfolders, in the order of the names, as by
    `image_files.image_files`. A file that is named itself is taken as it is.

    Args:
      places: files and folders.
      left_out: takes the numbers of the files in the folders that are left out, by reason.

    Raises:
      UserError: a folder holds no image or cannot be searched, or a path does not exist.
    """
    found, left_out = [], Counter() if left_out is None else left_out
    for place in map(Path, places):
        if not os.path.isdir(place):  # Path's own raise on names that are too long
            if not os.path.exists(place):
                raise UserError(f"{place}: there is no such file or folder. Check the path.")
            found.append(place)
            continue
        here = Counter()
        names = sorted(name for name, _ in image_files.image_files(place, place, here))
        if not names:
            told = image_files.expected_files(here)
            raise UserError(f"No image in the folder {place}. {told}")
        left_out.update(here)
        found += [place / name for name in names]
    return found


def try_images(
    paths: Sequence[str | os.PathLike],
    image_shape: tuple[int, int, int],
    max_megapixels: float | None = None,
    fit: Callable | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Read image files of any size and mode, as a `folder:` data set reads them.

    An image is turned upright by its EXIF tag, made grey or RGB, cropped to the shape's ratio
    around its centre, and resized (bilinear, antialiased), which for a square is: the shorter side
    resized, then the centre cropped. Transparency is dropped, 16-bit samples keep their upper
    8 bits, and of an animation the first frame is taken. Files are decoded in threads.

    Args:
      paths: the files, at least one.
      image_shape: height and width in pixels, and channels: 1 (grey) or 3 (RGB).
      max_megapixels: see `decoding.open_image`.
      fit: brings Pillow's image, grey or RGB, to the shape; None: as said above.

    Returns:
      uint8 [n, H, W, C], in the order of `paths`, and the place in `paths` of each file that is
      missing, damaged, no image or too large, with the reason.

    Raises:
      UserError: the channels are others.
    """
    check_channels(image_shape)
    one = partial(try_image, image_shape=image_shape, max_megapixels=max_megapixels, fit=fit)
    with _in_threads() as in_threads:
        found = list(in_threads(one, map(Path, paths)))
    damaged = {place: why for place, why in enumerate(found) if isinstance(why, str)}
    images = [pixels for pixels in found if not isinstance(pixels, str)]
    return np.stack(images) if images else np.empty((0, *image_shape), np.uint8), damaged


def check_channels(image_shape: tuple[int, int, int]) -> None:
    """Raise a UserError where image files cannot be read as a model takes them."""
    if image_shape[2] not in (1, 3):
        raise UserError(
            f"The model takes images of {counted(image_shape[2], 'channel')}; files are read as "
            "grey (1 channel) or RGB (3). Evaluate it on its own data instead."
        )


def try_image(
    file: decoding.ImageFile,
    image_shape: tuple[int, int, int],
    max_megapixels: float | None = None,
    fit: Callable | None = None,
) -> np.ndarray | str:
    """Return one image, uint8 [H, W, C], or why it cannot be read; see `try_images`."""
    decode = partial(_read, image_shape=image_shape, max_megapixels=max_megapixels, fit=fit)
    return decoding.try_decoding(file, decode)


def read_images(
    paths: Sequence[str | os.PathLike],
    image_shape: tuple[int, int, int],
    max_megapixels: float | None = None,
    fit: Callable | None = None,
) -> np.ndarray:
    """Read image files of which each has to be whole: uint8 [N, H, W, C]; see `try_images`.

    Raises:
      UserError: as `try_images`, or a file is no whole image; names up to five.
    """
    images, damaged = try_images(paths, image_shape, max_megapixels, fit)
    if damaged:
        raise DamagedFiles([f"{paths[place]} ({why})" for place, why in damaged.items()])
    return images


def count_differences(
    paths: Sequence[str | os.PathLike],
    image_shape: tuple[int, int, int],
    max_megapixels: float | None = None,
) -> Counter[str]:
    """Count the images that `read_images` had to change in a way that can mislead a model.

    Returns:
      Counts under 'resized' (the shorter side by more than the factor `FAR`), 'colour' (in an
      image read as grey), 'grey' (an image without colour, read as RGB) and 'transparent' (in
      parts; that is dropped).
    """
    with _in_threads() as in_threads:
        found = in_threads(
            lambda path: _differences(Path(path), image_shape, max_megapixels), paths
        )
        return Counter(kind for kinds in found for kind in kinds)


@contextmanager
def _in_threads() -> Iterator[Callable]:
    """Give a `map` over threads. Pillow's warnings are left out: what is damaged is an error."""
    decoding.formats()  # leaves one out for good, and only once
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        yield pool.map


def _read(
    file: decoding.ImageFile,
    image_shape: tuple[int, int, int],
    max_megapixels: float | None,
    fit: Callable | None = None,
) -> np.ndarray:
    if isinstance(file, Path):
        image_files.readable_file(file)
    fit = fit or partial(decoding.fitted, size=tuple(image_shape[:2]))
    return decoding.decode_image(file, image_shape[2], fit, max_megapixels)


def _differences(
    path: Path, image_shape: tuple[int, int, int], max_megapixels: float | None
) -> set[str]:
    kinds = set()
    with decoding.open_image(path, max_megapixels) as image:
        if not 1 / FAR <= min(image.size) / min(image_shape[:2]) <= FAR:
            kinds.add("resized")
        is_grey = image.mode in decoding.GREY
        if image.has_transparency_data and not image.mode.startswith("I"):
            alpha = image.convert("RGBA").getchannel("A")
            kinds |= {"transparent"} if alpha.getextrema()[0] < 255 else set()
    if not is_grey:  # stored as colour, which does not mean that there is any
        colours = _read(path, (*image_shape[:2], 3), max_megapixels)
        spread = colours.max(axis=2).astype(np.float32) - colours.min(axis=2)
        is_grey = spread.mean() <= (_COLOURFUL if image_shape[2] == 1 else 0)
    if is_grey != (image_shape[2] == 1):
        kinds.add("grey" if is_grey else "colour")
    return kinds
