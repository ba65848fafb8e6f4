"""Vision Transformers."""

import torch
from torch import nn

from torch_ref import layers
from torch_ref.registry import register


class Block(nn.Module):
    """A pre-norm transformer block: x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = layers.Attention(embed_dim, num_heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = layers.mlp(embed_dim, mlp_dim, dropout=dropout)

    def forward(self, x):
        y, weights = self.attn(self.norm1(x))
        x = x + y
        return x + self.mlp(self.norm2(x)), weights


class VisionTransformer(nn.Module):
    """Patches, class token, learned positions, blocks, norm, and a head on the class token."""

    def __init__(
        self, *, img_size: int, in_channels: int, num_classes: int, patch_size: int,
        embed_dim: int, depth: int, num_heads: int, mlp_dim: int, dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = layers.PatchEmbed(patch_size, in_channels, embed_dim)
        tokens = (img_size // patch_size) ** 2 + 1
        self.cls_token = layers.truncated_normal(1, 1, embed_dim)
        self.pos_embed = layers.truncated_normal(1, tokens, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_dim, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, images, return_intermediates: bool = False):
        """images [B,C,H,W] -> logits [B,K], or (logits, attention and tokens of every block)."""
        x = self.embed(images)
        x = self.dropout(x)
        attention, features = [], []
        for block in self.blocks:
            x, weights = block(x)
            attention.append(weights)
            features.append(x)
        logits = self.head(self.norm(x)[:, 0])
        if return_intermediates:
            return logits, {"attention": tuple(attention), "features": tuple(features)}
        return logits

    def embed(self, images):
        """images [B,C,H,W] -> tokens [B,T,D]: the class token, then the patches, plus positions."""
        x = self.patch_embed(images)
        cls_token = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat([cls_token, x], dim=1) + self.pos_embed


@register
def vit(
    *, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
    patch_size: int = 4, embed_dim: int = 128, depth: int = 6, num_heads: int = 4,
    mlp_dim: int | None = None, dropout: float = 0.1,
) -> VisionTransformer:  # fmt: skip
    """A small pre-norm ViT for CIFAR-10 (1,205,898 parameters); mlp_dim None is 4 · embed_dim."""
    return VisionTransformer(
        img_size=img_size, in_channels=in_channels, num_classes=num_classes,
        patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads,
        mlp_dim=4 * embed_dim if mlp_dim is None else mlp_dim, dropout=dropout,
    )  # fmt: skip
