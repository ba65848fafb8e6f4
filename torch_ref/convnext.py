"""ConvNeXt, with the parameter names of timm.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/convnext.py.
"""

from collections.abc import Sequence

import torch
from torch import nn

from torch_ref import layers
from torch_ref.cnn import ConvNet
from torch_ref.registry import register


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps [B,C,H,W]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear over the last axis."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A depthwise 7×7 convolution, layer norm and MLP, scaled by channel and added to the input."""

    def __init__(self, width: int, *, norm_eps: float, drop_path: float):
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, 4 * width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        self.drop_path = layers.DropPath(drop_path)

    def forward(self, x):
        y = self.conv_dw(x).permute(0, 2, 3, 1)
        y = (self.mlp(self.norm(y)) * self.gamma).permute(0, 3, 1, 2)
        return x + self.drop_path(y)


class Stage(nn.Module):
    """Blocks, and before them a layer norm and a convolution that halves the maps."""

    def __init__(self, in_features: int, width: int, rates, *, halve: bool, norm_eps: float):
        super().__init__()
        self.downsample = nn.Identity()
        if halve:
            norm = ChannelNorm(in_features, eps=norm_eps)
            self.downsample = nn.Sequential(norm, nn.Conv2d(in_features, width, 2, stride=2))
        blocks = [Block(width, norm_eps=norm_eps, drop_path=rate) for rate in rates]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(self.downsample(x)), None


class Stages(nn.ModuleList):
    """The stages; called, it gives them, as the method of that name of other mirrors does."""

    def forward(self):
        return list(self)


@register("convnext")
class ConvNeXt(ConvNet):
    """ConvNeXt. Source: https://arxiv.org/abs/2201.03545, as timm has it."""

    def __init__(
        self, *, in_channels: int = 3, num_classes: int = 1000,
        depths: Sequence[int] = (3, 3, 9, 3), widths: Sequence[int] = (96, 192, 384, 768),
        norm_eps: float = 1e-6, head_norm_eps: float | None = None, drop_path: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        conv = nn.Conv2d(in_channels, widths[0], 4, stride=4)
        self.stem = nn.Sequential(conv, ChannelNorm(widths[0], eps=norm_eps))
        rates = iter(layers.DropPath.rates(drop_path, sum(depths)))
        made, inputs = [], widths[0]
        for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            own = [next(rates) for _ in range(depth)]
            made.append(Stage(inputs, width, own, halve=stage > 0, norm_eps=norm_eps))
            inputs = width
        self.stages = Stages(made)
        head_eps = norm_eps if head_norm_eps is None else head_norm_eps
        self.head = nn.Module()
        self.head.norm = nn.LayerNorm(inputs, eps=head_eps)
        self.head.fc = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, images):
        return self.stem(images)

    def classify(self, x):
        return self.head.fc(self.head.norm(x.mean(dim=(2, 3))))
