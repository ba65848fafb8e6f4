"""Augmentation policies: which operations of `pixels` an image gets, by its key.

Definitions: torchvision's `autoaugment.py` and timm's `auto_augment.py`, whose papers are
AutoAugment (https://arxiv.org/abs/1805.09501), RandAugment (https://arxiv.org/abs/1909.13719) and
TrivialAugment (https://arxiv.org/abs/2103.10158).
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.engine.augment import affine, pixels
from jax_train.engine.augment.pixels import NUMBERS, Changes
from jax_train.engine.policy_names import (
    AutoAugment,
    Policy,
    TimmRand,
    TorchRand,
    TrivialWide,
)

_fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))
# (keys [B], height and width) -> what is done to the images, layer by layer.
_Draw = Callable[[jax.Array, tuple[int, int]], list[Changes]]


def build(
    policy: Policy, mean: np.ndarray, interpolation: str | None
) -> Callable[[jax.Array, jax.Array, Callable], jax.Array]:
    """Make `(images uint8 [B,H,W,C], keys [B], locally) -> images` of a policy.

    What `locally` is given, a function of arrays [B,...], each device does on its own.

    timm's fills what an image leaves with its mean colour, and interpolates; torchvision's fills
    with black and takes the nearest pixel.

    Args:
      policy: see `policy_names`.
      mean: [C], of pixels in [0, 1].
      interpolation: of timm's policy, bilinear or bicubic; None: either, by chance.
    """
    filtered = isinstance(policy, TimmRand)
    fill = np.minimum(np.round(255 * mean), 255) if filtered else np.zeros(len(mean))
    draw = _timm(policy, interpolation) if filtered else _TORCHVISION[type(policy)](policy)

    change = functools.partial(pixels.change, fill=fill.astype(np.uint8), filtered=filtered)

    def run(images, keys, locally):
        for changes in draw(keys, images.shape[1:3]):
            images = locally(change)(images, changes)
        return images

    return run


def _uniform(keys: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(keys)


def _choice(keys: jax.Array, count: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, count, jnp.int32))(keys)


# timm's RandAugment


def _timm_arguments(policy: TimmRand, level, sign, size) -> dict[str, jax.Array]:
    """Operation -> its argument [B] at levels [B] of 10, with signs [B]; None: it has none."""
    height, width = size
    bits, threshold = jnp.floor(level * 0.4), jnp.minimum(jnp.floor(level * 25.6), 256)
    factor = level * 0.18 + 0.1
    if policy.increasing:
        bits, threshold = jnp.maximum(4 - bits, 0), 256 - threshold
        factor = jnp.maximum(1 + sign * level * 0.09, 0.1)
    return {
        "AutoContrast": None,
        "Equalize": None,
        "Invert": None,
        "Rotate": sign * level * 3,
        "Posterize": bits,
        "Solarize": threshold,
        "SolarizeAdd": jnp.minimum(jnp.floor(level * 11), 128),
        "Color": factor,
        "Contrast": factor,
        "Brightness": factor,
        "Sharpness": factor,
        "ShearX": sign * level * 0.03,
        "ShearY": sign * level * 0.03,
        "TranslateX": sign * level * 0.045 * width,
        "TranslateY": sign * level * 0.045 * height,
    }


def _timm(policy: TimmRand, interpolation: str | None) -> _Draw:
    def levels(keys):
        if policy.deviation == math.inf:
            drawn = policy.magnitude * _uniform(keys)
        elif policy.deviation:
            normal = jax.vmap(lambda key: jax.random.normal(key, (), jnp.float32))
            drawn = policy.magnitude + policy.deviation * normal(keys)
        else:
            drawn = jnp.full(keys.shape, policy.magnitude, jnp.float32)
        return drawn.clip(0, policy.most)

    def layer(keys, size):
        parts = [_fold_in(keys, part) for part in range(5)]
        sign = jnp.where(_uniform(parts[1]) > 0.5, -1.0, 1.0).astype(jnp.float32)
        arguments = _timm_arguments(policy, levels(parts[0]), sign, size)
        chosen, numbers = _choice(parts[2], len(arguments)), [NUMBERS[name] for name in arguments]
        kind = jnp.asarray(numbers, jnp.int32)[chosen]
        argument = jnp.zeros(keys.shape, jnp.float32)
        for place, value in enumerate(arguments.values()):
            if value is not None:
                argument = jnp.where(chosen == place, value, argument)
        if policy.probability < 1:
            kind = jnp.where(_uniform(parts[3]) < policy.probability, kind, NUMBERS["Identity"])
        cubic = interpolation == "bicubic" if interpolation else _uniform(parts[4]) < 0.5
        return pixels.describe(kind, argument, size, affine.filter_bits(*size), cubic, jnp)

    return lambda keys, size: [layer(_fold_in(keys, i), size) for i in range(policy.layers)]


# torchvision's policies: what can be chosen is worked out beforehand, as exactly as Pillow does.


def _linspace(start: float, end: float, count: int, place: int) -> float:
    """`torch.linspace(start, end, count)[place]`, whose product and sum are rounded once."""
    step = float(np.float32((end - start) / (count - 1)))
    early = place < count // 2
    return float(np.float32(start + step * place if early else end - step * (count - 1 - place)))


class _Space(NamedTuple):
    """The magnitudes of a policy's operations, as numbered from 0 to `bins` - 1."""

    bins: int
    shear: float = 0.3
    degrees: float = 30.0
    factor: float = 0.9
    bits: int = 4
    pixels: float | None = None  # of a translation; None: of an image of 331 pixels 150

    def change(self, name: str, magnitude: int | None, sign: int, size) -> tuple[int, float]:
        """The number and the argument of an operation, see `pixels.describe`."""
        place = magnitude or 0
        if name == "Posterize":
            argument = 8 - round(place / (self.bins - 1) * self.bits)
        elif name == "Solarize":
            argument = _linspace(255, 0, self.bins, place)
        else:
            argument = sign * _linspace(0, self._most(name, size), self.bins, place)
        if name.startswith("Translate"):
            argument = -int(argument)
        return NUMBERS[name], argument + (name in pixels.FACTORS)

    def _most(self, name: str, size) -> float:
        """The largest magnitude of an operation whose sign is drawn."""
        if name.startswith("Translate"):
            return self.pixels or 150 / 331 * size[name[-1] == "X"]
        if name.startswith("Shear"):
            return self.shear
        return self.degrees if name == "Rotate" else self.factor

    def rows(self, choices: np.ndarray, size) -> Changes:
        """Of choices [..., 3], each a name, a magnitude and a sign."""
        flat = [self.change(*choice, size) for choice in choices.reshape(-1, 3)]
        kind, argument = (np.reshape(part, choices.shape[:-1]) for part in zip(*flat, strict=True))
        return pixels.describe(kind, argument, size, affine.NEAREST)


