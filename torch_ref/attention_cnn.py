"""A CNN with self-attention over positions after each convolution."""

from collections.abc import Sequence

from torch import nn

from torch_ref import layers
from torch_ref.registry import register


class AttentionCNN(nn.Module):
    """`attention_cnn`: `conv1`, `sa1`, `conv2`, `sa2`, …, global average pooling, `fc`."""

    def __init__(self, *, in_channels: int, num_classes: int, widths: Sequence[int]):
        super().__init__()
        self.depth = len(widths)
        for i, (n, width) in enumerate(zip((in_channels, *widths), widths, strict=False), start=1):
            self.add_module(f"conv{i}", nn.Conv2d(n, width, 3, padding=1))
            self.add_module(f"sa{i}", layers.SpatialAttention(width))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images, return_intermediates: bool = False):
        """images [B,C,H,W] -> logits [B,K], or (logits, attention and output of every stage)."""
        x, attention, features = images, [], []
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"conv{i}")(x).relu()
            x, weights = self.get_submodule(f"sa{i}")(x)
            attention.append(weights)
            features.append(x)
        logits = self.fc(x.mean(dim=(2, 3)))
        if return_intermediates:
            return logits, {"attention": tuple(attention), "features": tuple(features)}
        return logits


@register
def attention_cnn(
    *, in_channels: int = 3, num_classes: int = 10,
    widths: Sequence[int] = (32, 64, 128, 256, 128),
) -> AttentionCNN:  # fmt: skip
    """A CNN for CIFAR-10 with self-attention after each convolution (737,294 parameters)."""
    return AttentionCNN(in_channels=in_channels, num_classes=num_classes, widths=widths)
