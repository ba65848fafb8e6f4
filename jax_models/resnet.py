"""ResNet; sizes in a row (`fmt: skip`), to be read beside torch_ref/resnet.py."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models import layer_numbers, layers, ops
from jax_models.cnn import ConvNet, check_widths
from jax_models.conv_layers import BatchNorm, BlockStage, Conv, Window, conv_norm
from jax_models.registry import register_as
from jax_models.rngs import Rngs

_kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(inputs: int, outputs: int, size: int, *, rngs: nnx.Rngs, stride: int = 1) -> Conv:
    """A convolution without bias that keeps the size of the maps but for its stride."""
    how = {"stride": stride, "padding": size // 2, "bias": False}
    return Conv(inputs, outputs, size, **how, kernel=_kaiming_normal, rngs=rngs)


class Stem(nnx.Module):
    """A convolution, batch norm, ReLU, and 3×3 max-pooling with stride 2.

    Args:
      in_channels: C of the images.
      width: channels of the output.
      small: for small images: a 3×3 convolution instead of 7×7 with stride 2, and no pooling.
      rngs: initial weights.
    """

    def __init__(self, in_channels: int, width: int, *, small: bool, rngs: nnx.Rngs):
        size, stride = (3, 1) if small else (7, 2)
        self.conv = _conv(in_channels, width, size, stride=stride, rngs=rngs)
        self.norm, self.pool = BatchNorm(width), not small

    def __call__(self, images: Array, *, train: bool) -> Array:
        """images [B,H,W,C] -> [B,H',W',D]."""
        x = conv_norm(self.conv, self.norm, images, train=train)
        return ops.max_pool3x3(x) if self.pool else x

    @property
    def windows(self) -> list[Window]:
        """What it sees with, in order."""
        return [self.conv.window] + [Window(3, 2, 1)] * self.pool


class Block(nnx.Module):
    """Convolutions with batch norm, and ReLU between them, added to the input; then ReLU.

    The input goes through a 1×1 convolution with batch norm where the sum needs another shape. The
    last batch norm starts at zero, so that a block starts as its shortcut, as in timm.

    Args:
      in_features: channels of the input.
      widths: channels of each convolution.
      sizes: of each kernel; the first of 3×3 has the stride.
      stride: 1, or 2 to halve the maps.
      drop_path: see `layers.DropPath`.
      rngs: initial weights.
    """

    def __init__(
        self, in_features: int, widths: Sequence[int], sizes: Sequence[int], *, stride: int,
        drop_path: float, rngs: nnx.Rngs,
    ):  # fmt: skip
        strides = [stride if i == sizes.index(3) else 1 for i in range(len(sizes))]
        inputs = (in_features, *widths[:-1])
        self.convs = nnx.List(
            _conv(n, width, size, stride=s, rngs=rngs)
            for n, width, size, s in zip(inputs, widths, sizes, strides, strict=True)
        )
        self.norms = nnx.List(BatchNorm(width) for width in widths)
        self.norms[-1].scale = nnx.Param(jnp.zeros(widths[-1], jnp.float32))
        changes = stride != 1 or in_features != widths[-1]
        last = widths[-1]
        self.shortcut = _conv(in_features, last, 1, stride=stride, rngs=rngs) if changes else None
        self.shortcut_norm = BatchNorm(last) if changes else None
        self.drop_path = layers.DropPath(drop_path)

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = False
    ) -> tuple[Array, None]:
        """x [B,H,W,C] -> (x [B,H',W',C'], None)."""
        *pairs, last = zip(self.convs, self.norms, strict=True)
        y = x
        for conv, norm in pairs:
            y = conv_norm(conv, norm, y, train=train)
        if self.shortcut is not None:
            x = conv_norm(self.shortcut, self.shortcut_norm, x, train=train, relu=False)
        branch = functools.partial(self.drop_path, train=train, rngs=rngs)
        return conv_norm(*last, y, train=train, added=x, branch=branch), None

    @property
    def windows(self) -> list[Window]:
        """What it sees with, in order."""
        return [conv.window for conv in self.convs]


# Sizes of the kernels of a block, and its channels as multiples of the stage's.
BLOCKS = {"basic": ((3, 3), (1, 1)), "bottleneck": ((1, 3, 1), (1, 1, 4))}
STEMS = ("imagenet", "cifar")


@register_as(
    {
        "resnet18": {"depths": (2, 2, 2, 2), "block": "basic"},
        "resnet34": {"depths": (3, 4, 6, 3), "block": "basic"},
        "resnet50": {"depths": (3, 4, 6, 3), "block": "bottleneck"},
        "resnet101": {"depths": (3, 4, 23, 3), "block": "bottleneck"},
        "resnet152": {"depths": (3, 8, 36, 3), "block": "bottleneck"},
    }
)
def resnet(
    *, rngs: nnx.Rngs, in_channels: int = 3, num_classes: int = 1000,
    depths: Sequence[int] = (2, 2, 2, 2), widths: Sequence[int] = (64, 128, 256, 512),
    block: str = "basic", stem: str = "imagenet", drop_path: float = 0.0, remat: bool = False,
) -> ConvNet:  # fmt: skip
    """ResNet, with the stride of a bottleneck in its 3×3 convolution ("v1.5"), as timm has it.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385. With `stem="cifar"` the images are not
    made smaller before the first stage, as for CIFAR in https://github.com/kuangliu/pytorch-cifar.

    Args:
      rngs: initial weights.
      in_channels: C of the images.
      num_classes: K; 0 for no head: the model then gives the mean of each channel.
      depths: number of blocks of each stage.
      widths: channels inside the blocks of each stage; a bottleneck gives four times as many.
      block: 'basic' (two 3×3 convolutions) or 'bottleneck' (1×1, 3×3, 1×1).
      stem: 'imagenet' (7×7 convolution with stride 2, pooling) or 'cifar' (3×3 convolution).
      drop_path: rate of the last block, see `layers.DropPath`; those before rise to it from 0.
      remat: see `create_model`.

    Raises:
      ValueError: a value is out of its range, or there are not as many depths as widths.
    """
    widths = check_widths(widths, depths=depths)
    layers.check_sizes(in_channels=in_channels)
    for name, value, known in (("block", block, tuple(BLOCKS)), ("stem", stem, STEMS)):
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}.")
    sizes, factors = BLOCKS[block]
    rates = iter(layers.DropPath.rates(drop_path, sum(depths)))
    first = Stem(in_channels, widths[0], small=stem == "cifar", rngs=rngs)
    stages, inputs = [], widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        blocks = []
        for i in range(depth):
            stride = 2 if stage and not i else 1
            outputs = [width * factor for factor in factors]
            how = {"stride": stride, "drop_path": next(rates), "rngs": rngs}
            blocks.append(Block(inputs, outputs, sizes, **how))
            inputs = outputs[-1]
        stages.append(BlockStage(blocks, remat=remat))
    head = layers.linear_head(inputs, num_classes, rngs=rngs)
    return ConvNet(stages, head, stem=first, in_channels=in_channels)


# As timm groups them: each block is a layer.
LAYERS = layer_numbers.Layers(stem=r"stem\.", block=r"stages\.(\d+)\.blocks\.(\d+)\.")
layer_numbers.register(LAYERS, resnet)
