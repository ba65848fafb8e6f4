"""The original archives of CIFAR and MNIST, read without unpacking them to disk.

Archives come from the network, so nothing in them is trusted: no path of theirs is used, only
named regular members are read, and all sizes are bounded.
"""

import gzip
import struct
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from jax_train.errors import UserError

_MAX_MEMBER = 256 * 2**20  # bytes; the largest true member, cifar-100's train.bin, has 154 MB
_MAX_TOTAL = 2**30
_MAX_MEMBERS = 1000  # the true archives have 8 and 5; each costs time, even an empty one
_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)
_NONSENSE = (ValueError, KeyError, IndexError, OverflowError, RecursionError)  # in a tar's headers
_ANOTHER = "The archive is not the original one: fetch it again."


class _Bounded(gzip.GzipFile):
    """An unpacked stream that raises when more is asked of it than the original could hold.

    The sizes in a tar's headers do not do: tarfile reads some headers whole, whatever they declare.
    """

    def read(self, size: int) -> bytes:
        self._check(self.tell() + size)
        return super().read(size)

    def seek(self, place: int, *whence: int) -> int:
        self._check(place)
        return super().seek(place, *whence)

    @staticmethod
    def _check(place: int) -> None:
        if place > _MAX_TOTAL:
            raise tarfile.ReadError("it unpacks to more bytes than the original could hold")


class Contents(NamedTuple):
    """What an archive holds.

    Attributes:
      splits: (name, images uint8 [N, H, W, C], label key -> integers [N]) of each split.
      class_names: label key -> names, where the archive has them.
      with_id: whether the TFDS examples carry an `id`.
    """

    splits: tuple[tuple[str, np.ndarray, dict[str, np.ndarray]], ...]
    class_names: dict[str, list[str]]
    with_id: bool


class Recipe(NamedTuple):
    """How to get a data set: where its files are, and how to read them (file name -> path)."""

    url: str
    files: tuple[str, ...]
    read: Callable[[dict[str, Path]], Contents]


def _read_cifar(paths: dict[str, Path], *, prefix: str, splits: dict, label_files: dict):
    """Read a CIFAR archive in the binary version.

    A record is one byte for each label, then 32x32 bytes of red, of green and of blue
    (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
      paths: the one archive.
      prefix: folder within the archive.
      splits: split -> members, in the order of their records.
      label_files: label key -> (member with the names, number of classes), in a record's order.
    """
    (path,) = paths.values()
    names = [*chain.from_iterable(splits.values()), *(name for name, _ in label_files.values())]
    members = _read_tar(path, {prefix + name for name in names})
    class_names = {}
    for key, (name, count) in label_files.items():
        text = members[prefix + name].decode("utf-8", "replace")
        class_names[key] = [line.strip() for line in text.splitlines() if line.strip()]
        if len(class_names[key]) != count:
            raise UserError(
                f"{path}, member {prefix + name}: {len(class_names[key])} class names; expected "
                f"{count}. {_ANOTHER}"
            )
    read = []
    for split, names in splits.items():
        parts = [_cifar_records(path, prefix + n, members[prefix + n], label_files) for n in names]
        images, labels = map(np.concatenate, zip(*parts, strict=True))
        read.append((split, images, {key: labels[:, i] for i, key in enumerate(label_files)}))
    return Contents(tuple(read), class_names, with_id=True)


