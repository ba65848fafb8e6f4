"""Boxes of normalised images that are painted over."""

import jax
import jax.numpy as jnp

from jax_train.data.boxes import DRAWS, draw_holes

_fold_in = jax.vmap(jax.random.fold_in, in_axes=(0, None))


def paint(images: jax.Array, boxes: jax.Array, colours: jax.Array | float) -> jax.Array:
    """Images [B,H,W,C] with a box of each painted over.

    Args:
      images: of any type.
      boxes: int32 [B,4]: top, left, height and width, in pixels.
      colours: what is painted, as can be broadcast to the images.
    """
    inside = True
    for axis in (0, 1):
        place = jnp.arange(images.shape[1 + axis], dtype=jnp.int32) - boxes[:, axis, None]
        within = (place >= 0) & (place < boxes[:, 2 + axis, None])
        inside &= jnp.expand_dims(within, (2 - axis, 3))
    return jnp.where(inside, jnp.asarray(colours, images.dtype), images)


def erase(images: jax.Array, keys: jax.Array, probability: float, area, aspect, mode: str):
    """Erase a box of some images, as timm's `RandomErasing` of one box does.

    Args:
      images: normalised, float [B,H,W,C].
      keys: [B].
      probability: of each image.
      area: least and largest share of the image's area.
      aspect: least and largest ratio of height to width.
      mode: what the box is filled with: 'const' zeros, the mean colour; 'rand' a colour, 'pixel'
        colours of all pixels, normally distributed.
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, DRAWS, jnp.float32))
    height, width, channels = images.shape[1:]
    boxes = draw_holes(draw(_fold_in(keys, 0)), height, width, area, aspect, xp=jnp)
    chance = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(_fold_in(keys, 1))
    boxes = jnp.where((chance < probability)[:, None], boxes, 0)
    colours = 0.0
    if mode != "const":
        shape = (height, width, channels) if mode == "pixel" else (1, 1, channels)
        normal = jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))
        colours = normal(_fold_in(keys, 2))
    return paint(images, boxes, colours)


def cut_out(images: jax.Array, keys: jax.Array, side: int) -> jax.Array:
    """Set a square of each image [B,H,W,C] to zero, wholly inside; by keys [B]."""
    height, width = images.shape[1:3]
    room = jnp.array([height - side + 1, width - side + 1], jnp.int32)
    corners = jax.vmap(lambda key: jax.random.randint(key, (2,), 0, room, jnp.int32))(keys)
    return paint(images, jnp.concatenate([corners, jnp.full_like(corners, side)], -1), 0.0)
