"""The parts models are put together from, with the parameter names of the published sources."""

import torch
from torch import nn


class PatchEmbed(nn.Module):
    """images [B,C,H,W] -> tokens [B,N,D] by a P×P convolution with stride P."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.projection = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, images):
        return self.projection(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T], in training after dropout)."""

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        b, t, d = x.shape
        head_dim = d // self.num_heads
        qkv = self.qkv(x).reshape(b, t, 3, self.num_heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * head_dim**-0.5
        weights = self.dropout(scores.softmax(dim=-1))
        y = (weights @ v).transpose(1, 2).reshape(b, t, d)
        return self.projection(y), weights


def mlp(embed_dim: int, mlp_dim: int, *, dropout: float) -> nn.Sequential:
    """Linear, exact GELU, dropout, Linear, dropout."""
    return nn.Sequential(
        nn.Linear(embed_dim, mlp_dim),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(mlp_dim, embed_dim),
        nn.Dropout(dropout),
    )


def conv_stage(in_features: int, out_features: int) -> nn.Sequential:
    """(3×3 convolution, batch norm, ReLU) twice, then 2×2 max-pooling."""
    return nn.Sequential(
        nn.Conv2d(in_features, out_features, 3, padding=1),
        nn.BatchNorm2d(out_features),
        nn.ReLU(),
        nn.Conv2d(out_features, out_features, 3, padding=1),
        nn.BatchNorm2d(out_features),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def truncated_normal(*shape: int) -> nn.Parameter:
    """A parameter of normal values with standard deviation 0.02, cut at ±2 absolute."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
