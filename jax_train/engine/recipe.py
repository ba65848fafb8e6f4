"""What a config names, built: the data, the completed config, the model, the recipe of a step."""

from flax import nnx
from ml_collections import ConfigDict

import jax_models
from jax_models.conv_layers import BatchNorm
from jax_train.data.splits import Splits
from jax_train.data.statistics import channel_statistics
from jax_train.engine import augment, optim, steps
from jax_train.engine.parallel import Layout
from jax_train.errors import UserError


def resolve(config: ConfigDict, splits: Splits) -> ConfigDict:
    """Fill in what follows from the data: sizes of the model, mean and std of the pixels.

    Raises:
      UserError: the model's sizes contradict the data's.
    """
    config = config.copy_and_resolve_references()
    height, width, channels = splits.train.image_shape
    height, width = augment.output_size(config.augment, height, width)
    known = jax_models.model_keywords(config.model.name)
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
