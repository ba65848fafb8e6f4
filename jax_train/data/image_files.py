"""Image files found below a folder."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

from jax_train.data import decoding
from jax_train.errors import UserError
from jax_train.printing import readable, shorten

# Cameras write them beside a JPEG; Pillow reads the small preview in some of them.
_RAW_ENDINGS = "dng nef nrw cr2 arw sr2 srw pef orf rw2 3fr iiq kdc dcr"
_RAW = frozenset(f".{ending}" for ending in _RAW_ENDINGS.split())
# Folders that systems make: of zip files from a Mac, network disks, file managers, notebooks.
_OF_THE_SYSTEM = {"__macosx", "@eadir", "lost+found", "$recycle.bin", "__pycache__"}
_OF_THE_SYSTEM |= {"system volume information"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's images, by its name."""
    return name.startswith(".") or name.casefold() in _OF_THE_SYSTEM


def has_image_ending(name: str) -> bool:
    """Whether a file is taken for an image by its name alone."""
    return Path(name).suffix.lower() in decoding.PLAIN


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
    if suffix in decoding.PLAIN:
        return ""
    if (kind := decoding.OTHER.get(suffix)) and kind in decoding.formats(suffix):
        return ""
    if not is_file:
        return "broken link or no file"
    if suffix not in _RAW and _is_image(path):
        return ""
    cure = decoding.cure_of(kind or decoding.unread_kind(path))
    return f"{shorten(readable(suffix), 16) or 'without ending'}{f' ({cure})' if cure else ''}"


def _is_image(path: Path) -> bool:
    from PIL import Image

    try:
        decoding.open_image(path).close()
    except Image.DecompressionBombError:
        return True  # told when it is decoded
    except Exception:  # Pillow's readers raise many kinds on what is no image
        return False
    return True


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


def readable_file(path: Path) -> None:
    """Raise ValueError, with the reason, where a path is no file that can be opened."""
    try:
        if not S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise ValueError("a folder, a pipe or a device; expected an image file")
        open(path, "rb").close()
    except OSError as error:
        raise ValueError(f"cannot be opened: {error.strerror}") from error
