"""Original archives, read without trusting what is in them.

They come from the network: no path of theirs is used, only regular members are read, and all sizes
are bounded.
"""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from jax_train.data.sources.archives.recipe import ANOTHER
from jax_train.errors import UserError

DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)
_NONSENSE = (ValueError, KeyError, IndexError, OverflowError, RecursionError)  # in a tar's headers


class Limits(NamedTuple):
    """What an archive may hold: bytes of a member, bytes of all, and members."""

    member: int = 256 * 2**20  # the largest true one of CIFAR, cifar-100's train.bin, has 154 MB
    total: int = 2**30
    members: int = 1000  # CIFAR's have 8 and 5; each costs time, even an empty one


LIMITS = Limits()


class _Bounded(gzip.GzipFile):
    """An unpacked stream that raises when more is asked of it than the original could hold.

    The sizes in a tar's headers do not do: tarfile reads some headers whole, whatever they declare.
    """

    most = 0  # bytes

    def read(self, size: int) -> bytes:
        self._check(self.tell() + size)
        return super().read(size)

    def seek(self, place: int, *whence: int) -> int:
        self._check(place)
        return super().seek(place, *whence)

    def _check(self, place: int) -> None:
        if place > self.most:
            raise tarfile.ReadError("it unpacks to more bytes than the original could hold")


def read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the bytes of the wanted members of a .tar.gz.

    Raises:
      UserError: the archive is damaged or not the original, or a member is missing.
    """
    found = dict(members(path, wanted.__contains__, LIMITS))
    if missing := sorted(wanted - set(found)):
        raise UserError(
            f"{path} has no member {', '.join(missing)}. Expected the binary version of the "
            "archive (not the one for Python or MATLAB)."
        )
    return found


def members(
    path: Path, wanted: Callable[[str], bool], limits: Limits
) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of the wanted members of a .tar.gz, in their order.

    Raises:
      UserError: the archive is damaged, or holds what no original does, wanted or not.
    """
    seen, total = set(), 0
    try:
        with _Bounded(path) as file:
            file.most = limits.total
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for count, member in enumerate(tar):
                    total += member.size
                    too_much = count >= limits.members or total > limits.total
                    too_much |= member.size > limits.member
                    if what := _suspicion(member, too_much, seen):
                        raise UserError(
                            f"{path}, member {member.name!r}: {what}; expected regular files only. "
                            f"{ANOTHER}"
                        )
                    if wanted(member.name) and not member.isdir():
                        seen.add(member.name)
                        yield member.name, tar.extractfile(member).read()
            # Only at the end of a gzip file is its checksum compared.
            while file.read(2**20):
                pass
    except UserError:
        raise
    except (*DAMAGE, *_NONSENSE) as error:
        raise damaged(path, error) from error


def _suspicion(member: tarfile.TarInfo, too_much: bool, seen: set[str]) -> str:
    """Say what no original archive holds; '' if there is nothing of it."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "a path that leads out of the archive"
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        return "a link or a special file"
    if too_much:
        return "more bytes than the original could hold"
    return "a member that stands there twice" if member.name in seen else ""


def damaged(path: Path, error: Exception) -> UserError:
    """The error for an archive that breaks off."""
    return UserError(
        f"{path} is damaged or cut short ({type(error).__name__}: {error}); expected a whole gzip "
        "file. Fetch it again."
    )
