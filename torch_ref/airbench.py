"""The networks of airbench, with the parameter names of the source's airbench94_muon.py.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/airbench.py.
"""

from collections.abc import Sequence

from torch import nn

from torch_ref.cnn import ConvNet
from torch_ref.registry import register


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3×3 convolution whose first outputs are at first its inputs."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight.data[:inputs])
    return made


class Group(nn.Module):
    """3×3 convolutions, each with batch norm and GELU; of three, the last two are added to x."""

    def __init__(
        self, in_features: int, width: int, depth: int, *, norm_momentum: float, norm_eps: float
    ):
        super().__init__()
        self.depth, norm = depth, {"momentum": norm_momentum, "eps": norm_eps}
        for i in range(1, depth + 1):
            self.add_module(f"conv{i}", conv(in_features if i == 1 else width, width))
            self.add_module(f"norm{i}", nn.BatchNorm2d(width, **norm))
        self.pool, self.activ = nn.MaxPool2d(2), nn.GELU()

    def forward(self, x):
        x = self.activ(self.norm1(self.pool(self.conv1(x))))
        if self.depth == 1:
            return x, None
        y = self.norm2(self.conv2(x))
        if self.depth == 3:
            y = self.norm3(self.conv3(self.activ(y))) + x
        return self.activ(y), None


@register("airbench")
class AirBench(ConvNet):
    """A CNN made to learn CIFAR-10 with few operations. Source: https://arxiv.org/abs/2404.00498.

    The source's recipes train neither `whiten.weight` nor the weights of batch norm.
    """

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 10,
        widths: Sequence[int] = (64, 256, 256), depths: Sequence[int] = (2, 2, 2),
        norm_momentum: float = 0.4, norm_eps: float = 1e-12, head_scale: float = 1 / 9,
        unit_head: bool = False,
    ):  # fmt: skip
        super().__init__()
        first = 2 * 2**2 * in_channels
        self.whiten = nn.Conv2d(in_channels, first, 2)
        nn.init.zeros_(self.whiten.bias)
        norm = {"norm_momentum": norm_momentum, "norm_eps": norm_eps}
        groups = (
            Group(n, width, depth, **norm)
            for n, width, depth in zip((first, *widths), widths, depths, strict=False)
        )
        self.layers = nn.Sequential(nn.GELU(), *groups)
        self.head = nn.Linear(widths[-1], num_classes, bias=False)
        self.scale = head_scale
        if unit_head:
            self.head.weight.data /= self.head.weight.data.std()

    def embed(self, images):
        return self.layers[0](self.whiten(images))

    def stages(self):
        return list(self.layers)[1:]

    def classify(self, x):
        largest = nn.functional.adaptive_max_pool2d(x, 1).flatten(1)
        return self.head(largest) * self.scale
