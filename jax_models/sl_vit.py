"""A ViT for small data sets; sizes in a row (`fmt: skip`), to be read beside torch_ref/sl_vit.py.

Source: Lee et al. 2021, https://arxiv.org/abs/2112.13492, and its code,
https://github.com/aanna0701/SPT_LSA_ViT.
"""

import jax.numpy as jnp
from flax import nnx

from jax_models import layer_numbers, layers
from jax_models.registry import register
from jax_models.vit import LAYERS, PRE_NORM, Block, VisionTransformer

_xavier_normal = nnx.initializers.variance_scaling(1.0, "fan_avg", "normal", dtype=jnp.float32)


@register
def sl_vit(
    *, rngs: nnx.Rngs, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
    patch_size: int = 4, embed_dim: int = 192, depth: int = 9, num_heads: int = 12,
    mlp_dim: int = 384, dropout: float = 0.0, drop_path: float = 0.1, remat: bool = False,
    scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A pre-norm ViT with shifted patches and locality self-attention (2,729,878 parameters).

    Args:
      rngs: initial weights.
      img_size, in_channels, num_classes, patch_size, embed_dim, depth, num_heads, mlp_dim: sizes;
        see `layers.PatchEmbed` for shifted patches, `layers.Attention` for locality.
      dropout: rate after the positions, on the output of each attention and inside the MLPs.
      drop_path: rate of stochastic depth, the same in all blocks.
      remat, scan_layers: see `create_model`.

    Raises:
      ValueError: a setting is out of its range, or two do not go together.
    """
    layers.check_sizes(depth=depth)

    def block():
        how = {"qkv_bias": False, "locality": True}
        attn = layers.Attention(embed_dim, num_heads, **how, rngs=rngs)
        mlp = layers.Mlp(embed_dim, mlp_dim, dropout=dropout, rngs=rngs)
        paths = {"dropout": dropout, "drop_path": drop_path}
        return Block(embed_dim, attn, mlp, norms=PRE_NORM, **paths, rngs=rngs)

    sizes = img_size, patch_size, in_channels, embed_dim
    patches = layers.PatchEmbed(*sizes, shifted=True, rngs=rngs)
    blocks = [block() for _ in range(depth)]
    norm = layers.LayerNorm(embed_dim, rngs=rngs)
    head = layers.Head(embed_dim, num_classes, norm=norm, rngs=rngs)
    for part in (patches, *blocks, head):
        layers.start_layers(part, rngs, _xavier_normal)
    run = {"remat": remat, "scan_layers": scan_layers, "rngs": rngs}
    return VisionTransformer(patches, blocks, head, dropout=dropout, **run)


layer_numbers.register(LAYERS, sl_vit)