def _cifar_records(path: Path, member: str, data: bytes, label_files: dict):
    """Return images [N, 32, 32, 3] and labels [N, label keys] of one member."""
    size = len(label_files) + 3072
    if not data or len(data) % size:
        raise UserError(
            f"{path}, member {member}: {len(data):,} bytes; expected a multiple of the record "
            f"size, {size:,}. {_ANOTHER}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, : len(label_files)]
    for i, (key, (_, count)) in enumerate(label_files.items()):
        _check_labels(labels[:, i], count, f"{path}, member {member}", key)
    pixels = records[:, len(label_files) :].reshape(-1, 3, 32, 32)
    return pixels.transpose(0, 2, 3, 1), labels


def _check_labels(labels: np.ndarray, count: int, where: str, key: str) -> None:
    wrong = np.flatnonzero(labels >= count)
    if len(wrong):
        raise UserError(
            f"{where}: record {wrong[0]} has {key} {labels[wrong[0]]}; expected 0 to {count - 1}. "
            f"{_ANOTHER}"
        )


def _read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the bytes of the wanted members of a .tar.gz."""
    found, total = {}, 0
    try:
        with _Bounded(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for count, member in enumerate(tar):
                total += member.size
                if what := _suspicion(member, count, total, found):
                    raise UserError(
                        f"{path}, member {member.name!r}: {what}; expected regular files only. "
                        f"{_ANOTHER}"
                    )
                if member.name in wanted and not member.isdir():
                    found[member.name] = tar.extractfile(member).read()
            # Only at the end of a gzip file is its checksum compared.
            while file.read(2**20):
                pass
    except UserError:
        raise
    except (*_DAMAGE, *_NONSENSE) as error:
        raise _damaged(path, error) from error
    if missing := sorted(wanted - set(found)):
        raise UserError(
            f"{path} has no member {', '.join(missing)}. Expected the binary version of the "
            "archive (not the one for Python or MATLAB)."
        )
    return found


def _suspicion(member: tarfile.TarInfo, count: int, total: int, found: dict) -> str:
    """Say what no original archive holds, wanted or not; '' if there is nothing of it."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "a path that leads out of the archive"
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        return "a link or a special file"
    if member.size > _MAX_MEMBER or total > _MAX_TOTAL or count >= _MAX_MEMBERS:
        return "more bytes than the original could hold"
    return "a member that stands there twice" if member.name in found else ""


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or cut short ({type(error).__name__}: {error}); expected a whole gzip "
        "file. Fetch it again."
    )


def _read_mnist(paths: dict[str, Path]) -> Contents:
    """Read the four IDX files of MNIST (http://yann.lecun.com/exdb/mnist/)."""
    splits = []
    for split, *files in (("train", *_MNIST[:2]), ("test", *_MNIST[2:])):
        images_path, labels_path = (paths[file] for file in files)
        images = _read_idx(images_path, (28, 28))[..., None]
        labels = _read_idx(labels_path, ())
        if len(images) != len(labels):
            raise UserError(
                f"{images_path} holds {len(images):,} images, but {labels_path} holds "
                f"{len(labels):,} labels; expected as many. Fetch both again."
            )
        _check_labels(labels, 10, str(labels_path), "label")
        splits.append((split, images, {"label": labels}))
    return Contents(tuple(splits), {}, with_id=False)


def _read_idx(path: Path, item: tuple[int, ...]) -> np.ndarray:
    """Return a gzipped IDX file of bytes as uint8 [N, *item]."""
    dims = 1 + len(item)
    start = 4 + 4 * dims
    magic = 0x0800 + dims  # type 8 (unsigned byte) and the number of dimensions
    size = int(np.prod(item, dtype=np.int64))
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(start)
            header = struct.unpack(f">{1 + dims}I", data) if len(data) == start else ()
            declared = header[1] * size if header[:1] == (magic,) else 0
            # One byte more than declared, so that a longer file shows and is not unpacked.
            data += file.read(min(declared, _MAX_MEMBER) + 1)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if header[:1] != (magic,) or header[2:] != item or len(data) != start + declared:
        more = "or more " if len(data) > start + declared else ""
        raise UserError(
            f"{path}: {len(data):,} {more}bytes with the header {header}; expected ({magic}, N"
            f"{''.join(f', {n}' for n in item)}) and then N x {size} bytes. Fetch it again."
        )
    if header[1] == 0:
        raise UserError(f"{path} holds no record. Fetch it again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(header[1], *item)


def _cifar(stem: str, folder: str, splits: dict, label_files: dict) -> Recipe:
    read = partial(_read_cifar, prefix=f"{folder}/", splits=splits, label_files=label_files)
    return Recipe("https://www.cs.toronto.edu/~kriz/", (f"{stem}-binary.tar.gz",), read)


_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_COARSE, _FINE = ("coarse_label_names.txt", 20), ("fine_label_names.txt", 100)
_KINDS = ("images-idx3", "labels-idx1")
_MNIST = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in _KINDS)
RECIPES = {
    "cifar10": _cifar(
        "cifar-10", "cifar-10-batches-bin", _BATCHES, {"label": ("batches.meta.txt", 10)}
    ),
    "cifar100": _cifar(
        "cifar-100",
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        {"coarse_label": _COARSE, "label": _FINE},
    ),
    "mnist": Recipe("https://storage.googleapis.com/cvdf-datasets/mnist/", _MNIST, _read_mnist),
}
