"""Mixup and CutMix: images and targets of pairs, blended or cut together.

Papers: https://arxiv.org/abs/1710.09412 and https://arxiv.org/abs/1905.04899; the draws are those
of `timm.data.Mixup`. There a batch is paired with itself turned round; here two neighbours are a
pair, which of examples in random order is as good, and each pair is in one part of a batch and on
one device: how a batch is spread changes nothing, and nothing is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.engine.augment import erasing

_QUANTILES = 4096


def beta_quantiles(alpha: float) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha) at `_QUANTILES` + 1 even places, float32.

    Drawn from between them, a share needs no loop that ends sooner or later for each image.
    """
    from scipy.special import betaincinv

    places = np.linspace(0, 1, _QUANTILES + 1)
    return np.asarray(betaincinv(alpha, alpha, places), np.float32)


@dataclass(frozen=True)
class Mixing:
    """How pairs are mixed.

    Attributes:
      mixup: alpha of the Beta distribution of mixup's shares; 0: no mixup.
      cutmix: the same of CutMix.
      probability: that anything is mixed.
      switch: probability of CutMix, where there are both.
      mode: what draws once: the whole 'batch', a 'pair', or each 'elem'.
    """

    mixup: float
    cutmix: float
    probability: float
    switch: float
    mode: str

    def draw(self, size: tuple[int, int]) -> Callable:
        """Make `key -> (share, box)` for images of this height and width.

        The share is that of the image itself, the box [4] what it has of the other: `erasing.paint`
        takes it. The box is empty where the images are to be blended.
        """
        tables = {True: self.cutmix, False: self.mixup}
        tables = {cut: beta_quantiles(alpha) for cut, alpha in tables.items() if alpha}
        whole = np.array(size, np.int32)

        def draw(key):
            chance, switch, place, *centre = jax.random.uniform(key, (5,), jnp.float32)
            shares = {cut: _between(jnp.asarray(table), place) for cut, table in tables.items()}
            is_cut = switch < self.switch if len(shares) == 2 else jnp.asarray(True in shares)
            share = jnp.where(is_cut, shares.get(True, 1.0), shares.get(False, 1.0))
            share = jnp.where(chance < self.probability, share, 1.0)
            box = _box(share, jnp.stack(centre), whole)
            cut_share = 1 - (box[2] * box[3]).astype(jnp.float32) / np.float32(np.prod(size))
            return jnp.where(is_cut, cut_share, share), jnp.where(is_cut, box, 0)

        return draw

    def mix(
        self, images: jax.Array, shares: jax.Array, keys: jax.Array, batch_key: jax.Array, on
    ) -> tuple[jax.Array, jax.Array]:
        """Mix a batch, or a part of it.

        Args:
          images: float [B,H,W,C], B even.
          shares: of the classes, float [B,K].
          keys: [B], of the examples in this step.
          batch_key: of the whole batch in this step.
          on: bool, whether any is mixed.

        Returns:
          Images and shares of the classes.
        """
        count, draw = len(images), self.draw(images.shape[1:3])
        if self.mode == "batch":
            share, box = draw(batch_key)
            share, box = jnp.broadcast_to(share, (count,)), jnp.broadcast_to(box, (count, 4))
        elif self.mode == "pair":
            drawn = jax.vmap(draw)(keys.reshape(-1, 2)[:, 0])
            share, box = (jnp.repeat(x, 2, axis=0, total_repeat_length=count) for x in drawn)
        else:
            share, box = jax.vmap(draw)(keys)
        share, box = jnp.where(on, share, 1.0), jnp.where(on, box, 0)
        others = _swapped(images)
        of_image = share[:, None, None, None]
        blended = of_image * images + (1 - of_image) * others
        is_cut = (box[:, 2] > 0)[:, None, None, None]
        images = jnp.where(is_cut, erasing.paint(images, box, others), blended)
        return images, share[:, None] * shares + (1 - share[:, None]) * _swapped(shares)


def _between(table: jax.Array, place: jax.Array) -> jax.Array:
    """A table's value at a place in [0, 1)."""
    place = place * _QUANTILES
    low = jnp.floor(place)
    first = table[low.astype(jnp.int32)]
    return first + (place - low) * (table[low.astype(jnp.int32) + 1] - first)


def _box(share, centre, whole: np.ndarray):
    """timm's `rand_bbox`: of the area 1 - share, cut off at the border; [4] as of `paint`.

    Both ends lie half a side away, rounded down, so that an odd side loses a pixel.
    """
    half = jnp.floor(whole * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
    centre = jnp.minimum(jnp.floor(centre * whole).astype(jnp.int32), whole - 1)
    start = jnp.clip(centre - half, 0, whole)
    return jnp.concatenate([start, jnp.clip(centre + half, 0, whole) - start])


def _swapped(array: jax.Array) -> jax.Array:
    """Each with its neighbour's value: [B,...], B even."""
    return array.reshape(-1, 2, *array.shape[1:])[:, ::-1].reshape(array.shape)
