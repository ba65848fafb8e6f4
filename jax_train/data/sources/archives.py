"""The original archives of CIFAR and MNIST, read without unpacking them to disk.

Archives come from the network, so nothing in them is trusted: no path of theirs is used, only
named regular members are read, and all sizes are bounded.
"""

import gzip
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from jax_train.errors import UserError

_MAX_MEMBER = 256 * 2**20  # bytes; the largest true member, cifar-100's train.bin, has 154 MB
_MAX_TOTAL = 2**30
_MAX_MEMBERS = 1000  # the true archives have 8 and 5; each costs time, even an empty one
_DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error)


class _Bounded:
    """An unpacked stream that raises when more is asked of it than the original could hold.

    The sizes in a tar's headers do not do: tarfile reads some headers whole, whatever they declare.
    """

    def __init__(self, file):
        self._file = file
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        self._check(self.tell() + size)
        return self._file.read(size)

    def seek(self, place: int) -> int:
        self._check(place)
        return self._file.seek(place)

    @staticmethod
    def _check(place: int) -> None:
        if place > _MAX_TOTAL:
            raise tarfile.ReadError("it unpacks to more bytes than the original could hold")


@dataclass(frozen=True)
class Contents:
    """What an archive holds.

    Attributes:
      splits: (name, images uint8 [N, H, W, C], label key -> integers [N]) of each split.
      class_names: label key -> names, where the archive has them.
      with_id: whether the TFDS examples carry an `id`.
    """

    splits: tuple[tuple[str, np.ndarray, dict[str, np.ndarray]], ...]
    class_names: dict[str, list[str]]
    with_id: bool


@dataclass(frozen=True)
class Recipe:
    """How to get a data set: where its files are, and how to read them (file name -> path)."""

    name: str
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
      label_files: label key -> (member with the names, number of classes), in the order of the
        label bytes of a record.
    """
    (path,) = paths.values()
    names = [name for members in splits.values() for name in members]
    names += [name for name, _ in label_files.values()]
    members = _read_tar(path, {prefix + name for name in names})
    class_names = {}
    for key, (name, count) in label_files.items():
        text = members[prefix + name].decode("utf-8", "replace")
        class_names[key] = [line.strip() for line in text.splitlines() if line.strip()]
        if len(class_names[key]) != count:
            raise UserError(
                f"{path}, member {prefix + name}: {len(class_names[key])} class names; expected "
                f"{count}. The archive is not the original one: fetch it again."
            )
    read = []
    for split, names in splits.items():
        parts = [_cifar_records(path, prefix + n, members[prefix + n], label_files) for n in names]
        images = np.concatenate([images for images, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        read.append((split, images, {key: labels[:, i] for i, key in enumerate(label_files)}))
    return Contents(tuple(read), class_names, with_id=True)


def _cifar_records(path: Path, member: str, data: bytes, label_files: dict):
    """Return images [N, 32, 32, 3] and labels [N, label keys] of one member."""
    size = len(label_files) + 3072
    if not data or len(data) % size:
        raise UserError(
            f"{path}, member {member}: {len(data):,} bytes; expected a multiple of the record "
            f"size, {size:,}. The archive is not the original one: fetch it again."
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
            "The archive is not the original one: fetch it again."
        )


def _read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Return the bytes of the wanted members of a .tar.gz."""
    found, total = {}, 0
    try:
        with gzip.open(path, "rb") as file, tarfile.open(fileobj=_Bounded(file), mode="r:") as tar:
            for count, member in enumerate(tar):
                total += member.size
                _check_member(path, member, count, total)
                if member.isdir():
                    continue
                if member.name in found:
                    raise _suspect(path, member, "a member that stands there twice")
                if member.name in wanted:
                    found[member.name] = tar.extractfile(member).read()
            # Only at the end of a gzip file is its checksum compared.
            rest = _Bounded(file)
            while rest.read(2**20):
                pass
    except UserError:
        raise
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    except (ValueError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise _damaged(path, error) from error  # tarfile on headers that make no sense
    if missing := sorted(wanted - set(found)):
        raise UserError(
            f"{path} has no member {', '.join(missing)}. Expected the binary version of the "
            "archive (not the one for Python or MATLAB)."
        )
    return found


def _check_member(path: Path, member: tarfile.TarInfo, count: int, total: int) -> None:
    """Refuse what no original archive holds, wanted or not."""
    parts = PurePosixPath(member.name)
    if parts.is_absolute() or ".." in parts.parts:
        raise _suspect(path, member, "a path that leads out of the archive")
    if not (member.isdir() or (member.isreg() and not member.issparse())):
        raise _suspect(path, member, "a link or a special file")
    if member.size > _MAX_MEMBER or total > _MAX_TOTAL or count >= _MAX_MEMBERS:
        raise _suspect(path, member, "more bytes than the original could hold")


def _suspect(path: Path, member: tarfile.TarInfo, what: str) -> UserError:
    return UserError(
        f"{path}, member {member.name!r}: {what}; expected regular files only. The archive is not "
        "the original one: fetch it again."
    )


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged or cut short ({type(error).__name__}: {error}); expected a whole gzip "
        "file. Fetch it again."
    )


def _read_mnist(paths: dict[str, Path]) -> Contents:
    """Read the four IDX files of MNIST (http://yann.lecun.com/exdb/mnist/)."""
    splits = []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_path = paths[f"{prefix}-images-idx3-ubyte.gz"]
        labels_path = paths[f"{prefix}-labels-idx1-ubyte.gz"]
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


_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
RECIPES = {
    "cifar10": Recipe(
        "cifar10",
        _CIFAR_URL,
        ("cifar-10-binary.tar.gz",),
        partial(
            _read_cifar,
            prefix="cifar-10-batches-bin/",
            splits={
                "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
                "test": ["test_batch.bin"],
            },
            label_files={"label": ("batches.meta.txt", 10)},
        ),
    ),
    "cifar100": Recipe(
        "cifar100",
        _CIFAR_URL,
        ("cifar-100-binary.tar.gz",),
        partial(
            _read_cifar,
            prefix="cifar-100-binary/",
            splits={"train": ["train.bin"], "test": ["test.bin"]},
            label_files={
                "coarse_label": ("coarse_label_names.txt", 20),
                "label": ("fine_label_names.txt", 100),
            },
        ),
    ),
    "mnist": Recipe(
        "mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        (
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
        ),
        _read_mnist,
    ),
}
