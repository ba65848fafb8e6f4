"""Image augmentation inside the compiled step: pure functions driven by one random key per image.

One key per image, rather than one per batch, makes an image's augmentation independent of the
images around it and of how the batch is spread over devices. Images are `[B, H, W, C]`; the
definitions are torchvision's (https://docs.pytorch.org/vision/stable/transforms.html), so that a
PyTorch recipe keeps its meaning. An operation is one entry of `OPERATIONS`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data.boxes import DRAWS, draw_boxes
from jax_train.engine import checks, colour, erasing, policy, seeds
from jax_train.engine.checks import output_size
from jax_train.engine.mixing import Mixing
from jax_train.engine.policy_names import parse
from jax_train.engine.resample import resize_boxes
from jax_train.errors import UserError
from jax_train.printing import counted

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


def crop_at(
    images: jax.Array,
    offsets: jax.Array,
    padding: int,
    size: tuple[int, int] | None = None,
    mode: str = "zero",
) -> jax.Array:
    """Pad on all four sides, then cut a window out at `offsets`.

    Args:
      images: `[B, H, W, C]`.
      offsets: `[B, 2]` integers, the window's first row and column in the padded image.
      padding: pixels added on each side.
      size: height and width of the window; None: those of the images, which offsets of `padding`
        then leave as they were.
      mode: what is padded: 'zero', or 'reflect', the image mirrored at its outermost pixels.
    """
    widths = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, widths, mode="constant" if mode == "zero" else mode)
    shape = (*(size or images.shape[1:3]), images.shape[3])

    def window(image, offset):
        start = (offset[0], offset[1], jnp.zeros_like(offset[0]))  # the three need one dtype
        return jax.lax.dynamic_slice(image, start, shape)

    return jax.vmap(window)(padded, offsets)


def flip_where(images: jax.Array, mask: jax.Array) -> jax.Array:
    """Mirror left to right the images `[B, H, W, C]` whose entry in `mask [B]` is true."""
    return jnp.where(mask[:, None, None, None], images[:, :, ::-1], images)


def rotate_by(images: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotate about the centre: nearest neighbour, zeros where the source lies outside.

    As `torchvision.transforms.functional.rotate` on a tensor, which samples with
    `torch.nn.functional.grid_sample(mode="nearest", align_corners=False)`: the size is kept, and a
    source coordinate half-way between two pixels goes to the even one.

    Args:
      images: `[B, H, W, C]`.
      angles: `[B]` degrees, counter-clockwise positive.
    """
    height, width = images.shape[1:3]
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=jnp.float32)[None, :] - (width - 1) / 2

    def rotate(image, angle):
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        # Rows grow downwards, so this inverse map turns the picture counter-clockwise.
        rows = jnp.round(sin * x + cos * y + (height - 1) / 2).astype(jnp.int32)
        columns = jnp.round(cos * x - sin * y + (width - 1) / 2).astype(jnp.int32)
        return image.at[rows, columns].get(mode="fill", fill_value=0, wrap_negative_indices=False)

    return jax.vmap(rotate)(images, jnp.deg2rad(angles.astype(jnp.float32)))


def resize(images: jax.Array, size: int, interpolation: str = "bilinear") -> jax.Array:
    """Resize float images `[B, H, W, C]` to `[B, size, size, C]` with antialiasing.

    As `torchvision.transforms.Resize((size, size), antialias=True)` on a float tensor; the aspect
    ratio is not kept.
    """
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, interpolation, antialias=True)


def centre(side: int, size: int) -> int:
    """Where a window of `size` starts in the middle of `side`, as torchvision's `center_crop`."""
    return round((side - size) / 2)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """`(images - mean) / std` per channel; images `[B, H, W, C]`, mean and std `[C]`."""
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


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
    """See `resize`."""
    if not config.resize:
        return None
    # It makes new values, so it needs scaled pixels; what only moves pixels runs on uint8.
    side, how = config.resize, config.interpolation or "bilinear"
    return lambda images, targets, *_: (resize(_to_unit(images), side, how), targets)


def _centre_crop(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.CenterCrop`."""
    if not config.crop_size:
        return None

    def crop(images, targets, *_):
        size = config.crop_size
        row, column = (centre(side, size) for side in images.shape[1:3])
        return images[:, row : row + size, column : column + size], targets

    return crop


def _rotation(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.RandomRotation(degrees)`; see `rotate_by`."""
    if not config.rotate_degrees > 0:
        return None

    def rotate(images, targets, keys, *_):
        largest = config.rotate_degrees
        angles = _uniform(_fold_in(keys, _ROTATE), -largest, largest)
        return rotate_by(images, angles), targets

    return rotate


def _flip(config: ConfigDict, *_) -> Operation | None:
    """As `torchvision.transforms.RandomHorizontalFlip()`, or alternating.

    Alternating flips are those of https://arxiv.org/abs/2404.00498: each example begins mirrored or
    not, by its place in the split, and is turned over from one epoch to the next.
    """
    if not config.flip:
        return None
    if not checks.follows_examples(config):
        return lambda images, targets, keys, *_: (flip_where(images, _draw_flips(keys)), targets)

    def alternate(images, targets, _, place):
        examples = seeds.keys_at(place.seed, seeds.EXAMPLE, 0, place.index)
        return flip_where(images, _draw_flips(examples) ^ (place.epoch % 2 == 1)), targets

    return alternate


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
        middle = [padding + centre(*pair) for pair in zip(sides, size, strict=True)]
        offsets = _draw_offsets(_fold_in(keys, _CROP), most, middle, share)
        if config.flip and config.flip_mode == "random":
            # Flipped already, so the window moves the other way.
            columns = offsets[:, 1]
            columns = jnp.where(_draw_flips(keys), most[1] - columns, columns)
            offsets = offsets.at[:, 1].set(columns)
        return crop_at(images, offsets, padding, size, config.crop_mode), targets

    return crop


def _auto_augment(config: ConfigDict, facts: Facts) -> Operation | None:
    """A policy of operations on bytes; see `policy.build`."""
    if not config.auto_augment:
        return None
    run = policy.build(parse(config.auto_augment), facts.mean, config.interpolation)

    def change(images, targets, keys, place=None):
        locally = place.locally if place else _alone
        return run(_to_bytes(images), _fold_in(keys, _POLICY), locally), targets

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
    ranges.check_value("data.std", tuple(std), checks.CHECKS["data.std"])
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
        images = normalise(_to_unit(images), mean, std)
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


def _to_unit(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def _to_bytes(images: jax.Array) -> jax.Array:
    return images if images.dtype == jnp.uint8 else jnp.rint(images * 255).astype(jnp.uint8)


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
