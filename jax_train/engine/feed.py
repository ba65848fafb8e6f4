"""How batches reach a compiled step: gathered from a split on the device, or streamed to it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_train import data
from jax_train.data.crops import Crops, cuts_whole_files
from jax_train.engine import steps
from jax_train.engine.checks import follows_examples, output_size
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import Recipe
from jax_train.engine.state import Data

Calls = Iterator[tuple[int, tuple]]


def even_batch(count: int, most: int, unit: int = 1) -> int:
    """Size of the batches that examples are evaluated in, of one size to be compiled once.

    As few batches as can be and hardly any filler: less than a `unit` for each of them.

    Args:
      count: of the examples, at least 1.
      most: of them in a batch, rounded up to the unit.
      unit: that divides the size, such as the number of devices.
    """
    batches = -(-count // (-(-most // unit) * unit))
    return -(-count // (batches * unit)) * unit


def padded(images: np.ndarray, size: int) -> np.ndarray:
    """Images [n,...], n at least 1, filled up to `size` with the last one."""
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])


class Resident:
    """A split in memory that lies whole on every device; a step gathers its batch by index."""

    batch_argument = None

    def __init__(self, split: data.Dataset, layout: Layout):
        self._layout, self.count = layout, len(split)
        arrays = Data(np.asarray(split.images), np.asarray(split.labels, np.int32))
        self.arrays = layout.replicate(arrays)

    def train_function(self, recipe: Recipe, length: int) -> Callable:
        """`length` steps: (state, sums, *call) -> (state, sums)."""
        return functools.partial(steps.train_steps, recipe, length)

    def train_calls(self, order: jax.Array, epoch: int, first: int, steps_per_call: int) -> Calls:
        """Number of steps and arguments of each call from step `first` of an epoch on."""
        for start in range(first, len(order), steps_per_call):
            yield min(steps_per_call, len(order) - start), (self.arrays, order)

    def eval_function(self, recipe: Recipe, batch_size: int) -> Callable:
        """(params, stats, sums, *call) -> sums."""
        return functools.partial(steps.eval_step, recipe, batch_size)

    def eval_calls(self, batch_size: int) -> Iterator[tuple]:
        """Arguments of each call over the whole split."""
        for start in range(0, self.count, batch_size):
            yield self.arrays, self._layout.replicate(np.int32(start))


class Streamed:
    """A split larger than memory, read batch by batch, each process its own share.

    Args:
      split: to be read.
      layout: of the devices.
      crops: epoch -> the crops to train on, cut out of whole files; None: stored images.
      with_index: whether a training batch has its `index`, see `state.Data`.
    """

    batch_argument = 0  # among the arguments of a call
    arrays = ()

    def __init__(
        self,
        split,
        layout: Layout,
        crops: Callable[[int], Crops] | None = None,
        with_index: bool = False,
    ):
        self._split, self._layout, self.count = split, layout, len(split)
        self._crops, self._with_index = crops, with_index

    def train_function(self, recipe: Recipe, length: int) -> Callable:
        """As in `Resident`, of one step."""
        if self._crops:
            augmentation = recipe.augmentation._replace(train=recipe.augmentation.train_cropped)
            recipe = dataclasses.replace(recipe, augmentation=augmentation)
        return functools.partial(steps.train_on_batch, recipe)

    def train_calls(self, order: jax.Array, epoch: int, first: int, steps_per_call: int) -> Calls:
        """As in `Resident`; a call is one step."""
        order = np.asarray(order)
        here = np.s_[first:, :, self._layout.local_places(order.shape[2])]
        how = {}
        if self._crops:
            how = {"crops": self._crops(epoch), "copies": _copies(order)[here]}
        order = order[here]
        with contextlib.closing(self._split.batches(order, **how)) as batches:
            for batch, index in zip(batches, order, strict=True):
                if self._with_index:
                    batch = (*batch, index.astype(np.int32))
                yield 1, (Data(*(self._layout.put_batch(array, 1) for array in batch)),)

    def eval_function(self, recipe: Recipe, batch_size: int) -> Callable:
        """As in `Resident`."""
        return functools.partial(steps.eval_on_batch, recipe)

    def eval_calls(self, batch_size: int) -> Iterator[tuple]:
        """As in `Resident`."""
        count = self.count
        starts = np.arange(0, count, batch_size)
        places = starts[:, None] + self._layout.local_places(batch_size)
        order = np.where(places < count, places, 0)
        with contextlib.closing(self._split.batches(order)) as batches:
            for start, batch in zip(starts, batches, strict=True):
                spread = Data(*(self._layout.put_batch(array, 0) for array in batch))
                yield spread, self._layout.replicate(np.int32(min(batch_size, count - start)))


def _copies(order: np.ndarray) -> np.ndarray:
    """Which one of those of its example, from 0 on, each entry of an epoch's order is."""
    flat = order.ravel()
    by_example = np.argsort(flat, kind="stable")
    ranked = flat[by_example]
    copies = np.empty(flat.size, np.int64)
    copies[by_example] = np.arange(flat.size) - np.searchsorted(ranked, ranked)
    return copies.reshape(order.shape)


def create(split, layout: Layout) -> Resident | Streamed:
    """The feed that fits a split, for evaluation."""
    return (Streamed if split.streamed else Resident)(split, layout)


def create_training(split, layout: Layout, config: ConfigDict) -> Resident | Streamed:
    """The feed that fits a training split."""
    if not split.streamed:
        return Resident(split, layout)
    crops = crops_of(config, split) if cuts_whole_files(config, split) else None
    return Streamed(split, layout, crops, follows_examples(config.augment))


def crops_of(config: ConfigDict, split) -> Callable[[int], Crops]:
    """Epoch -> the crops of a split's whole files."""
    fields = config.augment
    size = output_size(fields, *split.image_shape[:2])
    how = {"size": size, "area": fields.random_resized_crop, "aspect": fields.aspect_ratio}
    how |= {"seed": config.seed, "interpolation": fields.interpolation or "bilinear"}
    return lambda epoch: Crops(epoch=epoch, **how)
