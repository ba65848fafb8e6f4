"""Convolutional classifiers."""

from collections.abc import Sequence

from torch import nn

from torch_ref import layers
from torch_ref.registry import register


class ConvNet(nn.Module):
    """Stages that halve the image (`conv1`, `conv2`, …), global average pooling, linear head."""

    def __init__(self, *, in_channels: int, num_classes: int, widths: Sequence[int]):
        super().__init__()
        inputs = (in_channels, *widths[:-1])
        for i, (n, width) in enumerate(zip(inputs, widths, strict=True), start=1):
            self.add_module(f"conv{i}", layers.conv_stage(n, width))
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, images, return_intermediates: bool = False):
        """images [B,C,H,W] -> logits [B,K], or (logits, the output of every stage)."""
        x, features = images, []
        for name, stage in self.named_children():
            if name.startswith("conv"):
                x = stage(x)
                features.append(x)
        logits = self.fc(x.mean(dim=(2, 3)))
        if return_intermediates:
            return logits, {"attention": (), "features": tuple(features)}
        return logits


@register
def simple_cnn(
    *, in_channels: int = 3, num_classes: int = 10, widths: Sequence[int] = (64, 128, 256, 512)
) -> ConvNet:
    """A plain batch-norm CNN for CIFAR-10 (4,694,346 parameters)."""
    return ConvNet(in_channels=in_channels, num_classes=num_classes, widths=widths)
