"""Affine maps of images inside the compiled step, by Pillow's definition.

Coordinates and weights are whole numbers (fixed point), so that no result depends on how sums are
rounded, and layouts of devices agree to the bit.
"""

import jax
import jax.numpy as jnp
import numpy as np

NEAREST = 16  # bits after the point in Pillow's coordinates where it takes the nearest pixel
_WEIGHT = 14  # bits after the point of the weights of pixels
_ACROSS = 6  # and of what the weighted pixels of a row come to


def filter_bits(height: int, width: int) -> int:
    """Bits after the point that coordinates have room for, as far as 4 sides beside the image."""
    return 30 - (4 * max(height, width)).bit_length()


def fixed(entries: tuple, bits: int, xp=np):
    """Matrices in whole numbers.

    Args:
      entries: a, b, c, d, e, f as of `PIL.Image.transform`, numbers or [...]: the pixel at column x
        and row y comes from column a·x + b·y + c and row d·x + e·y + f, at its centre.
      bits: after the point.
      xp: the library of the entries: numpy or jax.numpy.

    Returns:
      int32 [..., 6], of coordinates that are counted from 0 at a pixel's centre.
    """
    a, b, c, d, e, f = xp.broadcast_arrays(*entries)
    rows = xp.stack([a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5], -1)
    return xp.floor(rows * 2.0**bits + 0.5).astype(xp.int32)


def transform_nearest(images: jax.Array, matrices: jax.Array, fill: np.ndarray) -> jax.Array:
    """Map each image, taking the nearest pixel; to the pixel as `PIL.Image.transform`.

    Args:
      images: `[B, H, W, C]`.
      matrices: int32 `[B, 6]`, see `fixed`, with `NEAREST` bits.
      fill: `[C]`, of what comes from beside the image.
    """
    height, width = images.shape[1:3]
    rows, columns = (place >> NEAREST for place in _places(matrices, height, width))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)

    def take(image, rows, columns):
        return image.at[rows, columns].get(mode="promise_in_bounds")

    moved = jax.vmap(take)(images, rows, columns)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, images.dtype))


def transform_filtered(
    images: jax.Array, matrices: jax.Array, cubic: jax.Array, fill: np.ndarray
) -> jax.Array:
    """Map each image by its bilinear or bicubic filter; to one level as `PIL.Image.transform`.

    Args:
      images: uint8 `[B, H, W, C]`.
      matrices: int32 `[B, 6]`, see `fixed`, with the `filter_bits` of the images.
      cubic: bool `[B]`: bicubic; otherwise bilinear.
      fill: `[C]`, of what comes from beside the image.
    """
    height, width, channels = images.shape[1:]
    bits = filter_bits(height, width)
    places, inside, starts, weights = _places(matrices, height, width), True, [], []
    for place, side in zip(places, (height, width), strict=True):
        inside &= (place >= 0) & (place < side << bits)
        place = place - (1 << (bits - 1))
        starts.append(((place >> bits) + 1).clip(0, side))  # in the padded image
        share = (place & ((1 << bits) - 1)) >> (bits - _WEIGHT)
        weights.append(_weights(share, cubic[:, None, None]))
    edges = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")

    def window(image, row, column):
        start = (row, column, jnp.zeros_like(row))
        return jax.lax.dynamic_slice(image, start, (4, 4, channels))

    of_image = jax.vmap(jax.vmap(window, (None, 0, 0)), (None, 0, 0))
    windows = jax.vmap(of_image)(edges, *starts).astype(jnp.int32)  # [B,H,W,4,4,C]
    rows, columns = weights
    across = (windows * columns[:, :, :, None, :, None]).sum(4, dtype=jnp.int32)
    spare = _WEIGHT - _ACROSS
    across = (across + (1 << (spare - 1))) >> spare
    pixels = (across * rows[..., None]).sum(3, dtype=jnp.int32) >> (_WEIGHT + _ACROSS)
    pixels = pixels.clip(0, 255).astype(images.dtype)
    return jnp.where(inside[..., None], pixels, jnp.asarray(fill, images.dtype))


def _places(matrices: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Where each pixel comes from: rows and columns, int32 [B,H,W]."""
    y = jnp.arange(height, dtype=jnp.int32)[:, None]
    x = jnp.arange(width, dtype=jnp.int32)[None]
    a, b, c, d, e, f = (matrices[:, i, None, None] for i in range(6))
    return d * x + e * y + f, a * x + b * y + c


def _weights(share: jax.Array, cubic: jax.Array) -> jax.Array:
    """Of the four pixels about a place, which lies at that share between the middle two.

    Pillow's bicubic filter is Keys' with a = -1 here, another one than when it resizes.
    """
    one, half = 1 << _WEIGHT, 1 << (_WEIGHT - 1)
    square = (share * share + half) >> _WEIGHT
    cube = (square * share + half) >> _WEIGHT
    bicubic = [2 * square - share - cube, one - 2 * square + cube]
    bicubic += [share + square - cube, cube - square]
    bilinear = [jnp.zeros_like(share), one - share, share, jnp.zeros_like(share)]
    return jnp.where(cubic[..., None], jnp.stack(bicubic, -1), jnp.stack(bilinear, -1))
