"""A ViT for small data sets, with the parameter names of the source's code.

Sizes stand in a row (`fmt: skip`), to be read beside jax_models/sl_vit.py.
"""

import torch
from torch import nn

from torch_ref import layers
from torch_ref.registry import register
from torch_ref.vit import VisionTransformer, num_tokens, with_class_token


def start(module: nn.Module) -> None:
    """Start Linear layers as the source does."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ShiftedPatches(nn.Module):
    """images [B,C,H,W] -> tokens [B,N,D] of each patch and four beside it, half a patch away."""

    def __init__(self, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.patch_size = patch_size
        values = 5 * in_channels * patch_size**2
        # The first is where the source rearranges pixels.
        self.merging = nn.Sequential(
            nn.Identity(), nn.LayerNorm(values), nn.Linear(values, embed_dim)
        )

    def forward(self, images):
        (h, w), p, s = images.shape[2:], self.patch_size, self.patch_size // 2
        padded = nn.functional.pad(images, (s, s, s, s))
        corners = ((0, 0), (0, 2 * s), (2 * s, 0), (2 * s, 2 * s))
        x = torch.cat([images, *(padded[:, :, i : i + h, j : j + w] for i, j in corners)], dim=1)
        x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B,5C,H/P,P,W/P,P]
        return self.merging(x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))


class Attention(nn.Module):
    """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T]); no token attends to itself."""

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.Dropout(dropout))
        self.scale = nn.Parameter((embed_dim // num_heads) ** -0.5 * torch.ones(num_heads))

    def forward(self, x):
        how = {"scale": self.scale, "others_only": True}
        y, weights = layers.self_attention(self.to_qkv(x), self.num_heads, **how)
        return self.to_out(y), weights


class PreNorm(nn.Module):
    """A layer norm, and what is done with what it gives."""

    def __init__(self, embed_dim: int, fn: nn.Module):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(embed_dim), fn

    def forward(self, x):
        return self.fn(self.norm(x))


class Mlp(nn.Module):
    """Linear, exact GELU, dropout, Linear, dropout."""

    def __init__(self, embed_dim: int, mlp_dim: int, *, dropout: float):
        super().__init__()
        self.net = layers.mlp(embed_dim, mlp_dim, dropout=dropout)

    def forward(self, x):
        return self.net(x)


class Block(nn.ModuleList):
    """x += drop(attention(norm(x))); x += drop(mlp(norm(x)))."""

    def __init__(
        self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float, drop_path: float
    ):
        attention = Attention(embed_dim, num_heads, dropout=dropout)
        mlp = Mlp(embed_dim, mlp_dim, dropout=dropout)
        super().__init__([PreNorm(embed_dim, attention), PreNorm(embed_dim, mlp)])
        self.drop_path = layers.DropPath(drop_path)

    def forward(self, x):
        attention, mlp = self[0], self[1]
        y, weights = attention(x)
        x = x + self.drop_path(y)
        return x + self.drop_path(mlp(x)), weights


@register("sl_vit")
class SLViT(VisionTransformer):
    """A pre-norm ViT with shifted patches and locality self-attention (2,729,878 parameters)."""

    def __init__(
        self, *, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
        patch_size: int = 4, embed_dim: int = 192, depth: int = 9, num_heads: int = 12,
        mlp_dim: int = 384, dropout: float = 0.0, drop_path: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.to_patch_embedding = ShiftedPatches(patch_size, in_channels, embed_dim)
        places = num_tokens(img_size, patch_size)
        self.pos_embedding = nn.Parameter(torch.randn(1, places, embed_dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.Module()
        rates = {"dropout": dropout, "drop_path": drop_path}
        self.transformer.layers = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_dim, **rates) for _ in range(depth)
        )
        self.mlp_head = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, num_classes))
        self.apply(start)

    def embed(self, images):
        x = with_class_token(self.cls_token, self.to_patch_embedding(images))
        return self.dropout(x + self.pos_embedding)

    def stages(self):
        return self.transformer.layers

    def classify(self, x):
        return self.mlp_head(x[:, 0])
