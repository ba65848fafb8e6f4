"""Images moved, resized and normalised; the definitions are torchvision's.

https://docs.pytorch.org/vision/stable/transforms.html
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


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
