"""Compact convolutional transformers; sizes in a row (`fmt: skip`), to be read beside
torch_ref/cct.py.

Source: Hassani et al. 2021, https://arxiv.org/abs/2104.05704, and its code,
https://github.com/SHI-Labs/Compact-Transformers.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models import layer_numbers, layers, ops
from jax_models.conv_layers import Conv, Window
from jax_models.registry import register_as
from jax_models.tokens import SequencePool
from jax_models.vit import LAYERS, Block, VisionTransformer

_PLANES = 64  # channels between the convolutions
_POOL = Window(3, 2, 1)
POSITIONS = ("learned", "sine")
_kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_in", "normal", dtype=jnp.float32)
# As torch's trunc_normal_, which cuts at ±2, here ten deviations.
_position_init = nnx.initializers.normal(0.2, jnp.float32)


class ConvEmbed(nnx.Module):
    """Tokens by convolutions without bias, each with ReLU and 3×3 max-pooling with stride 2.

    Args:
      img_size: side of the square images, pixels.
      in_channels: C.
      embed_dim: D.
      count: of the convolutions.
      size: side of their kernels, pixels; k has a padding of k // 2 and a stride of k // 2 - 1, or
        of 1 where that is less.
      rngs: initial weights.

    Raises:
      ValueError: a size is no whole number of at least 1.
    """

    raster = False  # its tokens lie in squares

    def __init__(
        self, img_size: int, in_channels: int, embed_dim: int, *, count: int, size: int,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        layers.check_sizes(img_size=img_size, in_channels=in_channels, embed_dim=embed_dim)
        layers.check_sizes(conv_layers=count, conv_size=size)
        how = {"stride": max(1, size // 2 - 1), "padding": max(1, size // 2), "bias": False}
        inputs = (in_channels, *(_PLANES,) * (count - 1))
        outputs = (*inputs[1:], embed_dim)
        self.convs = nnx.List(
            Conv(n, width, size, **how, kernel=_kaiming_normal, rngs=rngs)
            for n, width in zip(inputs, outputs, strict=True)
        )
        self.img_size, self.in_channels, self.embed_dim = img_size, in_channels, embed_dim
        self.grid = img_size
        for window in self._windows:
            self.grid = window.places(self.grid)
        self.num_patches = self.grid**2

    def __call__(self, images: Array, *, exact: bool = False) -> Array:
        """images [B,H,W,C] -> tokens [B,N,D], row by row; `exact` as in `ops.convolution`."""
        x = images
        for conv in self.convs:
            # ReLU of the largest is the largest after ReLU, of a quarter of the values.
            x = ops.relu(ops.max_pool3x3(conv(x, exact=exact)))
        return x.reshape(x.shape[0], self.num_patches, self.embed_dim)

    @property
    def _windows(self) -> list[Window]:
        return [window for conv in self.convs for window in (conv.window, _POOL)]

    @property
    def token_pixels(self) -> tuple[float, int, int]:
        """(first pixel, pixels per token, side of what a token sees).

        Token i of a row or column stands for pixels first + i·step up to first + (i+1)·step, around
        whose middle lies what it sees.
        """
        first, step, seen = 0, 1, 1
        for size, stride, padding in self._windows:
            seen += step * (size - 1)
            first += step * ((size - stride) / 2 - padding)
            step *= stride
        return first, step, seen


_SMALL = {"embed_dim": 128, "num_heads": 2, "mlp_dim": 128}
_LARGE = {"embed_dim": 256, "num_heads": 4, "mlp_dim": 512}


@register_as(
    {
        "cct_2_3x2": {"depth": 2, "conv_layers": 2, **_SMALL},
        "cct_4_3x2": {"depth": 4, "conv_layers": 2, **_SMALL},
        "cct_6_3x1": {"depth": 6, "conv_layers": 1, **_LARGE},
        "cct_6_3x2": {"depth": 6, "conv_layers": 2, **_LARGE},
        "cct_7_3x1": {"depth": 7, "conv_layers": 1, **_LARGE},
        "cct_7_3x2": {"depth": 7, "conv_layers": 2, **_LARGE},
    }
)
def cct(
    *, rngs: nnx.Rngs, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
    embed_dim: int = 128, depth: int = 2, num_heads: int = 2, mlp_dim: int = 128,
    conv_layers: int = 2, conv_size: int = 3, positions: str = "learned", dropout: float = 0.0,
    attention_dropout: float = 0.1, drop_path: float = 0.1, remat: bool = False,
    scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A CCT: L blocks over tokens of n convolutions, `cct_L_3xn` (cct_2_3x2: 283,723 parameters).

    There is no class token: the head reads a weighted mean of all tokens. As in the source's code,
    the norm after the attention is of the sum, not of the branch that follows.

    Args:
      rngs: initial weights.
      img_size, in_channels, num_classes, embed_dim, depth, num_heads, mlp_dim: sizes.
      conv_layers, conv_size: see `ConvEmbed`.
      positions: 'learned', or 'sine' for those that do not train.
      dropout: rate after the positions, on the output of each attention and inside the MLPs.
      attention_dropout: rate on the attention weights.
      drop_path: rate of stochastic depth in the last block; it grows evenly from 0 in the first.
      remat, scan_layers: see `create_model`.

    Raises:
      ValueError: a setting is out of its range, or two do not go together.
    """
    layers.check_sizes(depth=depth)
    if positions not in POSITIONS:
        raise ValueError(f"positions={positions!r}: expected one of {', '.join(POSITIONS)}.")
    weights = {"dropout": layers.Dropout(attention_dropout, "attention_dropout").rate}

    def block(rate):
        attn = layers.Attention(embed_dim, num_heads, qkv_bias=False, **weights, rngs=rngs)
        mlp = layers.Mlp(embed_dim, mlp_dim, dropout=dropout, rngs=rngs)
        paths = {"dropout": dropout, "drop_path": rate}
        return Block(embed_dim, attn, mlp, norms=("norm1_in", "norm1_out"), **paths, rngs=rngs)

    sizes = {"count": conv_layers, "size": conv_size}
    embed = ConvEmbed(img_size, in_channels, embed_dim, **sizes, rngs=rngs)
    blocks = [block(rate) for rate in layers.DropPath.rates(drop_path, depth)]
    pool = SequencePool(embed_dim, norm=layers.LayerNorm(embed_dim, rngs=rngs), rngs=rngs)
    head = layers.Head(embed_dim, num_classes, rngs=rngs)
    for part in (*blocks, pool, head):
        layers.start_layers(part, rngs)
    return VisionTransformer(
        embed, blocks, head, prefix=(), pool=pool, dropout=dropout, remat=remat,
        position_init=_position_init if positions == "learned" else None,
        scan_layers=scan_layers, rngs=rngs,
    )  # fmt: skip


layer_numbers.register(LAYERS, cct)
