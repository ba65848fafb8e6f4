"""Counts of a data set's classes; counts, mean and standard deviation of its pixels."""

from __future__ import annotations

import math

import numpy as np

from jax_train.data.cache import cached_json
from jax_train.data.examples import Dataset
from jax_train.data.streamed import StreamedDataset, whole_pass


def channel_statistics(
    dataset: Dataset | StreamedDataset,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the images, scaled to [0, 1]."""
    mean, deviation, values = [], [], np.arange(256) / 255
    for count in channel_counts(dataset):
        mean.append(float(count @ values / count.sum()))
        variance = float(count @ (values - mean[-1]) ** 2 / count.sum())
        deviation.append(max(variance, 1e-12) ** 0.5)
    return tuple(round(m, 6) for m in mean), tuple(round(d, 6) for d in deviation)


def channel_counts(dataset: Dataset | StreamedDataset) -> np.ndarray:
    """Return how often each channel has each value, over the whole data set: int64 [C, 256].

    Of a streamed data set this takes a pass over all images; the result is cached.

    Raises:
      UserError: a file or record of a streamed data set is damaged; names it.
    """
    channels = dataset.image_shape[2]

    def build() -> list[list[int]]:
        counts = np.zeros((channels, 256), np.int64)
        # One block at a time: `bincount` makes 8 bytes of each.
        for images, _ in whole_pass(dataset, f"Measuring {dataset.split}"):
            for channel in range(channels):
                counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)
        return counts.tolist()

    def is_valid(value) -> bool:
        counts = np.asarray(value)
        pixels = len(dataset) * math.prod(dataset.image_shape[:2])
        shaped = counts.shape == (channels, 256) and counts.dtype == np.int64
        return shaped and counts.min() >= 0 and bool((counts.sum(axis=1) == pixels).all())

    if not dataset.streamed or dataset.fingerprint is None:
        return np.array(build(), np.int64)
    label = f"channel counts\n{dataset.source}\n{dataset.image_shape}\n{dataset.ranges}"
    counts = cached_json(label, dataset.fingerprint, build, is_valid, dataset.cache_dir)
    return np.array(counts, np.int64)


def class_counts(dataset: Dataset | StreamedDataset) -> np.ndarray:
    """Return how many images each class has: int64 [K].

    Of a streamed data set whose labels lie in its records this takes a pass over all images.

    Raises:
      UserError: a record is damaged; names it.
    """
    labels = dataset.labels
    if labels is None:
        blocks = whole_pass(dataset, f"Counting the classes of {dataset.split}")
        labels = np.concatenate([labels for _, labels in blocks])
    return np.bincount(labels, minlength=dataset.num_classes)
