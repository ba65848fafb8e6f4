"""Compact convolutional transformers, with the parameter names of the source's code.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/cct.py.
"""

from itertools import pairwise

import torch
from torch import nn

from torch_ref import layers
from torch_ref.registry import register
from torch_ref.vit import VisionTransformer


def start(module: nn.Module) -> None:
    """Start Linear layers as the source does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def sines(places: int, embed_dim: int):
    """Positions that do not train [1,T,D], worked out in float64 and kept in float32."""
    features = torch.arange(embed_dim, dtype=torch.float64)
    rates = 10000 ** (2 * (features // 2) / embed_dim)
    angles = torch.arange(places, dtype=torch.float64)[:, None] / rates
    return torch.where(features % 2 == 0, angles.sin(), angles.cos())[None].float()


class Tokenizer(nn.Module):
    """images [B,C,H,W] -> tokens [B,N,D] by convolutions, each with ReLU and max-pooling."""

    def __init__(self, in_channels: int, embed_dim: int, *, count: int, size: int):
        super().__init__()
        self.stride, self.padding = max(1, size // 2 - 1), max(1, size // 2)
        how = {"stride": self.stride, "padding": self.padding, "bias": False}
        widths = (in_channels, *(64,) * (count - 1), embed_dim)
        self.conv_layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(n, width, size, **how), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
                )
                for n, width in pairwise(widths)
            )
        )
        for conv, *_ in self.conv_layers:
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, images):
        return self.conv_layers(images).flatten(2).transpose(1, 2)

    def num_tokens(self, img_size: int) -> int:
        """How many tokens a square image gives."""
        for conv, *_ in self.conv_layers:
            img_size = (img_size + 2 * self.padding - conv.kernel_size[0]) // self.stride + 1
            img_size = (img_size + 1) // 2
        return img_size**2


class Attention(nn.Module):
    """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T], in training after dropout)."""

    def __init__(self, embed_dim: int, num_heads: int, *, attention_dropout: float, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.attn_drop = nn.Dropout(attention_dropout)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x):
        y, weights = layers.self_attention(self.qkv(x), self.num_heads, self.attn_drop)
        return self.proj_drop(self.proj(y)), weights


class Block(nn.Module):
    """x = norm1(x + drop(attn(pre_norm(x)))); x += drop(mlp(x))."""

    def __init__(
        self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float,
        attention_dropout: float, drop_path: float,
    ):  # fmt: skip
        super().__init__()
        rates = {"attention_dropout": attention_dropout, "dropout": dropout}
        self.pre_norm = nn.LayerNorm(embed_dim)
        self.self_attn = Attention(embed_dim, num_heads, **rates)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.linear1 = nn.Linear(embed_dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, embed_dim)
        self.activation, self.dropout = nn.GELU(), nn.Dropout(dropout)
        self.drop_path = layers.DropPath(drop_path)

    def forward(self, x):
        y, weights = self.self_attn(self.pre_norm(x))
        x = self.norm1(x + self.drop_path(y))
        y = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return x + self.drop_path(self.dropout(y)), weights


@register("cct")
class CCT(VisionTransformer):
    """Blocks over tokens of convolutions, and a head on a weighted mean of all tokens."""

    def __init__(
        self, *, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
        embed_dim: int = 128, depth: int = 2, num_heads: int = 2, mlp_dim: int = 128,
        conv_layers: int = 2, conv_size: int = 3, positions: str = "learned", dropout: float = 0.0,
        attention_dropout: float = 0.1, drop_path: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.tokenizer = Tokenizer(in_channels, embed_dim, count=conv_layers, size=conv_size)
        places = self.tokenizer.num_tokens(img_size)
        self.classifier = encoder = nn.Module()
        encoder.attention_pool = nn.Linear(embed_dim, 1)
        if positions == "learned":
            values = nn.init.trunc_normal_(torch.empty(1, places, embed_dim), std=0.2)
            encoder.positional_emb = nn.Parameter(values)
        else:
            encoder.register_buffer("positional_emb", sines(places, embed_dim))
        encoder.dropout = nn.Dropout(dropout)
        rates = {"dropout": dropout, "attention_dropout": attention_dropout}
        encoder.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_dim, **rates, drop_path=rate)
            for rate in layers.DropPath.rates(drop_path, depth)
        )
        encoder.norm = nn.LayerNorm(embed_dim)
        encoder.fc = nn.Linear(embed_dim, num_classes)
        encoder.apply(start)

    def embed(self, images):
        x = self.tokenizer(images) + self.classifier.positional_emb
        return self.classifier.dropout(x)

    def stages(self):
        return self.classifier.blocks

    def classify(self, x):
        x = self.classifier.norm(x)
        weights = self.classifier.attention_pool(x).softmax(dim=1)
        return self.classifier.fc((weights.transpose(1, 2) @ x)[:, 0])
