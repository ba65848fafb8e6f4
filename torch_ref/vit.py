"""Vision Transformers, each with the parameter names of its published source.

Sizes stand in rows (`fmt: skip`), to be read beside jax_models/vit.py.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

import torch
from torch import nn

from torch_ref import layers
from torch_ref.registry import register


class VisionTransformer(nn.Module):
    """Tokens, blocks, and a head, `classify`: what all of them have in common."""

    def forward(self, images, return_intermediates: bool = False):
        """images [B,C,H,W] -> logits [B,K], or (logits, attention and tokens of every block)."""
        x = self.embed(images)
        attention, features = [], []
        for block in self.stages():
            x, weights = block(x)
            attention.append(weights)
            features.append(x)
        logits = self.classify(x)
        if return_intermediates:
            return logits, {"attention": tuple(attention), "features": tuple(features)}
        return logits


def with_class_token(token, x):
    """token [1,1,D], x [B,N,D] -> [B,N+1,D]."""
    return torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)


def num_tokens(img_size: int, patch_size: int) -> int:
    """The patches of a square image and the class token."""
    return (img_size // patch_size) ** 2 + 1


class PreNormBlock(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

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


@register("vit")
class ViT(VisionTransformer):
    """A small pre-norm ViT for CIFAR-10 (1,205,898 parameters); mlp_dim None is 4 · embed_dim."""

    def __init__(
        self, *, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
        patch_size: int = 4, embed_dim: int = 128, depth: int = 6, num_heads: int = 4,
        mlp_dim: int | None = None, dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.patch_embed = layers.PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = layers.truncated_normal(1, 1, embed_dim)
        self.pos_embed = layers.truncated_normal(1, num_tokens(img_size, patch_size), embed_dim)
        self.dropout = nn.Dropout(dropout)
        hidden = 4 * embed_dim if mlp_dim is None else mlp_dim
        self.blocks = nn.ModuleList(
            PreNormBlock(embed_dim, num_heads, hidden, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def embed(self, images):
        x = with_class_token(self.cls_token, self.patch_embed(images)) + self.pos_embed
        return self.dropout(x)

    def stages(self):
        return self.blocks

    def classify(self, x):
        return self.head(self.norm(x[:, 0]))


class RasterLayer(nn.Sequential):
    """x += attn(ReLU(LN(x))); x += Linear(ReLU(LN(Linear(ReLU(LN(x))))))."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int):
        super().__init__(
            nn.LayerNorm(embed_dim),
            nn.ReLU(),
            layers.SeparateAttention(embed_dim, num_heads),
            nn.LayerNorm(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, mlp_dim),
            nn.LayerNorm(mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, embed_dim),
        )

    def forward(self, x):
        y, weights = self[2](self[1](self[0](x)))
        x = x + y
        y = x
        for layer in list(self)[3:]:
            y = layer(y)
        return x + y, weights


@register("raster_vit")
class RasterViT(VisionTransformer):
    """A ViT over runs of the image's memory in C,H,W order, not patches (159,498 parameters)."""

    def __init__(
        self, *, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
        patch_size: int = 4, embed_dim: int = 64, depth: int = 3, num_heads: int = 4,
        mlp_dim: int = 256,
    ):  # fmt: skip
        super().__init__()
        self.run = in_channels * patch_size**2
        self.class_token = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.positional_embedding = nn.Parameter(
            torch.randn(1, num_tokens(img_size, patch_size), embed_dim)
        )
        self.patch_embedding = nn.Linear(self.run, embed_dim)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(
            RasterLayer(embed_dim, num_heads, mlp_dim) for _ in range(depth)
        )
        self.fc = nn.Linear(embed_dim, num_classes)

    def embed(self, images):
        x = self.patch_embedding(images.reshape(images.shape[0], -1, self.run))
        return with_class_token(self.class_token, x) + self.positional_embedding

    def stages(self):
        return self.encoder.layers

    def classify(self, x):
        return self.fc(x[:, 0])


class DeepBlock(nn.Module):
    """x += MHA(LN(x)); x += drop(Linear(drop(GELU(Linear(LN(x))))))."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = layers.multihead(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, embed_dim)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        y, weights = layers.attend(self.attn, self.norm1(x))
        x = x + y
        y = self.dropout(self.activation(self.fc1(self.norm2(x))))
        return x + self.dropout(self.fc2(y)), weights


@register("deep_vit")
class DeepViT(VisionTransformer):
    """A deep pre-norm ViT for CIFAR-100 (12,862,820 parameters)."""

    def __init__(
        self, *, img_size: int = 32, in_channels: int = 3, num_classes: int = 100,
        patch_size: int = 4, embed_dim: int = 256, depth: int = 24, num_heads: int = 8,
        mlp_dim: int = 512, head_dims: Sequence[int] = (512,), dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.patch_size = patch_size
        self.class_embed = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, num_tokens(img_size, patch_size), embed_dim))
        self.input = nn.Linear(in_channels * patch_size**2, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.transformer = nn.ModuleList(
            DeepBlock(embed_dim, num_heads, mlp_dim, dropout=dropout) for _ in range(depth)
        )
        (hidden,) = head_dims
        self.fc1 = nn.Linear(embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def embed(self, images):
        x = self.input(layers.patches(images, self.patch_size)).relu()
        return self.dropout(with_class_token(self.class_embed, x) + self.pos_embed)

    def stages(self):
        return self.transformer

    def classify(self, x):
        return self.fc2(self.fc1(x[:, 0]).relu())


class PostNormBlock(nn.Module):
    """x = LN(x + drop(MHA(x))); x = LN(x + drop(Linear(drop(GELU(Linear(x))))))."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float):
        super().__init__()
        self.self_attn = layers.multihead(embed_dim, num_heads, dropout=dropout)
        self.linear1 = nn.Linear(embed_dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        y, weights = layers.attend(self.self_attn, x)
        x = self.norm1(x + self.dropout(y))
        y = self.dropout(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(y))), weights


