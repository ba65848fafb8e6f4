"""ConvNeXt; sizes in a row (`fmt: skip`), to be read beside torch_ref/convnext.py."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models import layer_numbers, layers
from jax_models.cnn import ConvNet, check_widths
from jax_models.conv_layers import BlockStage, Conv, Window
from jax_models.registry import register_as
from jax_models.rngs import Rngs


class Reduction(nnx.Module):
    """A convolution over patches that do not overlap, with a layer norm before or after it.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      side: of a patch; what is left over at the right and at the bottom is cut off.
      norm_eps: of the layer norm.
      norm_first: the norm stands before the convolution.
      rngs: initial weights.
    """

    def __init__(
        self, in_features: int, out_features: int, side: int, *, norm_eps: float,
        norm_first: bool, rngs: nnx.Rngs,
    ):  # fmt: skip
        normed = in_features if norm_first else out_features
        self.norm = layers.LayerNorm(normed, epsilon=norm_eps, rngs=rngs)
        self.conv = Conv(in_features, out_features, side, stride=side, rngs=rngs)
        self.norm_first = norm_first

    def __call__(self, x: Array, *, train: bool) -> Array:
        """x [B,H,W,C] -> [B,H//side,W//side,D]."""
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))

    @property
    def windows(self) -> list[Window]:
        """What it sees with."""
        return [self.conv.window]


class Block(nnx.Module):
    """A depthwise 7×7 convolution, layer norm and MLP, scaled by channel and added to the input.

    Args:
      width: channels.
      norm_eps: of the layer norm.
      drop_path: see `layers.DropPath`.
      rngs: initial weights.
    """

    def __init__(self, width: int, *, norm_eps: float, drop_path: float, rngs: nnx.Rngs):
        self.conv = Conv(width, width, 7, padding=3, groups=width, rngs=rngs)
        self.norm = layers.LayerNorm(width, epsilon=norm_eps, rngs=rngs)
        self.mlp = layers.Mlp(width, 4 * width, rngs=rngs)
        self.gamma = nnx.Param(jnp.full(width, 1e-6, jnp.float32))
        self.drop_path = layers.DropPath(drop_path)

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = False
    ) -> tuple[Array, None]:
        """x [B,H,W,C] -> (x [B,H,W,C], None)."""
        y = self.mlp(self.norm(self.conv(x)), train=train, rngs=rngs) * self.gamma[...]
        return x + self.drop_path(y, train=train, rngs=rngs), None

    @property
    def windows(self) -> list[Window]:
        """What it sees with."""
        return [self.conv.window]


@register_as(
    {
        "convnext_tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
        "convnext_small": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
        "convnext_base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
        "convnext_large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536)},
    }
)
def convnext(
    *, rngs: nnx.Rngs, in_channels: int = 3, num_classes: int = 1000,
    depths: Sequence[int] = (3, 3, 9, 3), widths: Sequence[int] = (96, 192, 384, 768),
    norm_eps: float = 1e-6, head_norm_eps: float | None = None, drop_path: float = 0.0,
    remat: bool = False,
) -> ConvNet:  # fmt: skip
    """ConvNeXt. Source: Liu et al. 2022, https://arxiv.org/abs/2201.03545, as timm has it.

    Patches of 4×4 pixels become values, each further stage halves the maps, and the head has a
    layer norm of the mean of each channel.

    Args:
      rngs: initial weights.
      in_channels: C of the images.
      num_classes: K; 0 for no head: the model then gives what a head would read, normed.
      depths: number of blocks of each stage.
      widths: channels of each stage.
      norm_eps: added to the variance in layer norms.
      head_norm_eps: the same in that of the head, where it is another.
      drop_path: rate of the last block, see `layers.DropPath`; those before rise to it from 0.
      remat: see `create_model`.

    Raises:
      ValueError: a value is out of its range, or there are not as many depths as widths.
    """
    widths = check_widths(widths, depths=depths)
    layers.check_sizes(in_channels=in_channels)
    head_eps = norm_eps if head_norm_eps is None else head_norm_eps
    layers.check_positive(norm_eps=norm_eps, head_norm_eps=head_eps)
    rates = iter(layers.DropPath.rates(drop_path, sum(depths)))
    how = {"norm_eps": norm_eps, "rngs": rngs}
    stem = Reduction(in_channels, widths[0], 4, norm_first=False, **how)
    stages, inputs = [], widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        halving = Reduction(inputs, width, 2, norm_first=True, **how) if stage else None
        blocks = [Block(width, drop_path=next(rates), **how) for _ in range(depth)]
        stages.append(BlockStage(blocks, downsample=halving, remat=remat))
        inputs = width
    norm = layers.LayerNorm(inputs, epsilon=head_eps, rngs=rngs)
    head = layers.linear_head(inputs, num_classes, norm=norm, rngs=rngs)
    model = ConvNet(stages, head, stem=stem, in_channels=in_channels)
    layers.start_layers(model, rngs)
    return model


# As timm groups them: each block is a layer, the first of a stage with what halves the maps before.
LAYERS = layer_numbers.Layers(
    stem=r"stem\.", block=r"stages\.(\d+)\.(?:downsample|blocks\.(\d+))\."
)
layer_numbers.register(LAYERS, convnext)
