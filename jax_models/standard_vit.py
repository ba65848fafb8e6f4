"""The Vision Transformers that pretrained weights come in: ViT, DeiT, DeiT-3, DINOv2.

Names, sizes and initial weights are timm's; a name is a row of `SIZES`.
"""

from flax import nnx
from jax import nn

from jax_models import layer_numbers, layers, ops, vit
from jax_models.registry import register_as
from jax_models.tokens import Pool, Prefix

_WIDTHS = {  # embed_dim, num_heads, depth
    "tiny": (192, 3, 12),
    "small": (384, 6, 12),
    "medium": (512, 8, 12),
    "base": (768, 12, 12),
    "large": (1024, 16, 24),
    "giant": (1536, 24, 40),
}
_DEIT3 = {"cover_prefix": False, "layer_scale": 1e-6}
_DINOV2 = {"layer_scale": 1e-5}
_REGISTERS = {"registers": 4, "cover_prefix": False}


def _sizes(width: str, patch_size: int, img_size: int, **others) -> dict:
    embed_dim, num_heads, depth = _WIDTHS[width]
    sizes = {"img_size": img_size, "patch_size": patch_size, "embed_dim": embed_dim}
    return sizes | {"depth": depth, "num_heads": num_heads} | others


# Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, and Steiner et al. 2021,
# https://arxiv.org/abs/2106.10270.
_VIT = {
    f"vit_{width}_patch{patch}_{size}": _sizes(width, patch, size)
    for width, patch, size in (
        ("tiny", 16, 224),
        ("tiny", 16, 384),
        ("small", 32, 224),
        ("small", 16, 224),
        ("small", 16, 384),
        ("base", 32, 224),
        ("base", 32, 384),
        ("base", 16, 224),
        ("base", 16, 384),
        ("base", 8, 224),
        ("large", 16, 224),
        ("large", 16, 384),
    )
}
# Source: Touvron et al. 2020, https://arxiv.org/abs/2012.12877.
_DEIT = {
    f"deit_{width}_{distilled}patch16_{size}": _sizes(width, 16, size, distilled=bool(distilled))
    for width, size in (("tiny", 224), ("small", 224), ("base", 224), ("base", 384))
    for distilled in ("", "distilled_")
}
# Source: Touvron et al. 2022, https://arxiv.org/abs/2204.07118.
_DEIT3_NAMES = {
    f"deit3_{width}_patch16_{size}": _sizes(width, 16, size, **_DEIT3)
    for width in ("small", "medium", "base", "large")
    for size in (224, 384)
    if (width, size) != ("medium", 384)
}
# Source: Oquab et al. 2023, https://arxiv.org/abs/2304.07193; registers: Darcet et al. 2023,
# https://arxiv.org/abs/2309.16588.
_DINOV2_NAMES = {
    f"vit_{width}_patch14_{registers}dinov2": _sizes(
        width, 14, 518, **_DINOV2, swiglu=width == "giant", **(_REGISTERS if registers else {})
    )
    for width in ("small", "base", "large", "giant")
    for registers in ("", "reg4_")
}
SIZES = _VIT | _DEIT | _DEIT3_NAMES | _DINOV2_NAMES


