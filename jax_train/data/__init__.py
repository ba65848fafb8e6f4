"""Data sets of images with labels, by name: `load` and what it returns."""

from jax_train.data.examples import Dataset, Examples, count_shared
from jax_train.data.loading import load
from jax_train.data.splits import Splits, load_split, load_splits
from jax_train.data.streamed import StreamedDataset

__all__ = [
    "Dataset",
    "Examples",
    "Splits",
    "StreamedDataset",
    "count_shared",
    "load",
    "load_split",
    "load_splits",
]
