"""scikit-learn's embedded scans of digits."""

import hashlib
from pathlib import Path

import numpy as np

from jax_train.data.contents import Contents, contents_of
from jax_train.data.source import Records, Source


def digits_source() -> Source:
    """Return scikit-learn's embedded scans of digits: 1,797 images of 8x8 grey pixels.

    They stand in an order fixed by a hash of their position. Of that order, sorted by class, every
    fifth is the split `test` (360, each class with its share to within one); `train` holds the
    other 1,437. Pixels 0..16 are scaled to 0..255 and rounded. From the UCI Machine Learning
    Repository, "Optical Recognition of Handwritten Digits" (test part), CC BY 4.0.
    """
    splits = {"train": (1437,), "test": (360,)}
    facts = {"identity": "digits", "splits": splits, "fingerprint": None}
    return Source("digits", open=_open_digits, contents=_contents, **facts)


def _contents(split: str) -> Contents:
    import sklearn.datasets

    file = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    return contents_of([(file.name, file, file.stat().st_size)])


def _open_digits(split: str) -> Records:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = sorted(range(len(labels)), key=lambda i: hashlib.sha256(b"digits %d" % i).digest())
    order = np.array(order)
    held_out = np.zeros(len(labels), bool)  # in the shuffled order
    held_out[np.argsort(labels[order], kind="stable")[::5]] = True
    chosen = order[held_out if split == "test" else ~held_out]
    images = np.rint(pixels[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels[chosen].astype(np.int32)
    return Records((8, 8, 1), tuple("0123456789"), lambda index: (images[index], labels[index]))