@register_as(SIZES)
def vision_transformer(
    *, rngs: nnx.Rngs, img_size: int = 224, in_channels: int = 3, num_classes: int = 1000,
    patch_size: int = 16, embed_dim: int = 768, depth: int = 12, num_heads: int = 12,
    mlp_dim: int | None = None, dropout: float = 0.0, drop_path: float = 0.0,
    pool: str = "token", norm_eps: float = 1e-6, class_token: bool = True,
    distilled: bool = False, registers: int | None = None, cover_prefix: bool = True,
    layer_scale: float | None = None, swiglu: bool = False, fc_norm: bool | None = None,
    remat: bool = False, scan_layers: bool = False,
) -> vit.VisionTransformer:  # fmt: skip
    """A ViT as timm, torchvision, Hugging Face and Google have it.

    Args:
      rngs: initial weights.
      img_size, in_channels, patch_size, embed_dim, depth, num_heads: sizes.
      num_classes: 0 for no head: the model then gives what a head would read.
      mlp_dim: None is 4 · embed_dim; with swiglu two thirds of it, rounded up to a multiple of 8.
      dropout: rate after the positions, on the output of each attention and inside the MLPs, and
        on what the head reads.
      drop_path: rate of stochastic depth in the last block; it grows evenly from 0 in the first.
      pool: what the head reads, see `tokens.Pool`.
      norm_eps: of the layer norms; Hugging Face's ViT and DeiT have 1e-12.
      class_token: whether there is one; without, as in big_vision's models, pool is 'avg'.
      distilled: a second token, with a head of its own; the logits are the mean of both.
      registers: how many tokens follow that nothing reads; None for none.
      cover_prefix: whether the tokens before the patches have positions too.
      layer_scale: what the scale of each branch starts from; None for none.
      swiglu: SwiGLU in place of GELU.
      fc_norm: the last norm stands after the pool; None: where that is 'avg'.
      remat, scan_layers: see `create_model`.

    Raises:
      ValueError: a setting is out of its range, or two do not go together.
    """
    _check(pool, class_token, distilled, fc_norm)
    layers.check_sizes(depth=depth, embed_dim=embed_dim)
    layers.check_positive(norm_eps=norm_eps)
    hidden = (4 * embed_dim * 2 // 3 + 7) // 8 * 8 if swiglu else 4 * embed_dim
    gate = {"activation": nn.silu, "gated": True} if swiglu else {"activation": ops.gelu}

    def block(rate):
        attn = layers.Attention(embed_dim, num_heads, rngs=rngs)
        width = hidden if mlp_dim is None else mlp_dim
        mlp = layers.Mlp(embed_dim, width, dropout=dropout, **gate, rngs=rngs)
        paths = {"dropout": dropout, "layer_scale": layer_scale, "drop_path": rate}
        norms = {"norms": vit.PRE_NORM, "epsilon": norm_eps}
        return vit.Block(embed_dim, attn, mlp, **norms, **paths, rngs=rngs)

    def head():
        width = 2 * embed_dim if pool == "token_and_avg" else embed_dim
        rate = 0.0 if distilled else dropout
        return layers.linear_head(width, num_classes, in_dropout=rate, rngs=rngs)

    patches = layers.PatchEmbed(img_size, patch_size, in_channels, embed_dim, rngs=rngs)
    blocks = [block(rate) for rate in layers.DropPath.rates(drop_path, depth)]
    heads = layers.MeanHead([head(), head()]) if distilled else head()
    for part in (*blocks, heads):
        layers.start_layers(part, rngs)
    if swiglu:
        _open_gates(blocks, rngs)
    prefix = [Prefix("cls_token", layers.near_zero)] if class_token else []
    if distilled:
        prefix.append(Prefix("dist_token", layers.truncated_normal))
    if registers is not None:
        layers.check_sizes(registers=registers)
        prefix.append(Prefix("reg_token", layers.near_zero, registers))
    last = "fc_norm" if (pool == "avg" if fc_norm is None else fc_norm) else "norm"
    norm = {last: layers.LayerNorm(embed_dim, epsilon=norm_eps, rngs=rngs)}
    before = sum(tokens.count for tokens in prefix)
    return vit.VisionTransformer(
        patches, blocks, heads, prefix=prefix, position_init=layers.truncated_normal,
        cover_prefix=cover_prefix, dropout=dropout, remat=remat, scan_layers=scan_layers,
        pool=Pool(pool, prefix=before, reads=1 + distilled, **norm), rngs=rngs,
    )  # fmt: skip


layer_numbers.register(vit.LAYERS, vision_transformer)


def _open_gates(blocks: list[vit.Block], rngs: nnx.Rngs) -> None:
    """Start what the gates multiply at nearly 1, as timm does."""
    for block in blocks:
        fc1 = block.mlp.fc1
        half = fc1.out_features // 2
        values = layers.near_zero(rngs.params(), (fc1.in_features, half))
        fc1.kernel = nnx.Param(fc1.kernel[...].at[:, half:].set(values))
        fc1.bias = nnx.Param(fc1.bias[...].at[half:].set(1.0))


def _check(pool: str, class_token: bool, distilled: bool, fc_norm: bool | None) -> None:
    if distilled and pool != "token":
        raise ValueError(f"pool={pool!r}: a distilled model reads its two tokens, pool='token'.")
    if not class_token and (pool != "avg" or distilled):
        given = "distilled=True" if distilled else f"pool={pool!r}"
        raise ValueError(
            f"class_token=False: expected pool='avg' and one head with it, not {given}: without "
            "the token the mean of the patches is all there is to read."
        )
    if fc_norm and pool != "avg":
        raise ValueError(f"fc_norm=True: expected pool='avg' with it, not {pool!r}.")
