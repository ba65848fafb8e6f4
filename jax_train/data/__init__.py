"""Data sets of images with labels, by name: `load` and what it returns."""

from jax_train.data.examples import Dataset as Dataset
from jax_train.data.examples import Examples as Examples
from jax_train.data.examples import count_shared as count_shared
from jax_train.data.loading import load as load
from jax_train.data.splits import Splits as Splits
from jax_train.data.splits import load_split as load_split
from jax_train.data.splits import load_splits as load_splits
from jax_train.data.streamed import StreamedDataset as StreamedDataset
