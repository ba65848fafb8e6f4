"""A CNN with self-attention over positions after each convolution."""

from collections.abc import Sequence

from torch import nn

from torch_ref import layers
from torch_ref.cnn import ConvNet
from torch_ref.registry import register


@register("attention_cnn")
class AttentionCNN(ConvNet):
    """A CNN for CIFAR-10 with self-attention after each convolution (737,294 parameters)."""

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        widths: Sequence[int] = (32, 64, 128, 256, 128),
    ):
        super().__init__()
        self.depth = len(widths)
        for i, (n, width) in enumerate(zip((in_channels, *widths), widths, strict=False), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(n, width, 3, padding=1))
            self.add_module(f"sa{i}", layers.SpatialAttention(width))
        self.fc = nn.Linear(widths[-1], num_classes)

    def stages(self):
        pairs = [
            (self.get_submodule(f"conv{i + 1}"), self.get_submodule(f"sa{i + 1}"))
            for i in range(self.depth)
        ]
        return [lambda x, conv=conv, sa=sa: sa(conv(x).relu()) for conv, sa in pairs]
