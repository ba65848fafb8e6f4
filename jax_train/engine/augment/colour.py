"""Changes of colour by torchvision's definitions, a factor and an order for each image.

https://docs.pytorch.org/vision/stable/generated/torchvision.transforms.ColorJitter.html: bytes are
cut down to bytes after each change, as its functions do with uint8 tensors.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_LUMA = (0.2989, 0.587, 0.114)
_Change = Callable[[jax.Array, jax.Array, Callable], jax.Array]


def jitter(images: jax.Array, factors: dict[str, jax.Array], order: jax.Array) -> jax.Array:
    """Change the colours of images, each in an order of its own.

    Args:
      images: `[B, H, W, C]` of 1 or 3 channels: uint8, or float in [0, 1], which is not rounded.
      factors: name in `CHANGES` -> `[B]`. 1 leaves brightness, contrast and saturation as they
        are; hue is turned by the share of a whole turn.
      order: `[B, n]` integers, for each image a permutation of the n names that are in `factors`,
        counted in the order of `CHANGES`.

    Returns:
      Images of the same type; saturation and hue leave grey ones as they are.
    """
    is_bytes = images.dtype == jnp.uint8
    cut = jnp.floor if is_bytes else lambda values: values
    pixels = images.astype(jnp.float32) if is_bytes else images * 255
    names = [name for name in CHANGES if name in factors]
    for step in range(len(names)):
        chosen = order[:, step, None, None, None]
        before = pixels
        for place, name in enumerate(names):
            changed = CHANGES[name](before, factors[name][:, None, None, None], cut)
            pixels = jnp.where(chosen == place, changed, pixels)
    return pixels.astype(jnp.uint8) if is_bytes else pixels / 255


def _blend(other, images, factor, cut):
    # In this form what is equal in both stays as it is, however a product is rounded.
    return cut(jnp.clip(other + factor * (images - other), 0, 255))


def _grey(images, cut):
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., i, None] * share for i, share in enumerate(_LUMA))
    return cut(red + green + blue)


def _brightness(images, factor, cut):
    return _blend(0, images, factor, cut)


def _contrast(images, factor, cut):
    return _blend(_grey(images, cut).mean((1, 2, 3), keepdims=True), images, factor, cut)


def _saturation(images, factor, cut):
    return _blend(_grey(images, cut), images, factor, cut)


def _hue(images, turn, cut):
    """Turn the hue in HSV; see `torchvision.transforms.functional.adjust_hue`."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., i, None] / 255 for i in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    spread = value - jnp.minimum(jnp.minimum(red, green), blue)
    some = jnp.where(spread == 0, 1, spread)
    sixths = jnp.where(
        value == red,
        (green - blue) / some,
        jnp.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )
    channels = []
    for start in (5, 3, 1):
        place = start + sixths + 6 * turn
        place = place - 6 * jnp.floor(place / 6)  # quicker than %
        share = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
        channels.append(value - spread * share)
    # torchvision turns [0, 1] back to bytes by this factor and cuts down.
    scale = 255.999 if cut is jnp.floor else 255
    return cut(jnp.concatenate(channels, -1) * scale)


CHANGES: dict[str, _Change] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}
