"""The three splits of a run."""

from dataclasses import dataclass

from ml_collections import ConfigDict

from jax_train.data.examples import Dataset, count_shared
from jax_train.data.loading import load
from jax_train.data.streamed import StreamedDataset
from jax_train.errors import UserError
from jax_train.printing import counted


@dataclass
class Splits:
    """The three data sets of a run; validation may be missing."""

    train: Dataset | StreamedDataset
    val: Dataset | StreamedDataset | None
    test: Dataset | StreamedDataset

    def notes(self) -> list[str]:
        """One line for each way in which a figure is not of unseen images."""
        notes = []
        for name, split in {"validation": self.val, "test": self.test}.items():
            if split and (shared := count_shared(self.train, split)):
                images = counted(shared, f"{name} image is", f"{name} images are")
                notes.append(f"note: {images} among the training images")
        if self.val and (shared := count_shared(self.val, self.test)):
            images = counted(shared, "test image also serves", "test images also serve")
            notes.append(f"note: {images} as validation images")
        return notes


def load_split(config: ConfigDict, split: str) -> Dataset | StreamedDataset:
    """Read a split, such as 'test[:100]', of the data that `config.data` names."""
    fields = config.data
    options = {name: fields[name] for name in ("image_size", "download", "memory_limit")}
    return load(fields.name, split, fields.data_dir, **options)


def load_splits(config: ConfigDict) -> Splits:
    """Read the three splits that `config.data` names."""
    fields = config.data
    train_set = load_split(config, fields.train_split)
    val_set = load_split(config, fields.val_split) if fields.val_split else None
    test_set = load_split(config, fields.test_split)
    for other in filter(None, (val_set, test_set)):
        if other.image_shape != train_set.image_shape:
            raise UserError(
                f"The images of {other.split!r} are {other.image_shape} (height, width, channels), "
                f"those of {train_set.split!r} {train_set.image_shape}: they must be alike. For a "
                "folder, set config.data.image_size."
            )
    return Splits(train_set, val_set, test_set)