_CHOSEN = ("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness")
_CHOSEN += ("Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize")
_WIDE = _Space(31, shear=0.99, degrees=135.0, factor=0.99, bits=6, pixels=32.0)


def _taken(rows: Changes, *index: jax.Array) -> Changes:
    return Changes(*(jnp.asarray(part)[index] for part in rows))


def _one_of_each(space: _Space, magnitudes: range, layers: int) -> _Draw:
    """Operations, magnitudes and signs, all as likely as each other, in each layer anew."""
    choices = [(name, m, sign) for name in _CHOSEN for m in magnitudes for sign in (1, -1)]

    def draw(keys, size):
        rows = space.rows(np.array(choices, object), size)
        return [_taken(rows, _choice(_fold_in(keys, i), len(choices))) for i in range(layers)]

    return draw


def _auto_augment(policy: AutoAugment) -> _Draw:
    steps = [
        [step.split() for step in line.split(", ")] for line in _POLICIES[policy.policy].split("; ")
    ]  # [policies, 2, 3]: name, tenths of its probability, magnitude
    odds = np.array([[int(step[1]) / 10 for step in pair] for pair in steps], np.float32)
    nothing = ("Identity", None, 1)
    choices = np.empty((*odds.shape, 3, 3), object)
    for place in np.ndindex(odds.shape):
        name, _, *magnitude = steps[place[0]][place[1]]
        magnitude = int(magnitude[0]) if magnitude else None
        choices[place] = [nothing, (name, magnitude, 1), (name, magnitude, -1)]

    def draw(keys, size):
        rows, layers = _Space(10).rows(choices, size), []
        pair = _choice(_fold_in(keys, 0), len(steps))
        for i in range(odds.shape[1]):
            done = _uniform(_fold_in(keys, 1 + i)) < jnp.asarray(odds)[pair, i]
            chosen = jnp.where(done, 1 + _choice(_fold_in(keys, 3 + i), 2), 0)
            layers.append(_taken(rows, pair, jnp.full_like(pair, i), chosen))
        return layers

    return draw


