"""The Vision Transformers that pretrained weights come in, with timm's parameter names.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/standard_vit.py.
"""

import torch
from torch import nn

from torch_ref import layers
from torch_ref.registry import register
from torch_ref.vit import VisionTransformer


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A Linear layer that starts as timm's do."""
    layer = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def near_zero(*shape: int) -> nn.Parameter:
    """A parameter of normal values with standard deviation 1e-6."""
    return nn.Parameter(torch.randn(shape) * 1e-6)


class PatchEmbed(nn.Module):
    """images [B,C,H,W] -> tokens [B,N,D]."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T])."""

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = linear(embed_dim, 3 * embed_dim)
        self.proj = linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, x):
        y, weights = layers.self_attention(self.qkv(x), self.num_heads)
        return self.proj_drop(self.proj(y)), weights


class Mlp(nn.Module):
    """Linear, exact GELU, dropout, Linear, dropout; or SwiGLU in place of GELU."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, dropout: float, swiglu: bool):
        super().__init__()
        self.swiglu = swiglu
        self.fc1 = linear(embed_dim, (1 + swiglu) * mlp_dim)
        if swiglu:
            nn.init.normal_(self.fc1.weight[mlp_dim:], std=1e-6)
            nn.init.ones_(self.fc1.bias[mlp_dim:])
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = linear(mlp_dim, embed_dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x):
        x = self.fc1(x)
        if self.swiglu:
            gate, values = x.chunk(2, dim=-1)
            x = nn.functional.silu(gate) * values
        else:
            x = nn.functional.gelu(x)
        return self.drop2(self.fc2(self.drop1(x)))


class LayerScale(nn.Module):
    """x [..., D] -> x · gamma."""

    def __init__(self, embed_dim: int, start: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), start))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    """x += drop(ls1(attn(norm1(x)))); x += drop(ls2(mlp(norm2(x))))."""

    def __init__(
        self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float, drop_path: float,
        norm_eps: float, layer_scale: float | None, swiglu: bool,
    ):  # fmt: skip
        super().__init__()

        def scale():
            return nn.Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)

        self.norm1 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.attn = Attention(embed_dim, num_heads, dropout=dropout)
        self.ls1, self.drop_path1 = scale(), layers.DropPath(drop_path)
        self.norm2 = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.mlp = Mlp(embed_dim, mlp_dim, dropout=dropout, swiglu=swiglu)
        self.ls2, self.drop_path2 = scale(), layers.DropPath(drop_path)

    def forward(self, x):
        y, weights = self.attn(self.norm1(x))
        x = x + self.drop_path1(self.ls1(y))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))), weights


@register("vision_transformer")
class StandardViT(VisionTransformer):
    """ViT, DeiT, DeiT-3 and DINOv2, by their settings."""

    def __init__(
        self, *, img_size: int = 224, in_channels: int = 3, num_classes: int = 1000,
        patch_size: int = 16, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
        mlp_dim: int | None = None, dropout: float = 0.0, drop_path: float = 0.0,
        pool: str = "token", norm_eps: float = 1e-6, class_token: bool = True,
        distilled: bool = False, registers: int | None = None, cover_prefix: bool = True,
        layer_scale: float | None = None, swiglu: bool = False, fc_norm: bool | None = None,
    ):  # fmt: skip
        super().__init__()
        self.pool, self.cover_prefix = pool, cover_prefix
        if mlp_dim is None:
            mlp_dim = (4 * embed_dim * 2 // 3 + 7) // 8 * 8 if swiglu else 4 * embed_dim
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = near_zero(1, 1, embed_dim) if class_token else None
        self.dist_token = layers.truncated_normal(1, 1, embed_dim) if distilled else None
        self.reg_token = None if registers is None else near_zero(1, registers, embed_dim)
        self.prefix = class_token + distilled + (registers or 0)
        places = (img_size // patch_size) ** 2 + self.prefix * cover_prefix
        self.pos_embed = layers.truncated_normal(1, places, embed_dim)
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim, num_heads, mlp_dim, dropout=dropout, drop_path=rate,
                norm_eps=norm_eps, layer_scale=layer_scale, swiglu=swiglu,
            )
            for rate in layers.DropPath.rates(drop_path, depth)
        )  # fmt: skip
        last = nn.LayerNorm(embed_dim, eps=norm_eps)
        after = pool == "avg" if fc_norm is None else fc_norm
        self.norm, self.fc_norm = (nn.Identity(), last) if after else (last, nn.Identity())
        self.head_drop = nn.Dropout(0.0 if distilled else dropout)
        width = (1 + (pool == "token_and_avg")) * embed_dim
        self.distilled = distilled
        self.head = linear(width, num_classes) if num_classes else nn.Identity()
        if distilled:
            self.head_dist = linear(embed_dim, num_classes) if num_classes else nn.Identity()

    def embed(self, images):
        x = self.patch_embed(images)
        prefix = [self.cls_token, self.dist_token, self.reg_token]
        prefix = [token.expand(len(x), -1, -1) for token in prefix if token is not None]
        if self.cover_prefix:
            x = torch.cat([*prefix, x], dim=1) + self.pos_embed
        else:
            x = torch.cat([*prefix, x + self.pos_embed], dim=1)
        return self.pos_drop(x)

    def stages(self):
        return self.blocks

    def classify(self, x):
        x = self.norm(x)
        if self.distilled:
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        mean = self.fc_norm(x[:, self.prefix :].mean(dim=1))
        read = {"token": x[:, 0], "avg": mean}
        read["token_and_avg"] = torch.cat([x[:, 0], mean], dim=-1)
        return self.head(self.head_drop(read[self.pool]))
