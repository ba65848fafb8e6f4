"""What a config names, built: the data, the completed config, the model, the recipe of a step."""

from dataclasses import dataclass

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import jax_models
from jax_models.conv_layers import BatchNorm
from jax_train import augment, data, data_stream, optim, steps
from jax_train.data_stream import StreamedDataset
from jax_train.errors import UserError
from jax_train.parallel import Layout


@dataclass
class Splits:
    """The three data sets of a run; validation may be missing."""

    train: data.Dataset
    val: data.Dataset | None
    test: data.Dataset

    def notes(self) -> list[str]:
        """One line for each way in which a figure is not of unseen images."""
        notes = []
        for name, split in {"validation": self.val, "test": self.test}.items():
            if split and (shared := data.count_shared(self.train, split)):
                notes.append(f"note: {shared:,} {name} images are among the training images")
        if self.val and (shared := data.count_shared(self.val, self.test)):
            notes.append(f"note: {shared:,} test images also serve as validation images")
        return notes


def load_split(config: ConfigDict, split: str) -> data.Dataset | StreamedDataset:
    """Read a split, such as 'test[:100]', of the data that `config.data` names."""
    fields = config.data
    return data.load(
        fields.name, split, fields.data_dir,
        image_size=fields.image_size, download=fields.download, memory_limit=fields.memory_limit,
    )  # fmt: skip


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


def resolve(config: ConfigDict, splits: Splits) -> ConfigDict:
    """Fill in what follows from the data: sizes of the model, mean and std of the pixels.

    Raises:
      UserError: the model's sizes contradict the data's.
    """
    config = config.copy_and_resolve_references()
    height, width, channels = splits.train.image_shape
    height, width = augment.output_size(config.augment, height, width)
    try:
        known = jax_models.model_keywords(config.model.name)
    except ValueError as error:
        raise UserError(f"config.model.name: {error}") from error
    if "img_size" in known and height != width:
        raise UserError(
            f"The images are {height}x{width} pixels and {config.model.name} takes square ones: "
            "set config.augment.resize to a side."
        )
    facts = {
        "img_size": height, "in_channels": channels, "num_classes": splits.train.num_classes,
    }  # fmt: skip
    with config.unlocked():
        for key, value in facts.items():
            given = config.model[key]
            if given is not None and given != value:
                raise UserError(
                    f"config.model.{key}={given}, but the data has {value}. Leave it unset."
                )
            config.model[key] = value if key in known else None
        if config.data.mean is None or config.data.std is None:
            mean, std = channel_statistics(splits.train)
            config.data.mean = mean if config.data.mean is None else config.data.mean
            config.data.std = std if config.data.std is None else config.data.std
    return config


def channel_statistics(dataset: data.Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the images, scaled to [0, 1]."""
    counts = data_stream.channel_counts(dataset)
    values = np.arange(256) / 255
    mean = [float(count @ values / count.sum()) for count in counts]
    var = [
        float(count @ (values - m) ** 2 / count.sum())
        for count, m in zip(counts, mean, strict=True)
    ]
    return tuple(round(m, 6) for m in mean), tuple(round(max(v, 1e-12) ** 0.5, 6) for v in var)


def create_model(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
    """Build the model that `config.model` describes.

    Raises:
      UserError: it cannot be built that way.
    """
    settings = {k: v for k, v in config.model.items() if k != "name" and v is not None}
    try:
        return jax_models.create_model(config.model.name, rngs=rngs, **settings)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def create_recipe(
    config: ConfigDict, schedule: optim.Schedule, layout: Layout, steps_per_epoch: int
) -> steps.Recipe:
    """Put together what the compiled steps close over.

    Raises:
      UserError: the model, the optimizer or the augmentation cannot be built that way.
    """
    model = nnx.eval_shape(lambda: create_model(config, steps.init_rngs(0)))
    model.set_attributes(BatchNorm, axis_name=layout.axis_name, raise_if_not_found=False)
    return steps.Recipe(
        graphdef=nnx.split(model, nnx.Param, ...)[0],
        optimizer=optim.create_optimizer(config, schedule),
        augmentation=augment.build(config.augment, config.data.mean, config.data.std),
        layout=layout,
        seed=config.seed,
        batch_size=config.train.batch_size,
        steps_per_epoch=steps_per_epoch,
        label_smoothing=config.train.label_smoothing,
        accumulate_steps=config.train.accumulate_steps,
        dtype=config.dtype,
        skip_nonfinite=config.train.on_nonfinite == "skip",
    )
