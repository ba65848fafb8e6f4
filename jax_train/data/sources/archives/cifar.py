"""CIFAR-10 and CIFAR-100, in their binary versions."""

from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from jax_train.data.sources.archives.bounded import read_tar
from jax_train.data.sources.archives.recipe import ANOTHER, Contents, Recipe, check_labels
from jax_train.errors import UserError


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
    members = read_tar(path, {prefix + name for name in names})
    class_names = {}
    for key, (name, count) in label_files.items():
        text = members[prefix + name].decode("utf-8", "replace")
        class_names[key] = [line.strip() for line in text.splitlines() if line.strip()]
        if len(class_names[key]) != count:
            raise UserError(
                f"{path}, member {prefix + name}: {len(class_names[key])} class names; expected "
                f"{count}. {ANOTHER}"
            )
    read = []
    for split, names in splits.items():
        parts = [_cifar_records(path, prefix + n, members[prefix + n], label_files) for n in names]
        images, labels = map(np.concatenate, zip(*parts, strict=True))
        read.append((split, images, {key: labels[:, i] for i, key in enumerate(label_files)}))
    return Contents(tuple(read), class_names, id_digits=5)


def _cifar_records(path: Path, member: str, data: bytes, label_files: dict):
    """Return images [N, 32, 32, 3] and labels [N, label keys] of one member."""
    size = len(label_files) + 3072
    if not data or len(data) % size:
        raise UserError(
            f"{path}, member {member}: {len(data):,} bytes; expected a multiple of the record "
            f"size, {size:,}. {ANOTHER}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, : len(label_files)]
    for i, (key, (_, count)) in enumerate(label_files.items()):
        check_labels(labels[:, i], count, f"{path}, member {member}", key)
    pixels = records[:, len(label_files) :].reshape(-1, 3, 32, 32)
    return pixels.transpose(0, 2, 3, 1), labels


def _cifar(stem: str, folder: str, splits: dict, label_files: dict) -> Recipe:
    read = partial(_read_cifar, prefix=f"{folder}/", splits=splits, label_files=label_files)
    return Recipe("https://www.cs.toronto.edu/~kriz/", (f"{stem}-binary.tar.gz",), read)


_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_COARSE, _FINE = ("coarse_label_names.txt", 20), ("fine_label_names.txt", 100)
CIFAR10 = _cifar("cifar-10", "cifar-10-batches-bin", _BATCHES, {"label": ("batches.meta.txt", 10)})
CIFAR100 = _cifar(
    "cifar-100",
    "cifar-100-binary",
    {"train": ["train.bin"], "test": ["test.bin"]},
    {"coarse_label": _COARSE, "label": _FINE},
)
