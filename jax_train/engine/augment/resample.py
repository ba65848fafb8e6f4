"""Boxes of images resized inside the compiled step, by Pillow's definition."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Of the weights, as a power of two: sums of their products with bytes are then exact in float32,
# whatever the order, so that layouts of devices agree to the bit.
_STEPS = 2.0**14


def _triangle(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - x, 0)


def _cubic(x: jax.Array) -> jax.Array:
    """Keys' kernel with a = -1/2, Pillow's and JAX's."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


KERNELS: dict[str, Callable] = {"bilinear": _triangle, "bicubic": _cubic}


def resize_boxes(
    images: jax.Array, boxes: jax.Array, size: tuple[int, int], interpolation: str
) -> jax.Array:
    """Cut a box out of each image and resize it, antialiased.

    As `torchvision.transforms.functional.resized_crop` on Pillow's images, to within one level: the
    columns, then the rows, each rounded to bytes. A pass is one matrix product an image.

    Args:
      images: uint8 `[B, H, W, C]`.
      boxes: `[B, 4]` integers: top, left, height and width, within the image.
      size: height and width, in pixels, of what comes out.
      interpolation: one of `KERNELS`.

    Returns:
      uint8 `[B, *size, C]`.
    """
    top, left, height, width = boxes.T
    kernel = KERNELS[interpolation]
    columns = _weights(left, width, size[1], images.shape[2], kernel)
    rows = _weights(top, height, size[0], images.shape[1], kernel)
    highest = jax.lax.Precision.HIGHEST
    pixels = images.astype(jnp.float32)
    pixels = _to_bytes(jnp.einsum("bow,bhwc->bhoc", columns, pixels, precision=highest))
    pixels = _to_bytes(jnp.einsum("boh,bhwc->bowc", rows, pixels, precision=highest))
    return pixels.astype(jnp.uint8)


def _to_bytes(pixels: jax.Array) -> jax.Array:
    return jnp.clip(jnp.floor(pixels + 0.5), 0, 255)


def _weights(start: jax.Array, length: jax.Array, size: int, whole: int, kernel) -> jax.Array:
    """What each pixel of a side counts for each one that comes out: `[B, size, whole]`."""
    scale = (length / size).astype(jnp.float32)[:, None, None]
    place = (jnp.arange(whole) - start[:, None])[:, None]  # within the box
    centre = (jnp.arange(size, dtype=jnp.float32)[:, None] + 0.5) * scale
    distance = jnp.abs(place + 0.5 - centre) / jnp.maximum(scale, 1)
    inside = (place >= 0) & (place < length[:, None, None])
    weights = jnp.where(inside, kernel(distance), 0)
    return jnp.round(weights / weights.sum(-1, keepdims=True) * _STEPS) / _STEPS
