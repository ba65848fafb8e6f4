"""The three splits of a run."""

import math
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from ml_collections import ConfigDict

from jax_train.data.examples import Dataset, count_shared
from jax_train.data.loading import Store
from jax_train.data.split import AUTO, automatic
from jax_train.data.streamed import StreamedDataset
from jax_train.errors import UserError
from jax_train.printing import counted, listing

_NAMES = {"train": "training", "val": "validation", "test": "test"}
_OPTIONS = ("image_size", "interpolation", "download", "memory_limit", "on_damaged")
_OPTIONS += ("max_megapixels", "image_column", "label_column", "threads")
_LOOKED_AT = 100  # images of a split, spread over it, whose pixels are looked at
_LOOKED_AT_BYTES = 30e6
_NARROW = 32  # of 256 values: less than this span holds nearly all pixels
_spans = WeakKeyDictionary()  # split -> its span; the files may be gone when a run ends


@dataclass
class Splits:
    """The three data sets of a run; validation may be missing."""

    train: Dataset | StreamedDataset
    val: Dataset | StreamedDataset | None
    test: Dataset | StreamedDataset

    def notes(self) -> list[str]:
        """Each way in which a figure is not of unseen images, or not of all there should be."""
        there = {name: split for name, split in vars(self).items() if split}
        notes = []
        for name, split in there.items():
            if name != "train" and (shared := count_shared(self.train, split)):
                of = _NAMES[name]
                images = counted(shared, f"{of} image is", f"{of} images are")
                notes.append(f"note: {images} among the training images")
        if self.val and (shared := count_shared(self.val, self.test)):
            images = counted(shared, "test image also serves", "test images also serve")
            notes.append(f"note: {images} as validation images")
        for name, split in there.items():
            notes += [f"note: {note}" for note in _absent(_NAMES[name], split)]
            notes += [f"note: {note}" for note in _narrow(_NAMES[name], split)]
        return notes


def _absent(name: str, split: Dataset | StreamedDataset) -> list[str]:
    """A note where classes have no image in a split, if that is known without reading it."""
    if split.labels is None:
        return []
    counts = np.bincount(split.labels, minlength=split.num_classes)
    if counts.all():
        return []
    lacking = [split.class_names[label] for label in np.flatnonzero(counts == 0)]
    text = f"no {name} image of {len(lacking):,} of {split.num_classes:,} classes"
    left_out = "" if name == "training" else "; macro figures leave them out"
    return [f"{text} ({listing(lacking, 40)}){left_out}"]


def _narrow(name: str, split: Dataset | StreamedDataset) -> list[str]:
    """A note where the pixels of a split are nearly all alike."""
    if split not in _spans:
        most = max(4, int(_LOOKED_AT_BYTES / math.prod(split.image_shape)))
        rows = np.linspace(0, len(split) - 1, min(len(split), _LOOKED_AT, most)).astype(int)
        counts = np.bincount(split.take(rows)[0].ravel(), minlength=256).cumsum()
        _spans[split] = np.searchsorted(counts, counts[-1] * np.array([0.0005, 0.9995])).tolist()
    low, high = _spans[split]
    if high - low >= _NARROW:
        return []
    held = f"the value {low}" if low == high else f"values from {low} to {high}"
    return [
        f"nearly all pixels of the {name} images have {held}, of 0 to 255: is that meant? 16-bit "
        "files keep their upper 8 bits, so 12-bit values have to be saved times 16"
    ]


def load_split(config: ConfigDict, split: str) -> Dataset | StreamedDataset:
    """Read a split, such as 'test[:100]', of the data that `config.data` names."""
    return open_store(config).load(split)


def load_splits(config: ConfigDict) -> Splits:
    """Read the three splits that `config.data` names; of 'auto' see `split.automatic`."""
    store = open_store(config)
    texts = {name: config.data[f"{name}_split"] for name in _NAMES}
    if AUTO in texts.values():
        texts = automatic(store.source, texts)
    train_set, val_set, test_set = (
        store.load(text) if text or name != "val" else None for name, text in texts.items()
    )
    for other in filter(None, (val_set, test_set)):
        if other.image_shape != train_set.image_shape:
            raise UserError(
                f"The images of {other.split!r} are {other.image_shape} (height, width, channels), "
                f"those of {train_set.split!r} {train_set.image_shape}: they must be alike. For a "
                "folder, set config.data.image_size."
            )
    return Splits(train_set, val_set, test_set)


def open_store(config: ConfigDict, **options) -> Store:
    """Open the data that `config.data` names; `options` are further ones of `open_source`."""
    fields = config.data
    options = {name: fields[name] for name in _OPTIONS} | options
    return Store(fields.name, fields.data_dir, cache_dir=None, **options)
