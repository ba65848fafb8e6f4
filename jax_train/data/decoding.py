"""Image files decoded with Pillow."""

import contextlib
import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from jax_train.data.source import DamagedFiles
from jax_train.errors import UserError
from jax_train.printing import counted

# Pillow's readers and the endings of their files; the likely ones come first: each one tried before
# costs 10 % of the decoding of a small image. Left out are Pillow's readers that run another
# program (EPS, PS: Ghostscript; WMF), and those of measurements and films.
_ALWAYS = {
    "PNG": "png apng",
    "JPEG": "jpg jpeg jfif jpe mpo",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "DIB": "dib",
    "PPM": "pbm pgm pnm ppm",
    "TIFF": "tif tiff",
}
_PERHAPS = {
    "AVIF": "avif avifs",
    "HEIF": "heic heif hif",
    "JPEG2000": "jp2 j2k jpc jpf jpx j2c",
    "JXL": "jxl",
    "QOI": "qoi",
    "PSD": "psd",
}
# Rare: their endings mean other things too. No ICO: Pillow decodes it before one can ask its size.
_BY_CONTENT = ("DDS", "SGI", "SUN", "PCX")
_BY_ENDING = {"TGA": "tga"}  # these files do not say what they are
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # Pillow's
_CURES = {
    "AVIF": "pip install -U pillow",
    "HEIF": "pip install pillow-heif",
    "JXL": "pip install pillow-jxl-plugin",
}


class Encoded(NamedTuple):
    """An image file that is no file of its own.

    Attributes:
      name: for people.
      content: its bytes.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


ImageFile = Path | Encoded


def _endings(kinds: dict[str, str]) -> dict[str, str]:
    return {f".{ending}": kind for kind, endings in kinds.items() for ending in endings.split()}


PLAIN, OTHER = frozenset(_endings(_ALWAYS)), _endings(_PERHAPS | _BY_ENDING)
GREY = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"])


def decode_all(
    paths: Sequence[ImageFile],
    decoders: Iterable[Callable[[ImageFile], np.ndarray]],
    like: tuple[tuple[int, ...], ImageFile],
) -> np.ndarray:
    """Return the images of files as uint8 [n, H, W, C].

    Args:
      paths, decoders: the files, and what gives the pixels of each.
      like: the shape [H, W, C] all must have, and the file it was taken from.

    Raises:
      DamagedFiles: files cannot be decoded.
      UserError: a size differs, or there is not enough memory.
    """
    shape, first = like
    images, damaged = allocate(len(paths), shape, streamed=True), []
    for i, (path, decode) in enumerate(zip(paths, decoders, strict=False)):
        result = try_decoding(path, decode)
        if isinstance(result, str):
            damaged.append(f"{path} ({result})")
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
    paths: Iterable[ImageFile], decode: Callable[[ImageFile], np.ndarray]
) -> tuple[tuple[int, ...], ImageFile]:
    """Return the shape of the first whole file, and the file; or raise DamagedFiles."""
    damaged = []
    for path in paths:
        result = try_decoding(path, decode)
        if not isinstance(result, str):
            return result.shape, path
        damaged.append(f"{path} ({result})")
    raise DamagedFiles(damaged)


def allocate(count: int, shape: tuple[int, ...], streamed: bool = False) -> np.ndarray:
    """Return room for images, uint8 [count, H, W, C]; or raise UserError.

    `streamed` says that they are a few of those that stream already.
    """
    try:
        return np.empty((count, *shape), np.uint8)
    except (MemoryError, ValueError) as error:  # more than there is, or than can be counted
        gigabytes = count * math.prod(shape) / 1e9
        fewer = f"Let them stream with --config.data.memory_limit={gigabytes / 2:.1f}"
        raise UserError(
            f"There is no memory for {counted(count, 'image')} of {_size(shape)} pixels, "
            f"{gigabytes:.1f} GB. {'Take fewer at once' if streamed else fewer}, or give those of "
            "a folder a smaller side, such as --config.data.image_size=64."
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"


@cache
def formats(suffix: str = "") -> tuple[str, ...]:
    """The readers that there are for a file with this ending; with others none is read at all."""
    from PIL import Image

    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401  adds its reader
    # It is refused where it is decoded: filters of warnings are not safe in threads.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    own = (OTHER[suffix],) if OTHER.get(suffix) in _BY_ENDING else ()
    return tuple(name for name in (*_ALWAYS, *_PERHAPS, *_BY_CONTENT, *own) if name in Image.OPEN)


def cure_of(kind: str | None) -> str | None:
    """What to install for a kind of image that Pillow cannot read here; None of all others."""
    return None if kind in formats() else _CURES.get(kind)


def open_image(file: ImageFile | BinaryIO, max_megapixels: float | None = None):
    """Return Pillow's image of a file, its pixels not decoded yet.

    A JPEG of more pixels than the limit will be decoded at half its sides.

    Args:
      file: to open; only a path has an ending that may say what it is.
      max_megapixels: most that are decoded at once, in millions; None: Pillow's MAX_IMAGE_PIXELS.

    Raises:
      DecompressionBombError: more pixels than the limit, or of a JPEG than four times the limit.
      OSError and others: Pillow's, for what is no image that it reads.
    """
    from PIL import Image

    if isinstance(file, Encoded):
        file = io.BytesIO(file.content)
    limit = _most_pixels(max_megapixels)
    kinds = formats(file.suffix.lower() if isinstance(file, Path) else "")
    try:
        image = Image.open(file, formats=kinds)
    except Image.DecompressionBombError:  # of twice Pillow's limit, whichever kind it is
        if not isinstance(file, Path) or (image := _open_jpeg(file)) is None:
            raise
    pixels = image.width * image.height
    if limit and image.format in ("JPEG", "MPO") and limit < pixels <= 4 * limit:
        image.draft(None, (image.width // 2, image.height // 2))
    elif limit and pixels > limit:
        size = f"{image.width}x{image.height}"
        image.close()
        raise Image.DecompressionBombError(
            f"{size} pixels; expected up to {limit:,}, or config.data.max_megapixels"
        )
    return image


class _Raised(int):
    """A limit of pixels in the place of a lower one, `usual`."""

    usual: int | None


def _most_pixels(max_megapixels: float | None) -> int | None:
    """The limit of `open_image`; Pillow's is raised to it, which is one for the whole process."""
    from PIL import Image

    found = Image.MAX_IMAGE_PIXELS
    usual = getattr(found, "usual", found)  # also where others have asked for more before
    if not max_megapixels:
        return usual
    most = _Raised(max_megapixels * 1e6)
    most.usual = usual
    if found and most > found:
        Image.MAX_IMAGE_PIXELS = most
    return most


