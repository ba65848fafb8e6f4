"""Data sets of images with labels, whole in memory or memory-mapped: `load` and `Dataset`.

Sources are scikit-learn's embedded digits, TFDS data sets read without TensorFlow, and folders
of images by class. Every source takes the split syntax of TFDS, and what had to be decoded is
kept in a cache (`jax_train.data_cache`).
"""

import os
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from jax_train.data_cache import Arrays, cached
from jax_train.data_sources import Source, open_source
from jax_train.errors import UserError

_SYNTAX = "'train', 'train[:90%]', 'train[1000:2000]', 'train[-100:]' or 'train+test'"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels of one split.

    Attributes:
        name: as given to `load`, such as 'cifar10'.
        split: as given to `load`, such as 'train[:90%]'.
        images: uint8 [N, H, W, C], values 0 to 255; may be a read-only memory map.
        labels: int32 [N], from 0 up to but not including `num_classes`.
        class_names: name of each class.
        source: what the examples were read from; equal for splits of the same data.
        ranges: the examples held, in order, as (base split, start, stop).
    """

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    ranges: tuple[tuple[str, int, int], ...]

    @property
    def num_classes(self) -> int:
        """Number of classes of the data, also where the split lacks some of them."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height and width in pixels, and the number of channels."""
        return tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)


def load(
    name: str,
    split: str,
    data_dir: str | None = None,
    *,
    image_size: int | None = None,
    download: bool = True,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Dataset:
    """Load a split of a data set.

    Args:
        name: 'digits', 'folder:PATH', or a TFDS data set: 'name', 'name:version' or
            'name/config'. cifar10, cifar100 and mnist are prepared on first use; others must
            be prepared already, in the array_record format.
        split: in TFDS's syntax, such as 'train', 'train[:45000]', 'train[10%:20%]' or
            'train+test' (https://www.tensorflow.org/datasets/splits).
        data_dir: folder of prepared TFDS data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets.
        image_size: for folders only: side in pixels of the square that images are resized
            (shorter side) and cropped (centre) to.
        download: whether to fetch and prepare missing data.
        cache_dir: folder for decoded images; None: see `data_cache.cache_root`.
        progress: show progress bars, where stderr is a terminal.

    Returns:
        The images and labels. A split that is one range is a view of the cached base split.

    Raises:
        UserError: the data, the split, or a file of the data is not usable; says which and why.
    """
    source = open_source(
        name, data_dir, image_size=image_size, download=download, progress=progress
    )
    ranges = resolve_split(split, source)
    bases = {}
    for base in dict.fromkeys(base for base, _, _ in ranges):
        bases[base] = _read(source, base, image_size, cache_dir, progress)
    shapes = {base: arrays.images.shape[1:] for base, arrays in bases.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(
            f"The split {split!r} of {source.name} joins images of different shapes "
            f"(height, width, channels): {shapes}. Load the splits one by one"
            + (", or set data.image_size." if name.startswith("folder:") else ".")
        )
    images = [bases[base].images[start:stop] for base, start, stop in ranges]
    labels = [bases[base].labels[start:stop] for base, start, stop in ranges]
    return Dataset(
        name=name,
        split=split,
        images=images[0] if len(images) == 1 else np.concatenate(images),
        labels=labels[0] if len(labels) == 1 else np.concatenate(labels),
        class_names=bases[ranges[0][0]].class_names,
        source=source.identity,
        ranges=ranges,
    )


def count_shared(a: Dataset, b: Dataset) -> int:
    """Return how many examples stand in both, each counted once; 0 for different sources."""
    if a.source != b.source:
        return 0
    shared = 0
    for base in {base for base, _, _ in a.ranges}:
        shared += int(np.count_nonzero(_held(a, base, b) & _held(b, base, a)))
    return shared


def resolve_split(split: str, source: Source) -> tuple[tuple[str, int, int], ...]:
    """Return the ranges (base split, start, stop) that a split in TFDS's syntax means.

    Raises:
        UserError: the syntax is wrong, a base split is unknown, or no example is left.
    """
    if split in source.splits:  # without importing TFDS, which takes longer than the reading
        return ((split, 0, sum(source.splits[split])),)
    held = ", ".join(f"{base} ({sum(shards):,})" for base, shards in source.splits.items())
    help_text = f"The splits of {source.name} and their sizes are: {held}. Write {_SYNTAX}."
    if not isinstance(split, str) or not split.strip():
        raise UserError(f"The split {split!r} of {source.name} is empty. {help_text}")
    from tensorflow_datasets.core.splits import ReadInstruction

    infos = {
        base: SimpleNamespace(num_examples=sum(shards), shard_lengths=list(shards))
        for base, shards in source.splits.items()
    }
    try:
        parts = ReadInstruction.from_spec(split).to_absolute(infos)
    except Exception as error:  # TFDS raises many kinds for the one cause: a bad spec
        raise UserError(
            f"The split {split!r} of {source.name} cannot be read: "
            f"{_last_sentence(error)} {help_text}"
        ) from error
    ranges = []
    for part in parts:
        start = part.from_ or 0
        stop = infos[part.splitname].num_examples if part.to is None else part.to
        if stop > start:
            ranges.append((part.splitname, start, stop))
    if not ranges:
        raise UserError(f"The split {split!r} of {source.name} holds no example. {help_text}")
    return tuple(ranges)


def _read(source: Source, base: str, image_size, cache_dir, progress: bool) -> Arrays:
    if source.fingerprint is None:
        return source.read(base, progress)
    label = f"{source.identity}\n{base}\n{image_size}"
    return cached(label, source.fingerprint, lambda: source.read(base, progress), cache_dir)


def _held(dataset: Dataset, base: str, other: Dataset) -> np.ndarray:
    """Return a mask over the examples of a base split; long enough for both data sets."""
    mask = np.zeros(max(stop for _, _, stop in (*dataset.ranges, *other.ranges)), bool)
    for name, start, stop in dataset.ranges:
        if name == base:
            mask[start:stop] = True
    return mask


def _last_sentence(error: Exception) -> str:
    """Return the cause TFDS gives, without its links."""
    text = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    return text.split(" See format at")[0].rstrip(".") + "."
