"""MNIST and Fashion-MNIST, in IDX files."""

import gzip
import struct
from pathlib import Path

import numpy as np

from jax_train.data.sources.archives.bounded import DAMAGE, LIMITS, damaged
from jax_train.data.sources.archives.recipe import Contents, Recipe, check_labels
from jax_train.errors import UserError


def _read_mnist(paths: dict[str, Path]) -> Contents:
    """Read the four IDX files of MNIST (http://yann.lecun.com/exdb/mnist/) or of its likes."""
    splits = []
    for split, *files in (("train", *_FILES[:2]), ("test", *_FILES[2:])):
        images_path, labels_path = (paths[file] for file in files)
        images = _read_idx(images_path, (28, 28))[..., None]
        labels = _read_idx(labels_path, ())
        if len(images) != len(labels):
            raise UserError(
                f"{images_path} holds {len(images):,} images, but {labels_path} holds "
                f"{len(labels):,} labels; expected as many. Fetch both again."
            )
        check_labels(labels, 10, str(labels_path), "label")
        splits.append((split, images, {"label": labels}))
    return Contents(tuple(splits), {})


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
            data += file.read(min(declared, LIMITS.member) + 1)
    except DAMAGE as error:
        raise damaged(path, error) from error
    if header[:1] != (magic,) or header[2:] != item or len(data) != start + declared:
        more = "or more " if len(data) > start + declared else ""
        raise UserError(
            f"{path}: {len(data):,} {more}bytes with the header {header}; expected ({magic}, N"
            f"{''.join(f', {n}' for n in item)}) and then N x {size} bytes. Fetch it again."
        )
    if header[1] == 0:
        raise UserError(f"{path} holds no record. Fetch it again.")
    return np.frombuffer(data, np.uint8, offset=start).reshape(header[1], *item)


_KINDS = ("images-idx3", "labels-idx1")
_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in _KINDS)
MNIST = Recipe("https://storage.googleapis.com/cvdf-datasets/mnist/", _FILES, _read_mnist)
FASHION_MNIST = Recipe(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", _FILES, _read_mnist
)