def _open_jpeg(path: Path):
    """Return a JPEG without Pillow's look at its size; None if it is none."""
    from PIL import JpegImagePlugin

    try:
        return JpegImagePlugin.JpegImageFile(path)
    except SyntaxError:
        return None


def try_decoding(file: ImageFile, decode: Callable[[ImageFile], np.ndarray]) -> np.ndarray | str:
    """Return the pixels that `decode` gives, or why it cannot."""
    try:
        return decode(file)
    except Exception as error:  # Pillow's readers raise many kinds on damaged files
        return _reason(file, error)


def _reason(file: ImageFile, error: Exception) -> str:
    """Say in a few words why a file cannot be decoded."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own words are the path again
        return _content(file)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"too large: {error}"
    if isinstance(error, MemoryError):
        return "more pixels than there is memory for"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"damaged or cut short: {text}" if isinstance(error, OSError | SyntaxError) else text


def _content(file: ImageFile) -> str:
    """What a file that is no image seems to be."""
    try:
        start = _start(file)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not start:
        return "empty: 0 bytes"
    kind = unread_kind(file)
    if cure := cure_of(kind):
        return f"of the kind {kind}, which Pillow reads after {cure}"
    line = start.decode("utf-8", "replace").strip().partition("\n")[0][:32]
    if line.isprintable() and "\ufffd" not in line:
        return f"no image but text that starts with {line!r}"
    return f"no whole image of the formats {', '.join(sorted(_ALWAYS))}"


def _start(file: ImageFile) -> bytes:
    """The first bytes of a file; may raise OSError."""
    if isinstance(file, Encoded):
        return file.content[:64]
    with open(file, "rb") as opened:
        return opened.read(64)


def unread_kind(file: ImageFile) -> str | None:
    """Which kind of image a file is by its first bytes, of those that Pillow may lack."""
    try:
        start = _start(file)
    except OSError:
        return None
    if start[4:8] == b"ftyp":  # ISO 14496-12: the brand follows
        brands = {b"avif": "AVIF", b"avis": "AVIF"}
        heif = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
        return (brands | dict.fromkeys(heif, "HEIF")).get(start[8:12])
    return "JXL" if start[:2] == b"\xff\x0a" or start[4:8] == b"JXL " else None


def resampling(interpolation: str | None):
    """Pillow's filter of a name in `INTERPOLATIONS`; None: bilinear."""
    from PIL import Image

    return Image.Resampling[(interpolation or "bilinear").upper()]


def pixels_of(image) -> np.ndarray:
    """The bytes [H, W, C] of Pillow's image, grey or RGB."""
    return np.asarray(image).reshape(image.height, image.width, len(image.getbands()))


def fitted(image, size: tuple[int, int], interpolation: str | None = None) -> np.ndarray:
    """Bring Pillow's image to a height and width: its central part of that ratio, resized.

    For a square that is: the shorter side resized, then the centre cropped.
    """
    from PIL import ImageOps

    # Crops first, then resizes: the same view as the other way round, for less work.
    return pixels_of(ImageOps.fit(image, size[::-1], resampling(interpolation)))


def decode_image(
    file: ImageFile,
    channels: int,
    fit: Callable | None = None,
    max_megapixels: float | None = None,
) -> np.ndarray:
    """Return one image, upright, as uint8 [H, W, channels]; with `fit`, what that gives of it.

    Args:
      file: to decode.
      channels: 1 (grey) or 3 (RGB).
      fit: Pillow's image -> bytes [H, W, channels], such as `fitted`; None: all pixels.
      max_megapixels: see `open_image`.
    """
    from jax_models.pretrained.preprocessing import upright

    with open_image(file, max_megapixels) as image:
        return (fit or pixels_of)(upright(image, "L" if channels == 1 else "RGB"))
