"""What a data set consists of: its files by name, size and checksum, wherever they lie."""

import zlib
from collections.abc import Iterable
from pathlib import Path

# By name of a file, in the order of the examples: size in bytes, and CRC-32 or None.
Contents = dict[str, list[int | None]]

# Up to here all bytes are read at every start: a second at most. Above, sizes have to do.
_READ_BYTES, _READ_FILES = 256e6, 10_000


def contents_of(files: Iterable[tuple[str, Path, int]]) -> Contents:
    """Describe files given as (name, path, size in bytes); names say nothing of where they lie.

    Of more than 256 MB or 10,000 files the bytes are not read: a file that is replaced by another
    one of the same name and size then looks the same.
    """
    files = list(files)
    read = len(files) <= _READ_FILES and sum(size for _, _, size in files) <= _READ_BYTES
    return {name: [size, _checksum(path) if read else None] for name, path, size in files}


def _checksum(path: Path) -> int | None:
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:  # told when it is decoded
        return None
