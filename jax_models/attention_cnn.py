"""A CNN with self-attention over positions after each convolution."""

from collections.abc import Sequence

from flax import nnx

from jax_models import conv_layers, layer_numbers, layers
from jax_models.cnn import BY_STAGE, ConvNet, check_widths
from jax_models.registry import register


@register
def attention_cnn(
    *,
    rngs: nnx.Rngs,
    in_channels: int = 3,
    num_classes: int = 10,
    widths: Sequence[int] = (32, 64, 128, 256, 128),
    remat: bool = False,
) -> ConvNet:
    """A CNN for CIFAR-10 with self-attention after each convolution (737,294 parameters).

    A stage is a 3×3 convolution, ReLU and `conv_layers.SpatialAttention`, at full size all the way;
    the head takes the mean of each channel. The attention of a stage is [B,1,H·W,H·W/4].
    """
    widths = check_widths(widths)
    layers.check_sizes(in_channels=in_channels)
    stages = [
        conv_layers.ConvStage(n, (width,), attention=True, rngs=rngs)
        for n, width in zip((in_channels, *widths), widths, strict=False)
    ]
    head = layers.Head(widths[-1], num_classes, rngs=rngs)
    return ConvNet(stages, head, in_channels=in_channels, remat=remat)


layer_numbers.register(BY_STAGE, attention_cnn)
