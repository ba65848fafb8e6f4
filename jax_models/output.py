"""Files as outputs: written whole or not at all, wherever a path leads.

Links are followed, so that the file they name is written and the link stays. Pipes and character
devices are written into: whoever reads there gets the content, and nothing is replaced.
"""

import contextlib
import io
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_STREAMS = {stat.S_IFIFO, stat.S_IFCHR}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a disk"}


def write(path: str | os.PathLike, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file that is never seen half-written, or into the pipe or device of that name.

    A file that is replaced hands its permissions on.

    Args:
      path: of the output.
      content: bytes, or a function that writes them into a binary file.

    Raises:
      OSError: it cannot be written, or the path is that of something else, such as a folder.
    """
    with _opened(Path(path)) as file:
        if callable(content):
            content(file)
        else:
            file.write(content)


def is_stream(path: str | os.PathLike) -> bool:
    """Whether an output to a path goes into something open, such as a pipe; False for a file.

    Raises:
      OSError: it is that of something else, such as a folder or a socket.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    kind = stat.S_IFMT(status.st_mode)
    if kind in _STREAMS or _own_stream(status) is not None:
        return True
    if kind != stat.S_IFREG:
        what = f"is {_KINDS.get(kind, 'no file')}"
        error = IsADirectoryError if kind == stat.S_IFDIR else OSError
        raise error(f"{os.fspath(path)!r} {what}")
    return False


def _own_stream(status: os.stat_result) -> int | None:
    """The number of this process's output that a path names, such as /dev/stdout."""
    for number in (1, 2):
        with contextlib.suppress(OSError):  # it is closed
            if os.path.samestat(status, os.fstat(number)):
                return number
    return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not is_stream(path):
        with _replaced(Path(os.path.realpath(path))) as file:
            yield file
        return
    content = io.BytesIO()  # a stream gets all or nothing, and needs no seeking
    yield content
    own = _own_stream(os.stat(path))
    for printed in (sys.stdout, sys.stderr):  # before it comes what was printed before
        if own is not None and printed is not None:
            printed.flush()
    # A copy of the number shares its place in a file; opened by name, it would start from 0.
    with open(path if own is None else os.dup(own), "wb") as stream:
        stream.write(content.getvalue())


@contextlib.contextmanager
def _replaced(place: Path) -> Iterator[BinaryIO]:
    """A new file that takes this place when it is complete."""
    mode = stat.S_IMODE(place.stat().st_mode) if place.exists() else None
    if mode is not None and not os.access(place, os.W_OK):
        raise PermissionError(f"{os.fspath(place)!r} is read-only")
    temporary = place.with_name(f".{place.name[:50]}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
