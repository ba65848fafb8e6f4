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


def patches(images, patch_size: int):
    """images [B,C,H,W] -> patches [B,N,C·P·P] in row-major order, each flattened as (C,P,P)."""
    return nn.functional.unfold(images, patch_size, stride=patch_size).transpose(1, 2)


def self_attention(
    qkv, num_heads: int, dropout: nn.Module | None = None, *, scale=None, others_only: bool = False
):
    """Queries, keys and values [B,T,3D] -> (output [B,T,D], attention [B,h,T,T] after dropout).

    Scores are scaled by 1/√d, or by `scale` [h]; with `others_only` no token attends to itself.
    """
    b, t, three = qkv.shape
    head_dim = three // 3 // num_heads
    q, k, v = qkv.reshape(b, t, 3, num_heads, head_dim).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * (head_dim**-0.5 if scale is None else scale[:, None, None])
    if others_only:
        itself = torch.eye(t, dtype=torch.bool, device=qkv.device)
        scores = scores.masked_fill(itself, -torch.inf)
    weights = scores.softmax(dim=-1)
    weights = weights if dropout is None else dropout(weights)
    return (weights @ v).transpose(1, 2).reshape(b, t, three // 3), weights


class Attention(nn.Module):
    """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T], in training after dropout)."""

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        y, weights = self_attention(self.qkv(x), self.num_heads, self.dropout)
        return self.projection(y), weights


class SeparateAttention(nn.Module):
    """As `Attention`, with one Linear each for queries, keys and values, and no dropout."""

    def __init__(self, embed_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.fc_out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            layer(x).reshape(b, t, self.num_heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (q @ k.transpose(-2, -1) * (d // self.num_heads) ** -0.5).softmax(dim=-1)
        return self.fc_out((weights @ v).transpose(1, 2).reshape(b, t, d)), weights


def multihead(embed_dim: int, num_heads: int, *, dropout: float = 0.0) -> nn.MultiheadAttention:
    """PyTorch's own attention, batch first."""
    return nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)


def attend(attention: nn.MultiheadAttention, x):
    """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T], in training after dropout)."""
    return attention(x, x, x, need_weights=True, average_attn_weights=False)


def mlp(embed_dim: int, mlp_dim: int, *, dropout: float) -> nn.Sequential:
    """Linear, exact GELU, dropout, Linear, dropout."""
    hidden, out = nn.Linear(embed_dim, mlp_dim), nn.Linear(mlp_dim, embed_dim)
    return nn.Sequential(hidden, nn.GELU(), nn.Dropout(dropout), out, nn.Dropout(dropout))


class DropPath(nn.Dropout):
    """Stochastic depth: leave a branch x [B, ...] out, for each example by its own chance."""

    def forward(self, x):
        return x * super().forward(x.new_ones(len(x), *(1,) * (x.ndim - 1)))

    @staticmethod
    def rates(last: float, count: int) -> tuple[float, ...]:
        """The rates of `count` blocks, which rise evenly from 0 to that of the last one."""
        return tuple(last * i / max(count - 1, 1) for i in range(count))


class SpatialAttention(nn.Module):
    """Self-attention over the positions of a feature map, keys and values pooled 2×2.

    x [B,C,H,W] -> (x + attended [B,C,H,W], attention [B,1,H·W,H·W/4]).
    """

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        inner = channels // reduction
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.o = nn.Conv2d(inner, channels, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        b, _, h, w = x.shape
        theta = self.theta(x).flatten(2)
        phi = self.pool(self.phi(x)).flatten(2)
        g = self.pool(self.g(x)).flatten(2)
        weights = (theta.transpose(1, 2) @ phi).softmax(dim=-1)
        y = (g @ weights.transpose(1, 2)).reshape(b, -1, h, w)
        return x + self.o(y), weights[:, None]


def conv_stage(in_features: int, out_features: int) -> nn.Sequential:
    """(3×3 convolution, batch norm, ReLU) twice, then 2×2 max-pooling."""

    def conv(features):
        yield nn.Conv2d(features, out_features, 3, padding=1)
        yield from (nn.BatchNorm2d(out_features), nn.ReLU())

    return nn.Sequential(*conv(in_features), *conv(out_features), nn.MaxPool2d(2))


def truncated_normal(*shape: int) -> nn.Parameter:
    """A parameter of normal values with standard deviation 0.02, cut at ±2 absolute."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