# Each pair: operation, tenths of its probability, and its magnitude where it has one.
_POLICIES = {
    "cifar10": (
        "Invert 1, Contrast 2 6; Rotate 7 2, TranslateX 3 9; Sharpness 8 1, Sharpness 9 3; "
        "ShearY 5 8, TranslateY 7 9; AutoContrast 5, Equalize 9; ShearY 2 7, Posterize 3 7; "
        "Color 4 3, Brightness 6 7; Sharpness 3 9, Brightness 7 9; Equalize 6, Equalize 5; "
        "Contrast 6 7, Sharpness 6 5; Color 7 7, TranslateX 5 8; Equalize 3, AutoContrast 4; "
        "TranslateY 4 3, Sharpness 2 6; Brightness 9 6, Color 2 8; Solarize 5 2, Invert 0; "
        "Equalize 2, AutoContrast 6; Equalize 2, Equalize 6; Color 9 9, Equalize 6; "
        "AutoContrast 8, Solarize 2 8; Brightness 1 3, Color 7 0; Solarize 4 5, AutoContrast 9; "
        "TranslateY 9 9, TranslateY 7 9; AutoContrast 9, Solarize 8 3; Equalize 8, Invert 1; "
        "TranslateY 7 9, AutoContrast 9"
    ),
    "imagenet": (
        "Posterize 4 8, Rotate 6 9; Solarize 6 5, AutoContrast 6; Equalize 8, Equalize 6; "
        "Posterize 6 7, Posterize 6 6; Equalize 4, Solarize 2 4; Equalize 4, Rotate 8 8; "
        "Solarize 6 3, Equalize 6; Posterize 8 5, Equalize 10; Rotate 2 3, Solarize 6 8; "
        "Equalize 6, Posterize 4 6; Rotate 8 8, Color 4 0; Rotate 4 9, Equalize 6; "
        "Equalize 0, Equalize 8; Invert 6, Equalize 10; Color 6 4, Contrast 10 8; "
        "Rotate 8 8, Color 10 2; Color 8 8, Solarize 8 7; Sharpness 4 7, Invert 6; "
        "ShearX 6 5, Equalize 10; Color 4 0, Equalize 6; Equalize 4, Solarize 2 4; "
        "Solarize 6 5, AutoContrast 6; Invert 6, Equalize 10; Color 6 4, Contrast 10 8; "
        "Equalize 8, Equalize 6"
    ),
    "svhn": (
        "ShearX 9 4, Invert 2; ShearY 9 8, Invert 7; Equalize 6, Solarize 6 6; "
        "Invert 9, Equalize 6; Equalize 6, Rotate 9 3; ShearX 9 4, AutoContrast 8; "
        "ShearY 9 8, Invert 4; ShearY 9 5, Solarize 2 6; Invert 9, AutoContrast 8; "
        "Equalize 6, Rotate 9 3; ShearX 9 4, Solarize 3 3; ShearY 8 8, Invert 7; "
        "Equalize 9, TranslateY 6 6; Invert 9, Equalize 6; Contrast 3 3, Rotate 8 4; "
        "Invert 8, TranslateY 0 2; ShearY 7 6, Solarize 4 8; Invert 6, Rotate 8 4; "
        "ShearY 3 7, TranslateX 9 3; ShearX 1 6, Invert 6; Solarize 7 2, TranslateY 6 7; "
        "ShearY 8 4, Invert 8; ShearX 7 9, TranslateY 8 3; ShearY 8 5, AutoContrast 7; "
        "ShearX 7 2, Invert 1"
    ),
}
_TORCHVISION: dict[type, Callable[[Policy], _Draw]] = {
    TorchRand: lambda policy: _one_of_each(
        _Space(31), range(policy.magnitude, policy.magnitude + 1), policy.layers
    ),
    TrivialWide: lambda _: _one_of_each(_WIDE, range(31), 1),
    AutoAugment: _auto_augment,
}
