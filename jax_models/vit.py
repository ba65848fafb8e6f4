"""Vision Transformers.

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words",
https://arxiv.org/abs/2010.11929.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jax_models import layers
from jax_models.registry import register


class Block(nnx.Module):
    """A pre-norm transformer block: x += attention(norm(x)); x += mlp(norm(x)).

    Args:
      embed_dim: D, the token width.
      num_heads: h, attention heads.
      mlp_dim: F, the hidden width of the MLP.
      dropout: rate on the attention weights and in the MLP.
      rngs: initial weights.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, mlp_dim: int, *, dropout: float, rngs: nnx.Rngs
    ):
        self.norm1 = layers.layer_norm(embed_dim, rngs=rngs)
        self.attn = layers.Attention(embed_dim, num_heads, dropout=dropout, rngs=rngs)
        self.norm2 = layers.layer_norm(embed_dim, rngs=rngs)
        self.mlp = layers.Mlp(embed_dim, mlp_dim, dropout=dropout, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """x [B,T,D] -> (x [B,T,D], attention [B,h,T,T])."""
        y, weights = self.attn(self.norm1(x), train=train, rngs=rngs)
        x = x + y
        return x + self.mlp(self.norm2(x), train=train, rngs=rngs), weights


class VisionTransformer(nnx.Module):
    """Patches, class token, learned positions, blocks, norm, and a head on the class token.

    Args:
      img_size: side of the square images, pixels.
      in_channels: C.
      num_classes: K.
      patch_size: P, divides img_size; N = (img_size / P)² patches, T = N + 1 tokens.
      embed_dim: D, a multiple of num_heads.
      depth: number of blocks.
      num_heads: h.
      mlp_dim: F.
      dropout: rate after the positions, on the attention weights and in the MLPs.
      rngs: initial weights.

    Raises:
      ValueError: a size is below 1, patches do not tile the image, or heads the width.
    """

    def __init__(
        self, *, img_size: int, in_channels: int, num_classes: int, patch_size: int,
        embed_dim: int, depth: int, num_heads: int, mlp_dim: int, dropout: float, rngs: nnx.Rngs,
    ):  # fmt: skip
        layers.check_sizes(
            img_size=img_size, in_channels=in_channels, num_classes=num_classes, depth=depth,
            patch_size=patch_size, embed_dim=embed_dim, num_heads=num_heads, mlp_dim=mlp_dim,
        )  # fmt: skip
        self.img_size = img_size
        self.in_channels = in_channels
        self.patch_embed = layers.PatchEmbed(
            img_size, patch_size, in_channels, embed_dim, rngs=rngs
        )
        tokens = self.patch_embed.num_patches + 1
        self.cls_token = nnx.Param(layers.truncated_normal(rngs.params(), (1, 1, embed_dim)))
        self.pos_embed = nnx.Param(layers.truncated_normal(rngs.params(), (1, tokens, embed_dim)))
        self.dropout = layers.Dropout(dropout)
        self.blocks = nnx.List(
            Block(embed_dim, num_heads, mlp_dim, dropout=dropout, rngs=rngs) for _ in range(depth)
        )
        self.norm = layers.layer_norm(embed_dim, rngs=rngs)
        self.head = layers.linear(embed_dim, num_classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None,
        return_intermediates: bool = False,
    ) -> jax.Array | tuple[jax.Array, dict[str, tuple[jax.Array, ...]]]:  # fmt: skip
        """Classify images.

        Args:
          images: float [B,H,W,C].
          train: drop values out.
          rngs: `nnx.Rngs(dropout=key)`, needed in training with dropout.
          return_intermediates: also return `{"attention": …, "features": …}`, per block the
            attention [B,h,T,T] (in training after dropout) and the tokens [B,T,D].

        Returns:
          logits [B,K], or (logits, intermediates).

        Raises:
          ValueError: images of another shape or of integers; training without `rngs`.
        """
        layers.check_images(images, self.in_channels, self.img_size)
        x = self.embed(images)
        x = self.dropout(x, train=train, rngs=rngs)
        attention, features = [], []
        for block in self.blocks:
            x, weights = block(x, train=train, rngs=rngs)
            attention.append(weights)
            features.append(x)
        logits = self.head(self.norm(x)[:, 0])
        if return_intermediates:
            return logits, {"attention": tuple(attention), "features": tuple(features)}
        return logits

    def embed(self, images: jax.Array) -> jax.Array:
        """images [B,H,W,C] -> tokens [B,T,D]: the class token, then the patches, plus positions."""
        x = self.patch_embed(images)
        cls_token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[2]))
        return jnp.concatenate([cls_token.astype(x.dtype), x], axis=1) + self.pos_embed[...]

    def torch_names(self) -> dict:
        """Where the PyTorch state dict has other names or shapes (see `torch_weights`)."""
        d, p = self.cls_token.shape[-1], self.patch_embed.patch_size
        names = {
            "patch_embed.projection.kernel": (
                "patch_embed.projection.weight",
                (d, self.in_channels, p, p),
            )
        }
        for i in range(len(self.blocks)):
            names[f"blocks.{i}.mlp.fc1"] = f"blocks.{i}.mlp.0"
            names[f"blocks.{i}.mlp.fc2"] = f"blocks.{i}.mlp.3"
        return names


@register
def vit(
    *, rngs: nnx.Rngs, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
    patch_size: int = 4, embed_dim: int = 128, depth: int = 6, num_heads: int = 4,
    mlp_dim: int | None = None, dropout: float = 0.1,
) -> VisionTransformer:  # fmt: skip
    """A small pre-norm ViT for CIFAR-10 (1,205,898 parameters); mlp_dim None is 4 · embed_dim."""
    return VisionTransformer(
        img_size=img_size, in_channels=in_channels, num_classes=num_classes,
        patch_size=patch_size, embed_dim=embed_dim, depth=depth, num_heads=num_heads,
        mlp_dim=4 * embed_dim if mlp_dim is None else mlp_dim, dropout=dropout, rngs=rngs,
    )  # fmt: skip
