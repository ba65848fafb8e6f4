"""The operations that augmentation policies choose from, by Pillow's definition.

Each image gets one of its own. What they have in common is done once for all images: an affine map,
a table of the 256 levels of a channel, or a blend with another picture. All of it is in whole
numbers, so that layouts of devices agree to the bit.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.engine.augment import affine

_MOVES = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_BY_TABLE = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")
_BY_TABLE += ("Brightness", "Contrast")
_BLENDS = ("Color", "Sharpness")
NAMES = ("Identity", *_MOVES, *_BY_TABLE, *_BLENDS)
NUMBERS = {name: number for number, name in enumerate(NAMES)}
FACTORS = ("Brightness", "Contrast", *_BLENDS)
_BITS = 21  # after the point of their factors: below 4, times 255, it is within 32
# Pillow rounds a blend to float32 before it cuts it down to a byte. This lifts what is a whole
# number but for the rounding of its factor.
_LIFT = 1 << (_BITS - 14)


class Changes(NamedTuple):
    """What is done to images; see `describe`.

    Attributes:
      kind: int32 [...], a place in `NAMES`.
      amount: int32 [...], what the table or the blend goes by.
      matrix: int32 [..., 6], of the affine map; see `affine.fixed`.
      cubic: bool [...], whether that map is bicubic where it is filtered, not bilinear.
    """

    kind: jax.Array
    amount: jax.Array
    matrix: jax.Array
    cubic: jax.Array


def describe(kind, argument, size: tuple[int, int], bits: int, cubic=False, xp=np) -> Changes:
    """Turn operations with their arguments into whole numbers.

    Args:
      kind: [...], places in `NAMES`.
      argument: float [...]: of shears the part of a row (column) that a pixel moves for each column
        (row); of translations the columns or rows that it is taken from further on; of Rotate
        degrees, counter-clockwise; of Posterize the bits that are kept; of Solarize the level from
        which it inverts; of SolarizeAdd what is added to the levels below 128; of Brightness,
        Contrast, Color and Sharpness the factor, below 4, and 1 changes nothing. The others have
        none.
      size: height and width of the images, in pixels.
      bits: after the point of the matrices.
      cubic: [...], see `Changes`.
      xp: the library of the arrays: numpy or jax.numpy.
    """

    def of(name, value, otherwise):
        return xp.where(kind == NUMBERS[name], value, otherwise)

    height, width = size
    turn = -argument * (np.pi / 180)
    cos, sin = of("Rotate", xp.cos(turn), 1.0), of("Rotate", xp.sin(turn), 0.0)
    right = width / 2 - cos * (width / 2) - sin * (height / 2)
    down = height / 2 + sin * (width / 2) - cos * (height / 2)
    entries = (
        cos,
        of("ShearX", argument, sin),
        of("TranslateX", argument, of("Rotate", right, 0.0)),
        of("ShearY", argument, -sin),
        cos,
        of("TranslateY", argument, of("Rotate", down, 0.0)),
    )
    is_factor = xp.isin(kind, xp.asarray([NUMBERS[name] for name in FACTORS]))
    whole = of("Solarize", xp.ceil(argument), xp.floor(argument))
    amount = xp.where(is_factor, xp.round(argument * 2.0**_BITS), whole).astype(xp.int32)
    matrix = affine.fixed(entries, bits, xp)
    return Changes(kind.astype(xp.int32), amount, matrix, xp.broadcast_to(cubic, kind.shape))


def change(images: jax.Array, changes: Changes, fill: np.ndarray, filtered: bool) -> jax.Array:
    """Do to each image what is described for it.

    As Pillow's `Image.transform`, `ImageOps` and `ImageEnhance`: to the pixel, but AutoContrast,
    blends and filtered maps to one level, in few pixels.

    Args:
      images: uint8 `[B, H, W, C]` of 1 or 3 channels.
      changes: of each, `[B]`, with matrices of `affine.filter_bits` or `affine.NEAREST` bits.
      fill: uint8 `[C]`, of what an affine map takes from beside the image.
      filtered: whether affine maps interpolate; they take the nearest pixel otherwise.
    """
    # A CPU does for each image what it needs; an accelerator does all for all of them at once.
    how = _one_by_one if jax.default_backend() == "cpu" else _at_once
    return how(images, changes, fill, filtered)


def _at_once(images, changes, fill, filtered):
    kind = changes.kind[:, None, None, None]
    found = _moved(images, changes, fill, filtered)
    found = jnp.where(kind > NUMBERS[_MOVES[-1]], _by_table(images, changes, _BY_TABLE), found)
    found = jnp.where(kind >= NUMBERS[_BLENDS[0]], _blended(images, changes), found)
    return jnp.where(kind == NUMBERS["Identity"], images, found)


def _one_by_one(images, changes, fill, filtered):
    quick = tuple(name for name in _BY_TABLE if name != "Equalize")
    branches = {
        ("Identity",): lambda images, _: images,
        _MOVES: functools.partial(_moved, fill=fill, filtered=filtered),
        quick: functools.partial(_by_table, names=quick),
        ("Equalize",): functools.partial(_by_table, names=("Equalize",)),
        _BLENDS: _blended,
    }
    branch_of = [next(i for i, names in enumerate(branches) if name in names) for name in NAMES]

    def one(image_and_change):
        image, change = jax.tree.map(lambda part: part[None], image_and_change)
        branch = jnp.asarray(branch_of, jnp.int32)[change.kind[0]]
        return jax.lax.switch(branch, list(branches.values()), image, change)[0]

    return jax.lax.map(one, (images, changes))


def _moved(images, changes, fill, filtered):
    if filtered:
        return affine.transform_filtered(images, changes.matrix, changes.cubic, fill)
    return affine.transform_nearest(images, changes.matrix, fill)


def _by_table(images, changes, names):
    levels = images.astype(jnp.int32)
    return jax.vmap(_look_up)(_tables(levels, changes, names), images)


def _blended(images, changes):
    levels = images.astype(jnp.int32)
    kind, amount = (part[:, None, None, None] for part in (changes.kind, changes.amount))
    other = jnp.where(kind == NUMBERS["Sharpness"], _smooth(levels), _grey(levels))
    return _blend(other, levels, amount).astype(jnp.uint8)


def _look_up(table: jax.Array, image: jax.Array) -> jax.Array:
    channels = jnp.arange(image.shape[-1])
    return table.at[channels, image].get(mode="promise_in_bounds")


def _blend(other, levels, amount):
    """Pillow's `Image.blend`, of levels in int32."""
    return (other + ((amount * (levels - other) + _LIFT) >> _BITS)).clip(0, 255)


