"""Image files: found below a folder, and decoded with Pillow."""

import contextlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, NamedTuple

import numpy as np

from jax_train.data.source import DamagedFiles
from jax_train.errors import UserError
from jax_train.printing import readable, shorten

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
_BY_CONTENT = ("ICO", "DDS", "SGI", "SUN", "PCX")  # rare: their endings mean other things too
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


_PLAIN, _OTHER = frozenset(_endings(_ALWAYS)), _endings(_PERHAPS | _BY_ENDING)
# Cameras write them beside a JPEG; Pillow reads the small preview in some of them.
_RAW = frozenset(_endings({"RAW": "dng nef nrw cr2 arw sr2 srw pef orf rw2 3fr iiq kdc dcr"}))
GREY = frozenset(["1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"])
# Folders that systems make: of zip files from a Mac, network disks, file managers, notebooks.
_OF_THE_SYSTEM = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "__pycache__"}
_OF_THE_SYSTEM |= {"system volume information"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's images, by its name."""
    return name.startswith(".") or name.casefold() in _OF_THE_SYSTEM


def has_image_ending(name: str) -> bool:
    """Whether a file is taken for an image by its name alone."""
    return Path(name).suffix.lower() in _PLAIN


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is that of a run of this project, begun or finished."""
    if os.path.isfile(folder / "config.json") and os.path.isdir(folder / "checkpoints"):
        return True
    if not os.path.isfile(folder / ".lock"):
        return False
    names = {entry.name for entry in list_folder(folder)}  # it may have been cut off at once
    return all(name in (".lock", "data.json") or name.endswith(".part") for name in names)


def list_folder(folder: Path) -> list[os.DirEntry]:
    """Return what a folder holds, in the order of the names.

    Raises:
      UserError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read: {error.strerror}. Allow it, or move it away."
        ) from error


def image_files(
    folder: Path, root: Path, left_out: Counter
) -> Iterator[tuple[str, os.stat_result | None]]:
    """Find the images below a folder, also behind links to folders; each folder once.

    What has an image's ending is taken to be one; of other files those that Pillow knows by their
    content.

    Args:
      folder: to search; hidden files and folders, and folders of runs, are left out.
      root: `folder` or a folder above it.
      left_out: takes the numbers of the files that are left out, by reason.

    Yields:
      (path below root with `/`, stat); None where a file with an image's ending cannot be read:
      a broken link, a pipe, a device.

    Raises:
      UserError: a folder cannot be read.
    """
    for path in _files(folder, root, left_out):
        try:
            stat = path.stat()
        except OSError:
            stat = None
        if stat is not None and not S_ISREG(stat.st_mode):
            stat = None  # reading a pipe would wait for ever
        if reason := _why_not(path, stat is not None):
            left_out[reason] += 1
        else:
            yield path.relative_to(root).as_posix(), stat


def _files(folder: Path, root: Path, left_out: Counter) -> Iterator[Path]:
    """Yield what is no folder; links to folders are followed last, so that names stay."""
    here, above = (Path(os.path.realpath(place)) for place in (folder, root))
    # Links to them would never end, or lead to the other classes.
    seen = set(map(str, (*here.parents, *above.parents, above))) - {str(here)}
    pending, links = [folder], []
    while pending or links:
        where = pending.pop() if pending else links.pop(0)
        if (real := os.path.realpath(where)) in seen:
            continue
        seen.add(real)
        if is_run_folder(where):
            left_out["run folder"] += 1
            continue
        for entry in list_folder(where):
            if is_hidden(entry.name):
                left_out["hidden"] += has_image_ending(entry.name)
            elif not is_folder(entry):
                yield Path(entry.path)
            else:
                (links if entry.is_symlink() else pending).append(Path(entry.path))


def is_folder(entry: os.DirEntry) -> bool:
    """Whether it is a folder or a link to one."""
    with contextlib.suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def _why_not(path: Path, is_file: bool) -> str:
    """Say why a file is no image to read; '' if it is one, or should be by its ending."""
    suffix = path.suffix.lower()
    if suffix in _PLAIN:
        return ""
    if (kind := _OTHER.get(suffix)) and kind in formats(suffix):
        return ""
    if not is_file:
        return "broken link or no file"
    if suffix not in _RAW and _is_image(path):
        return ""
    kind = kind or _unread_kind(path)
    cure = f" ({_CURES[kind]})" if kind in _CURES and kind not in formats() else ""
    return f"{shorten(readable(suffix), 16) or 'without ending'}{cure}"


def _is_image(path: Path) -> bool:
    from PIL import Image

    try:
        open_image(path).close()
    except Image.DecompressionBombError:
        return True  # told when it is decoded
    except Exception:  # Pillow's readers raise many kinds on what is no image
        return False
    return True


def _start(file: ImageFile) -> bytes:
    """The first bytes of a file; may raise OSError."""
    if isinstance(file, Encoded):
        return file.content[:64]
    with open(file, "rb") as opened:
        return opened.read(64)


def _unread_kind(file: ImageFile) -> str | None:
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


def told(left_out: Counter) -> str:
    """Say what was left out, by reason, the most frequent first; '' if nothing was."""
    reasons = {reason: n for reason, n in left_out.most_common() if n}
    parts = [f"{n:,} x {reason}" for reason, n in list(reasons.items())[:6]]
    if len(reasons) > len(parts):
        parts.append(f"{sum(list(reasons.values())[6:]):,} others")
    return f"left out: {', '.join(parts)}" if parts else ""


def expected_files(left_out: Counter) -> str:
    """Say what was found instead of images, and which are read."""
    start = f"{told(left_out).capitalize()}. " if told(left_out) else ""
    return f"{start}Expected images that Pillow can read, such as .jpg, .png or .webp."


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
    images, damaged = allocate(len(paths), shape), []
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
    own = (_OTHER[suffix],) if _OTHER.get(suffix) in _BY_ENDING else ()
    return tuple(name for name in (*_ALWAYS, *_PERHAPS, *_BY_CONTENT, *own) if name in Image.OPEN)


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
    if max_megapixels and Image.MAX_IMAGE_PIXELS:  # of the whole process: it is what was asked for
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(max_megapixels * 1e6))
    limit = int(max_megapixels * 1e6) if max_megapixels else Image.MAX_IMAGE_PIXELS
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
    kind = _unread_kind(file)
    if kind and kind not in formats():
        return f"of the kind {kind}, which Pillow reads after {_CURES[kind]}"
    line = start.decode("utf-8", "replace").strip().partition("\n")[0][:32]
    if line.isprintable() and "\ufffd" not in line:
        return f"no image but text that starts with {line!r}"
    return f"no whole image of the formats {', '.join(sorted(_ALWAYS))}"


def readable_file(path: Path) -> None:
    """Raise ValueError, with the reason, where a path is no file that can be opened."""
    try:
        if not S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise ValueError("a folder, a pipe or a device; expected an image file")
        open(path, "rb").close()
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror}") from error


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
    from PIL import Image, ImageOps

    mode = "L" if channels == 1 else "RGB"
    with open_image(file, max_megapixels) as image:
        image.load()
        try:
            ImageOps.exif_transpose(image, in_place=True)  # a copy takes time
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
        return (fit or pixels_of)(image if image.mode == mode else image.convert(mode))