@register("mnist_vit")
class MnistViT(VisionTransformer):
    """A post-norm ViT for MNIST (3,417,816 parameters), attending over tokens."""

    def __init__(
        self, *, img_size: int = 28, in_channels: int = 1, num_classes: int = 10,
        patch_size: int = 7, embed_dim: int = 128, depth: int = 4, num_heads: int = 4,
        mlp_dim: int = 3000, head_dims: Sequence[int] = (250, 100), dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__()
        self.patch_size = patch_size
        self.class_random = nn.Parameter(torch.randn(1, 1, embed_dim))
        self.position_embeddings = nn.Embedding(num_tokens(img_size, patch_size), embed_dim)
        self.patch_projection = nn.Linear(in_channels * patch_size**2, embed_dim)
        self.encoder1 = nn.Module()
        self.encoder1.layers = nn.ModuleList(
            PostNormBlock(embed_dim, num_heads, mlp_dim, dropout=dropout) for _ in range(depth)
        )
        first, second = head_dims
        self.mlp1 = nn.Linear(embed_dim, first)
        self.mlp2 = nn.Linear(first, second)
        self.mlp3 = nn.Linear(second, num_classes)

    def embed(self, images):
        x = self.patch_projection(layers.patches(images, self.patch_size))
        x = with_class_token(self.class_random, x) + self.position_embeddings.weight
        return nn.functional.normalize(x, dim=1, eps=1e-12)

    def stages(self):
        return self.encoder1.layers

    def classify(self, x):
        return self.mlp3(self.mlp2(self.mlp1(x[:, 0])).tanh())


def gelu_layers(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, exact GELU and dropout, from each width to the next."""
    parts = [(nn.Linear(n, m), nn.GELU(), nn.Dropout(dropout)) for n, m in pairwise(widths)]
    return nn.Sequential(*chain.from_iterable(parts))


class DoubleNormBlock(nn.Module):
    """y = LN(x + drop(MHA(LN(x)))); out = LN(y + ffn(y)), GELU and dropout after both Linears."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float):
        super().__init__()
        self.layer_norm_input = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = layers.multihead(embed_dim, num_heads)
        self.dropout_attn = nn.Dropout(dropout)
        self.layer_norm_1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.layer_norm_2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.ffn = gelu_layers((embed_dim, mlp_dim, embed_dim), dropout)

    def forward(self, x):
        y, weights = layers.attend(self.attn, self.layer_norm_input(x))
        y = self.layer_norm_1(x + self.dropout_attn(y))
        return self.layer_norm_2(y + self.ffn(y)), weights


class TokenEmbedding(nn.Module):
    """images [B,C,H,W] -> [B,N+1,D]: a learned class token, Linear patches, positions."""

    def __init__(self, img_size: int, patch_size: int, in_channels: int, embed_dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.position_emb = nn.Embedding(num_tokens(img_size, patch_size), embed_dim)
        self.projection_layer = nn.Linear(in_channels * patch_size**2, embed_dim)
        self.class_parameter = nn.Parameter(torch.rand(1, 1, embed_dim))

    def forward(self, images):
        x = self.projection_layer(layers.patches(images, self.patch_size))
        return with_class_token(self.class_parameter, x) + self.position_emb.weight


@register("mlp_head_vit")
class MlpHeadViT(VisionTransformer):
    """A ViT with norms before and after, a wide MLP head and one class token (2,618,916)."""

    def __init__(
        self, *, img_size: int = 72, in_channels: int = 3, num_classes: int = 100,
        patch_size: int = 6, embed_dim: int = 64, depth: int = 8, num_heads: int = 4,
        mlp_dim: int = 128, head_dims: Sequence[int] = (2048, 1024), dropout: float = 0.1,
        head_dropout: float = 0.5,
    ):  # fmt: skip
        super().__init__()
        self.patch_embedding_layer = TokenEmbedding(img_size, patch_size, in_channels, embed_dim)
        self.transformer_layers = nn.ModuleList(
            DoubleNormBlock(embed_dim, num_heads, mlp_dim, dropout=dropout) for _ in range(depth)
        )
        self.mlp_block = gelu_layers((embed_dim, *head_dims), head_dropout)
        self.logits_layer = nn.Linear(head_dims[-1], num_classes)

    def embed(self, images):
        return self.patch_embedding_layer(images)

    def stages(self):
        return self.transformer_layers

    def classify(self, x):
        return self.logits_layer(self.mlp_block(x[:, 0]))