def _grey(levels):
    """Pillow's mode L, [B,H,W,1]."""
    if levels.shape[-1] == 1:
        return levels
    red, green, blue = (levels[..., i, None] for i in range(3))
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _smooth(levels):
    """Pillow's `ImageFilter.SMOOTH`; the outermost pixels stay."""
    height, width = levels.shape[1:3]
    if min(height, width) < 3:
        return levels
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * levels[:, 1:-1, 1:-1]
    # Thirteenths, rounded: never half-way.
    return levels.at[:, 1:-1, 1:-1].set((2 * sums + 13) // 26)


def _tables(levels: jax.Array, changes: Changes, names: tuple[str, ...]) -> jax.Array:
    """What becomes of each level by one of these operations: uint8 [B,C,256]."""
    every = jnp.arange(256, dtype=jnp.int32)
    amount = changes.amount[:, None, None]
    tables = {
        "AutoContrast": lambda: _stretched(levels),
        "Equalize": lambda: _equalised(levels),
        "Invert": lambda: 255 - every,
        "Posterize": lambda: every & (256 - (1 << (8 - amount).clip(0, 8))),
        "Solarize": lambda: jnp.where(every < amount, every, 255 - every),
        "SolarizeAdd": lambda: jnp.where(every < 128, (every + amount).clip(0, 255), every),
        "Brightness": lambda: _blend(0, every, amount),
        "Contrast": lambda: _blend(_mean(_grey(levels)), every, amount),
    }
    kind, found = changes.kind[:, None, None], every
    for name in names:
        found = jnp.where(kind == NUMBERS[name], tables[name](), found)
    shape = (len(levels), levels.shape[-1], 256)
    return jnp.broadcast_to(found, shape).astype(jnp.uint8)


def _mean(grey):
    """Of grey levels [B,H,W,1], rounded: [B,1,1]."""
    pixels = grey.shape[1] * grey.shape[2]
    total = grey.astype(jnp.uint32).sum((1, 2), dtype=jnp.uint32)
    return ((total + pixels // 2) // pixels).astype(jnp.int32)[:, None]


def _stretched(levels):
    """`ImageOps.autocontrast`, in exact fractions where Pillow's are rounded."""
    every = jnp.arange(256, dtype=jnp.int32)
    low, high = (one((1, 2))[..., None] for one in (levels.min, levels.max))
    table = (255 * (every - low) // jnp.maximum(high - low, 1)).clip(0, 255)
    return jnp.where(high > low, table, every)


def _equalised(levels):
    """`ImageOps.equalize`."""
    every, counts = jnp.arange(256, dtype=jnp.int32), _histograms(levels)
    high = levels.max((1, 2))[..., None]
    of_highest = jnp.where(every == high, counts, 0).sum(-1, keepdims=True, dtype=jnp.int32)
    step = (levels.shape[1] * levels.shape[2] - of_highest) // 255
    below = jnp.cumsum(counts, -1, dtype=jnp.int32) - counts
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, every)


def _histograms(levels):
    """Pixels of each level: int32 [B,C,256].

    As products of matrices, which CPUs and accelerators do sooner than they scatter: the upper
    four bits of a level against the lower four. They are exact, whatever the precision.
    """
    batch, *_, channels = levels.shape
    levels = levels.reshape(batch, -1, channels)
    upper, lower = (
        (part[..., None] == jnp.arange(16)).astype(jnp.float32)
        for part in (levels >> 4, levels & 15)
    )
    counts = jnp.einsum("bpcu,bpcl->bcul", upper, lower)
    return counts.reshape(batch, channels, 256).astype(jnp.int32)
