"""The operations on images: what each does by a config, and their order."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_train.data.boxes import DRAWS, draw_boxes
from jax_train.engine import checks, seeds
from jax_train.engine.augment import colour, erasing, geometry, policy
from jax_train.engine.augment.mixing import Mixing
from jax_train.engine.augment.resample import resize_boxes
from jax_train.engine.checks import output_size
from jax_train.engine.policy_names import parse

# Each random part folds its own constant into the image's key, so that switching one part on or
# off leaves the draws of the others as they were.
_ROTATE, _CROP, _FLIP, _RESIZED_CROP, _COLOUR = 1, 2, 3, 4, 5
_POLICY, _ERASE, _CUTOUT, _MIX = 6, 7, 8, 9
_fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def _alone(function: Callable) -> Callable:
    """As `Layout.locally` on one device."""
    return function


class Place(NamedTuple):
    """Where a batch stands in its run, for what an image's key of the step does not say.

    Attributes:
      seed: of the run.
      step: int32, done before.
      steps_per_epoch: full batches in an epoch.
      index: int32 [B], of the examples in the training split; None unless it is asked for, see
        `checks.follows_examples`.
      locally: see `Layout.locally`.
    """

    seed: int
    step: jax.Array
    steps_per_epoch: int
    index: jax.Array | None = None
    locally: Callable[[Callable], Callable] = _alone

    @property
    def epoch(self) -> jax.Array:
        """Epochs done before."""
        return self.step // self.steps_per_epoch

    @property
    def batch_key(self) -> jax.Array:
        """The key that all examples of the step share."""
        return jax.random.fold_in(seeds.stream(self.seed, seeds.BATCH), self.step)


class Facts(NamedTuple):
    """What an operation may have to know besides the `augment` part of a config.

    Attributes:
      mean: [C], of pixels in [0, 1].
      num_classes: of the targets.
    """

    mean: np.ndarray
    num_classes: int | None


# (images [B,H,W,C], targets, keys [B], place) -> (images, targets), pure. Targets are class indices
# int [B], or shares of the classes [B,K] from the operation on that mixes images.
Operation = Callable[..., tuple[jax.Array, jax.Array | None]]


# The draws name their dtype: the default one follows `jax_enable_x64`, and a float64 run must see
# the same images as a float32 run.


def _uniform(keys: jax.Array, low: float = 0.0, high: float = 1.0) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, low, high))(keys)


def _draw_offsets(
    keys: jax.Array, most: Sequence[int], middle: Sequence[int], probability: float
) -> jax.Array:
    """Offsets [B, 2] from 0 to `most`; of a share of 1 - `probability` the `middle`."""
    above = most[0] + 1 if most[0] == most[1] else np.array(most) + 1
    draw = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, above, jnp.int32))
    offsets = draw(_fold_in(keys, 0))
    if probability < 1:
        cropped = _uniform(_fold_in(keys, 1)) < probability
        middle = middle[0] if middle[0] == middle[1] else np.array(middle)
        offsets = jnp.where(cropped[:, None], offsets, middle)
    return offsets


def _draw_flips(keys: jax.Array) -> jax.Array:
    return _uniform(_fold_in(keys, _FLIP)) < 0.5


def _resized_crop(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.RandomResizedCrop`; see `boxes.draw_boxes`, `resize_boxes`."""
    if not config.random_resized_crop:
        return None

    def crop(images, targets, keys, *_):
        height, width = images.shape[1:3]
        draw = jax.vmap(lambda key: jax.random.uniform(key, DRAWS, jnp.float32))
        draws = draw(_fold_in(keys, _RESIZED_CROP))
        spans = config.random_resized_crop, config.aspect_ratio
        boxes = draw_boxes(draws, height, width, *spans, xp=jnp)
        size = output_size(config, height, width)
        return resize_boxes(images, boxes, size, config.interpolation or "bilinear"), targets

    return crop


def _resizing(config: ConfigDict, *_) -> Operation | None:
    """See `geometry.resize`."""
    if not config.resize:
        return None
    # It makes new values, so it needs scaled pixels; what only moves pixels runs on uint8.
    side, how = config.resize, config.interpolation or "bilinear"
    return lambda images, targets, *_: (geometry.resize(to_unit(images), side, how), targets)


