"""All that happens to images between the data and the model."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.engine import checks, field_checks
from jax_train.engine.augment.geometry import normalise
from jax_train.engine.augment.operations import (
    IN_EVALUATION,
    OF_NORMALISED,
    OPERATIONS,
    Facts,
    Operation,
    to_unit,
)
from jax_train.engine.checks import output_size
from jax_train.errors import UserError
from jax_train.printing import counted


class Augmentation(NamedTuple):
    """What happens to uint8 images before they enter the model; all callables are pure.

    Attributes:
      train: `(images [B, H, W, C] uint8, targets, keys [B], place) -> ([B, H', W', C] float32,
        targets)`, targets as in `Operation`. Without a random operation in the config the keys are
        not looked at and may be None, nor is the place without mixing and alternating flips.
      evaluate: `(images [B, H, W, C] uint8) -> [B, H', W', C] float32`.
      train_cropped: as `train`, of images that are random resized crops already.
    """

    train: Operation
    evaluate: Callable[[jax.Array], jax.Array]
    train_cropped: Operation | None = None


def build(
    config: ConfigDict,
    mean: Sequence[float],
    std: Sequence[float],
    num_classes: int | None = None,
) -> Augmentation:
    """Make the image pipelines of a config: training and evaluation.

    The `OPERATIONS` are done in their order, in evaluation those of `IN_EVALUATION`; pixels are
    scaled to [0, 1] and normalised. Zeros that enter a picture are black pixels: they come before
    `normalise`. After it come those `OF_NORMALISED`.

    Args:
      config: the `augment` part of the config, checked.
      mean: per channel, of pixels scaled to [0, 1].
      std: per channel, of pixels scaled to [0, 1].
      num_classes: of the targets, where images are mixed.

    Raises:
      UserError: a measured `std` of 0; when first traced, also a `mean` whose length is not the
        number of channels, or a crop padding too large for the images.
    """
    ranges.check_value("data.std", tuple(std), field_checks.CHECKS["data.std"])
    checks.check_lengths(mean, std)
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    config = config.copy_and_resolve_references()  # a later change by the caller has no effect

    facts = Facts(mean, num_classes)

    def made(table):
        found = {name: make(config, facts) for name, make in table.items()}
        return {name: operation for name, operation in found.items() if operation}

    def run(operations, images, targets, keys, place=None):
        _check_images(images, mean, config)
        output_size(config, *images.shape[1:3])
        for operation in operations:
            images, targets = operation(images, targets, keys, place)
        images = normalise(to_unit(images), mean, std)
        # Scaling and subtracting the mean are rounded once or twice, as the loop allows that they
        # become part of. Behind the barrier that loop is their own, whatever the program.
        return jax.lax.optimization_barrier(images), targets

    def run_training(operations, images, targets, keys, place=None):
        images, targets = run(operations, images, targets, keys, place)
        for operation in afterwards:
            images, targets = operation(images, targets, keys, place)
        return (jax.lax.optimization_barrier(images) if afterwards else images), targets

    def evaluate(images):
        return run(evaluation, images, None, None)[0]

    training, evaluation = made(OPERATIONS), tuple(made(IN_EVALUATION).values())
    afterwards = tuple(made(OF_NORMALISED).values())
    cropped = [operation for name, operation in training.items() if name != "random_resized_crop"]
    return Augmentation(
        train=functools.partial(run_training, tuple(training.values())),
        evaluate=evaluate,
        train_cropped=functools.partial(run_training, cropped),
    )


def _check_images(images: jax.Array, mean: np.ndarray, config: ConfigDict) -> None:
    if images.dtype != jnp.uint8 or images.ndim != 4:
        raise TypeError(f"expected uint8 images [B, H, W, C], got {images.dtype}{images.shape}")
    if images.shape[3] != len(mean):
        raise UserError(
            f"config.data.mean has {counted(len(mean), 'entry', 'entries')}, but the images have "
            f"{counted(images.shape[3], 'channel')}: expected one number per channel in "
            "config.data.mean and config.data.std. Leave both at None to have them measured."
        )
    for field, off in (("color_jitter", ()), ("auto_augment", "")):
        if config[field] not in (off, (0, 0, 0, 0)) and images.shape[3] not in (1, 3):
            channels = counted(images.shape[3], "channel")
            expected = f"{off!r} for images of {channels}: it is for grey and RGB"
            raise ranges.refusal(f"augment.{field}", config[field], expected)
