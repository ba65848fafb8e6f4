"""Boxes of crops and of what is erased, by torchvision's draws; of NumPy's and JAX's arrays."""

import math
from collections.abc import Sequence

import numpy as np

TRIES = 10
DRAWS = (TRIES + 1, 2)  # of one box


def draw_boxes(
    draws,
    height: int,
    width: int,
    area: Sequence[float],
    aspect: Sequence[float],
    xp=np,
):
    """Return boxes as `torchvision.transforms.RandomResizedCrop.get_params` draws them.

    Ten times a share of the area is drawn, uniformly, and a ratio of width to height, uniformly in
    its logarithm; the first box that fits is placed uniformly. Where none fits it is the central
    box of the nearest ratio allowed.

    Args:
      draws: float32 [..., *DRAWS], uniform in [0, 1).
      height, width: of the images, in pixels.
      area: least and largest share of the image's area.
      aspect: least and largest ratio of width to height.
      xp: the library of `draws`: numpy or jax.numpy.

    Returns:
      int32 [..., 4]: top, left, height and width, in pixels.
    """
    whole = np.array([height, width], np.int32)
    box, found = _first_box(draws, whole, area, aspect, 0, whole, xp)
    return xp.where(found[..., None], box, _central_box(height, width, aspect))


def draw_holes(
    draws,
    height: int,
    width: int,
    area: Sequence[float],
    aspect: Sequence[float],
    xp=np,
):
    """Return boxes as `torchvision.transforms.RandomErasing.get_params` and timm draw them.

    As `draw_boxes`, but smaller than the image both ways, and empty where none of the ten fits.

    Args and Returns: as of `draw_boxes`, but `aspect` is of height to width.
    """
    whole = np.array([height, width], np.int32)
    ratios = 1 / aspect[1], 1 / aspect[0]
    box, found = _first_box(draws, whole, area, ratios, -1, whole - 1, xp)
    return xp.where(found[..., None], box, 0)


def _first_box(draws, whole: np.ndarray, area, aspect, above, most, xp):
    """The first box drawn whose sides fit, [..., 4], and whether there is one, [...]."""
    tries, place = draws[..., :TRIES, :], draws[..., TRIES, :]
    low, high = map(math.log, aspect)
    pixels = int(whole[0]) * int(whole[1]) * (area[0] + (area[1] - area[0]) * tries[..., 0])
    ratio = xp.exp(low + (high - low) * tries[..., 1])
    sizes = xp.stack([xp.sqrt(pixels / ratio), xp.sqrt(pixels * ratio)], -1)
    sizes = xp.round(sizes).astype(xp.int32)  # [..., TRIES, 2]
    fits = ((sizes > above) & (sizes <= most)).all(-1)
    first = xp.argmax(fits, -1)[..., None, None]
    size = xp.take_along_axis(sizes, first, -2)[..., 0, :]
    room = whole - size + 1
    start = xp.minimum(xp.floor(place * room).astype(xp.int32), room - 1)
    return xp.concatenate([start, size], -1), fits.any(-1)


def _central_box(height: int, width: int, aspect: Sequence[float]) -> np.ndarray:
    ratio, size = width / height, (height, width)
    if ratio < min(aspect):
        size = (round(width / min(aspect)), width)
    elif ratio > max(aspect):
        size = (height, round(height * max(aspect)))
    start = ((height - size[0]) // 2, (width - size[1]) // 2)
    return np.array([*start, *size], np.int32)