def _centre_crop(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.CenterCrop`."""
    if not config.crop_size:
        return None

    def crop(images, targets, *_):
        size = config.crop_size
        row, column = (geometry.centre(side, size) for side in images.shape[1:3])
        return images[:, row : row + size, column : column + size], targets

    return crop


def _rotation(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.RandomRotation(degrees)`; see `geometry.rotate_by`."""
    if not config.rotate_degrees > 0:
        return None

    def rotate(images, targets, keys, *_):
        largest = config.rotate_degrees
        angles = _uniform(_fold_in(keys, _ROTATE), -largest, largest)
        return geometry.rotate_by(images, angles), targets

    return rotate


def _flip(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.RandomHorizontalFlip()`, or alternating.

    Alternating flips are those of https://arxiv.org/abs/2404.00498: each example begins mirrored or
    not, by its place in the split, and is turned over from one epoch to the next.
    """
    if not config.flip:
        return None

    def at_random(images, targets, keys, *_):
        return geometry.flip_where(images, _draw_flips(keys)), targets

    def alternate(images, targets, _, place):
        examples = seeds.keys_at(place.seed, seeds.EXAMPLE, 0, place.index)
        return geometry.flip_where(images, _draw_flips(examples) ^ (place.epoch % 2 == 1)), targets

    return alternate if checks.follows_examples(config) else at_random


def _crop(config: ConfigDict, *_) -> Operation | None:
    """As `RandomCrop(size, padding=padding)` of torchvision, of a share of the images.

    Its padding_mode is 'constant' for `crop_mode` 'zero', otherwise the same.
    """
    padding, share = config.crop_padding, config.crop_probability
    smaller = config.crop_size and not config.random_resized_crop
    if not smaller and not (padding > 0 and share > 0):
        return None

    def crop(images, targets, keys, *_):
        sides = images.shape[1:3]
        size = (config.crop_size,) * 2 if smaller else sides
        spare = [side - length for side, length in zip(sides, size, strict=True)]
        most = [2 * padding + pixels for pixels in spare]
        middle = [padding + geometry.centre(*pair) for pair in zip(sides, size, strict=True)]
        offsets = _draw_offsets(_fold_in(keys, _CROP), most, middle, share)
        if config.flip and config.flip_mode == "random":
            # Flipped already, so the window moves the other way.
            columns = offsets[:, 1]
            columns = jnp.where(_draw_flips(keys), most[1] - columns, columns)
            offsets = offsets.at[:, 1].set(columns)
        return geometry.crop_at(images, offsets, padding, size, config.crop_mode), targets

    return crop


def _auto_augment(config: ConfigDict, facts: Facts) -> Operation | None:
    """A policy of operations on bytes; see `policy.build`."""
    if not config.auto_augment:
        return None
    run = policy.build(parse(config.auto_augment), facts.mean, config.interpolation)

    def change(images, targets, keys, place=None):
        locally = place.locally if place else _alone
        return run(to_bytes(images), _fold_in(keys, _POLICY), locally), targets

    return change


def _color_jitter(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.ColorJitter(*color_jitter)`; see `colour.jitter`."""
    if not any(config.color_jitter):
        return None
    most = dict(zip(colour.CHANGES, config.color_jitter, strict=True))

    def span(name):
        return (
            (-most[name], most[name]) if name == "hue" else (max(0, 1 - most[name]), 1 + most[name])
        )

    def jitter(images, targets, keys, *_):
        keys = _fold_in(keys, _COLOUR)
        factors = {
            name: _uniform(_fold_in(keys, place), *span(name))
            for place, name in enumerate(most)
            if most[name]
        }
        rank = jax.vmap(lambda key: jax.random.uniform(key, (len(factors),), jnp.float32))
        order = jnp.argsort(rank(_fold_in(keys, len(most))), -1)
        return colour.jitter(images, factors, order), targets

    return jitter


def _erasing(config: ConfigDict, *_) -> Operation | None:
    """See `erasing.erase`."""
    if not config.erase_probability > 0:
        return None
    how = config.erase_probability, config.erase_area, config.erase_aspect, config.erase_mode
    return lambda images, targets, keys, *_: (
        erasing.erase(images, _fold_in(keys, _ERASE), *how),
        targets,
    )


def _cutout(config: ConfigDict, *_) -> Operation | None:
    """See `erasing.cut_out`."""
    if not config.cutout:
        return None
    return lambda images, targets, keys, *_: (
        erasing.cut_out(images, _fold_in(keys, _CUTOUT), config.cutout),
        targets,
    )


def _mixing(config: ConfigDict, facts: Facts) -> Operation | None:
    """See `mixing.Mixing`."""
    if not checks.mixes(config):
        return None
    mixing = Mixing(
        config.mixup, config.cutmix, config.mix_probability, config.mix_switch, config.mix_mode
    )

    def mix(images, targets, keys, place):
        shares = jax.nn.one_hot(targets, facts.num_classes, dtype=jnp.float32)
        on = place.epoch < config.mix_off_epoch if config.mix_off_epoch else True
        return mixing.mix(images, shares, _fold_in(keys, _MIX), place.batch_key, on)

    return mix


# In the order of the config: each makes its operation of the `augment` part of a config, and of
# `Facts`, or None where the config has it off. A flip before a crop fuses with the crop's padding;
# the pixels are those of a flip after it.
OPERATIONS: dict[str, Callable[..., Operation | None]] = {
    "random_resized_crop": _resized_crop,
    "resize": lambda config, *_: None if config.random_resized_crop else _resizing(config),
    "rotate": _rotation,
    "flip": _flip,
    "crop": _crop,
    "auto_augment": _auto_augment,
    "color_jitter": _color_jitter,
}
# Of normalised images, in which zeros are the mean colour.
OF_NORMALISED = {"erase": _erasing, "cutout": _cutout, "mix": _mixing}
IN_EVALUATION = {"resize": _resizing, "centre_crop": _centre_crop}


def to_unit(images: jax.Array) -> jax.Array:
    """Bytes as float32 in [0, 1]; what is scaled already stays."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def to_bytes(images: jax.Array) -> jax.Array:
    """Pixels in [0, 1] as the nearest bytes; what is bytes already stays."""
    return images if images.dtype == jnp.uint8 else jnp.rint(images * 255).astype(jnp.uint8)
