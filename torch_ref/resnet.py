"""ResNet, with the parameter names of timm and torchvision.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/resnet.py.
"""

from collections.abc import Sequence

from torch import nn

from torch_ref import layers
from torch_ref.cnn import ConvNet
from torch_ref.registry import register


def conv(inputs: int, outputs: int, size: int, *, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of the maps but for its stride."""
    made = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


class Block(nn.Module):
    """Convolutions with batch norm, and ReLU between them, added to the input; then ReLU."""

    def __init__(
        self, in_features: int, widths: Sequence[int], sizes: Sequence[int], *, stride: int,
        drop_path: float,
    ):  # fmt: skip
        super().__init__()
        self.count = len(widths)
        inputs = (in_features, *widths[:-1])
        for i, (n, width, size) in enumerate(zip(inputs, widths, sizes, strict=True)):
            s = stride if i == sizes.index(3) else 1
            self.add_module(f"conv{i + 1}", conv(n, width, size, stride=s))
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(width))
        nn.init.zeros_(self.get_submodule(f"bn{self.count}").weight)
        self.downsample = None
        if stride != 1 or in_features != widths[-1]:
            shortcut = conv(in_features, widths[-1], 1, stride=stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(widths[-1]))
        self.drop_path = layers.DropPath(drop_path)

    def forward(self, x):
        y = x
        for i in range(self.count):
            y = self.get_submodule(f"conv{i + 1}")(y.relu() if i else y)
            y = self.get_submodule(f"bn{i + 1}")(y)
        if self.downsample is not None:
            x = self.downsample(x)
        return (self.drop_path(y) + x).relu()


BLOCKS = {"basic": ((3, 3), (1, 1)), "bottleneck": ((1, 3, 1), (1, 1, 4))}


@register("resnet")
class ResNet(ConvNet):
    """ResNet. Source: https://arxiv.org/abs/1512.03385, as timm has it."""

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1000,
        depths: Sequence[int] = (2, 2, 2, 2), widths: Sequence[int] = (64, 128, 256, 512),
        block: str = "basic", stem: str = "imagenet", drop_path: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.depth = len(depths)
        small = stem == "cifar"
        size, stride = (3, 1) if small else (7, 2)
        self.conv1 = conv(in_channels, widths[0], size, stride=stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        sizes, factors = BLOCKS[block]
        rates = iter(layers.DropPath.rates(drop_path, sum(depths)))
        inputs = widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                outputs = [width * factor for factor in factors]
                how = {"stride": stride, "drop_path": next(rates)}
                blocks.append(Block(inputs, outputs, sizes, **how))
                inputs = outputs[-1]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()

    def embed(self, images):
        return self.maxpool(self.bn1(self.conv1(images)).relu())

    def stages(self):
        parts = [self.get_submodule(f"layer{i + 1}") for i in range(self.depth)]
        return [lambda x, part=part: (part(x), None) for part in parts]
