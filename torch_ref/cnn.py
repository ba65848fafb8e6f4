"""Convolutional classifiers, each with the parameter names of its published source.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/cnn.py.
"""

from collections.abc import Sequence

from torch import nn

from torch_ref import layers
from torch_ref.registry import register


class ConvNet(nn.Module):
    """Stages, and a head on what the last one gives: what the three have in common."""

    def forward(self, images, return_intermediates: bool = False):
        """images [B,C,H,W] -> logits [B,K], or (logits, attention and output of every stage)."""
        x, attention, features = self.embed(images), [], []
        for stage in self.stages():
            x, weights = stage(x)
            features.append(x)
            if weights is not None:
                attention.append(weights)
        logits = self.classify(x)
        if return_intermediates:
            return logits, {"attention": tuple(attention), "features": tuple(features)}
        return logits

    def embed(self, images):
        return images

    def classify(self, x):
        return self.fc(x.mean(dim=(2, 3)))


@register("simple_cnn")
class SimpleCNN(ConvNet):
    """A plain batch-norm CNN for CIFAR-10 (4,694,346 parameters)."""

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 10,
        widths: Sequence[int] = (64, 128, 256, 512),
    ):  # fmt: skip
        super().__init__()
        self.depth = len(widths)
        for i, (n, width) in enumerate(zip((in_channels, *widths), widths, strict=False), start=1):
            self.add_module(f"conv{i}", layers.conv_stage(n, width))
        self.fc = nn.Linear(widths[-1], num_classes)

    def stages(self):
        convs = [self.get_submodule(f"conv{i + 1}") for i in range(self.depth)]
        return [lambda x, conv=conv: (conv(x), None) for conv in convs]


@register("mnist_cnn")
class MnistCNN(ConvNet):
    """Two convolutions without padding for MNIST (1,199,882 parameters)."""

    def __init__(
        self, *, img_size: int = 28, in_channels: int = 1, num_classes: int = 10,
        widths: Sequence[int] = (32, 64), head_dims: Sequence[int] = (128,), dropout: float = 0.25,
        head_dropout: float = 0.5,
    ):  # fmt: skip
        super().__init__()
        (first, second), (hidden,) = widths, head_dims
        self.conv1 = nn.Conv2d(in_channels, first, 3)
        self.conv2 = nn.Conv2d(first, second, 3)
        self.pool = nn.MaxPool2d(2)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(head_dropout)
        self.fc1 = nn.Linear(second * ((img_size - 4) // 2) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def stages(self):
        return [
            lambda x: (self.conv1(x).relu(), None),
            lambda x: (self.dropout1(self.pool(self.conv2(x).relu())), None),
        ]

    def classify(self, x):
        return self.fc2(self.dropout2(self.fc1(x.flatten(1)).relu()))
