"""Vision Transformers: the shared model, and five published small ones.

Source: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929.
Signatures have their sizes in as many lines as their mirrors in torch_ref, to be read beside them;
hence `fmt: skip`.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models import layer_numbers, layers, ops, stack
from jax_models.registry import register
from jax_models.rngs import Rngs
from jax_models.tokens import Pool, Prefix, SequencePool, sine_positions


class Block(nnx.Module):
    """A transformer block: attention, then an MLP, each with a shortcut around it.

        x = norm1_out(x + drop_path(ls1(dropout(attn(norm1_in(x))))))
        x = norm2_out(x + drop_path(ls2(mlp(norm2_in(x)))))

    Args:
      embed_dim: D, the token width.
      attn: maps tokens to (tokens, attention).
      mlp: maps tokens to tokens.
      norms: which of norm1_in, norm1_out, norm2_in, norm2_out there are.
      epsilon: of the norms.
      in_activation: after norm1_in and norm2_in.
      dropout: rate on the output of the attention.
      layer_scale: what ls1 and ls2, a factor for each feature, start from; None for none.
      drop_path: rate of stochastic depth.
      rngs: initial weights.
    """

    def __init__(
        self, embed_dim: int, attn: layers.Attention, mlp: layers.Mlp, *,
        norms: Sequence[str], epsilon: float = 1e-5, in_activation: Callable = layers.identity,
        dropout: float = 0.0, layer_scale: float | None = None, drop_path: float = 0.0,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.attn, self.mlp = attn, mlp
        self.in_activation = in_activation
        self.dropout, self.drop_path = layers.Dropout(dropout), layers.DropPath(drop_path)
        for name in ("ls1", "ls2"):
            absent = layer_scale is None
            scale = layers.identity if absent else layers.LayerScale(embed_dim, layer_scale)
            setattr(self, name, scale)
        for name in ("norm1_in", "norm1_out", "norm2_in", "norm2_out"):
            norm = layers.LayerNorm(embed_dim, epsilon=epsilon, rngs=rngs)
            setattr(self, name, norm if name in norms else layers.identity)

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = True, queries: int | None = None
    ) -> tuple[Array, Array | None]:
        """x [B,T,D] -> (x [B,T,D], attention [B,h,T,T]); without `maps` that may be None.

        With `queries` only so many tokens, the first ones, are worked out: [B,Q,D], [B,h,Q,T].
        """
        how = {"train": train, "rngs": rngs}
        y = self.in_activation(self.norm1_in(x))
        y, weights = self.attn(y, **how, maps=maps, queries=queries)
        y = self.ls1(self.dropout(y, **how))
        x = self.norm1_out(x[:, :queries] + self.drop_path(y, **how))
        y = self.ls2(self.mlp(self.in_activation(self.norm2_in(x)), **how))
        return self.norm2_out(x + self.drop_path(y, **how)), weights


PRE_NORM = ("norm1_in", "norm2_in")
POST_NORM = ("norm1_out", "norm2_out")
DOUBLE_NORM = ("norm1_in", "norm1_out", "norm2_out")


class VisionTransformer(nnx.Module):
    """Patches, class token, positions, blocks, and a head.

    Args:
      patch_embed: images to N tokens; a `layers.PatchEmbed` or what has its attributes.
      blocks: the transformer blocks.
      head: from what `pool` gives to logits.
      prefix: the tokens before the patches, the class token, if any, first.
      position_init: `f(key, shape)` for learned positions; None for `tokens.sine_positions`.
      cover_prefix: whether the tokens before the patches have positions too.
      embed_activation: after the patch projection.
      unit_columns: divide each feature of an image by its L2 norm over the tokens.
      dropout: rate after the positions.
      pool: what the head reads; the class token.
      norm: of it.
      remat, scan_layers: see `create_model`.
      rngs: initial weights.
    """

    def __init__(
        self, patch_embed: layers.PatchEmbed, blocks: Sequence[Block], head: layers.Head, *,
        prefix: Sequence[Prefix] = (Prefix("cls_token", layers.standard_normal),),
        position_init: Callable | None = layers.standard_normal, cover_prefix: bool = True,
        embed_activation: Callable = layers.identity, unit_columns: bool = False,
        dropout: float = 0.0, pool: Pool | SequencePool | None = None,
        norm: Callable = layers.identity, remat: bool = False, scan_layers: bool = False,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.patch_embed, self.blocks, self.head = patch_embed, nnx.List(blocks), head
        self.embed_activation, self.unit_columns = embed_activation, unit_columns
        self.prefix, self.cover_prefix = tuple(name for name, _, _ in prefix), cover_prefix
        places, width = patch_embed.num_patches, patch_embed.embed_dim
        for name, init, count in prefix:
            setattr(self, name, nnx.Param(init(rngs.params(), (1, count, width))))
            places += count * cover_prefix
        shape, learns = (1, places, width), position_init is not None
        self.pos_embed = nnx.Param(position_init(rngs.params(), shape)) if learns else None
        self.places = places
        self.dropout, self.pool, self.norm = layers.Dropout(dropout), pool or Pool(), norm
        self.remat, self.scan_layers = remat, scan_layers

    def __call__(
        self, images: Array, *, train: bool = False, rngs: Rngs = None,
        return_intermediates: bool = False,
    ) -> Array | tuple[Array, dict[str, tuple[Array, ...]]]:  # fmt: skip
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
        how = {"train": train, "rngs": rngs, "maps": return_intermediates}
        x, seen = self._tokens(images, **how, queries=self.pool.queries)
        logits = self.head(self.norm(self.pool(x)), train=train, rngs=rngs)
        return (logits, seen) if return_intermediates else logits

    def forward_features(self, images: Array) -> Array:
        """images [B,H,W,C] -> tokens [B,T,D] after the last block and its norm; evaluates."""
        return self.norm(self.pool.norm(self._tokens(images)[0]))

    def pooled_features(self, images: Array) -> Array:
        """images [B,H,W,C] -> what the layers of the head read [B,F]; evaluates."""
        x, _ = self._tokens(images, queries=self.pool.queries)
        return self.head.read(self.norm(self.pool(x)))

    def _tokens(
        self, images: Array, *, train: bool = False, rngs: Rngs = None, maps: bool = False,
        queries: int | None = None,
    ) -> tuple[Array, dict[str, tuple[Array, ...]]]:  # fmt: skip
        """What the last block gives, of the first tokens where `queries` says so; intermediates."""
        layers.check_images(images, self.patch_embed.in_channels, self.patch_embed.img_size)
        x = self.dropout(self.embed(images, exact=maps), train=train, rngs=rngs)
        blocks = list(self.blocks)
        last = [] if maps else [blocks.pop()]
        run = stack.scan_parts if self.scan_layers and blocks else stack.run_parts
        how = {"train": train, "maps": maps, "remat": self.remat}
        x, attention, features = run(blocks, x, rngs=rngs, **how)
        for block in last:  # of it the head may take the class token alone
            x, _ = stack.run_part(block, x, rngs, **how, queries=queries)
        return x, {"attention": attention, "features": features}

    def embed(self, images: Array, *, exact: bool = True) -> Array:
        """images [B,H,W,C] -> tokens [B,T,D]: the prefix, then the patches, plus positions.

        What is looked at is `exact`, see `ops.convolution`.
        """
        x = self.embed_activation(self.patch_embed(images, exact=exact))
        tokens = [getattr(self, name)[...] for name in self.prefix]
        tokens = [jnp.broadcast_to(t, (x.shape[0], *t.shape[1:])).astype(x.dtype) for t in tokens]
        positions = self.positions.astype(x.dtype)
        if self.cover_prefix:
            x = jnp.concatenate([*tokens, x], axis=1) + positions
        else:
            x = jnp.concatenate([*tokens, x + positions], axis=1)
        if self.unit_columns:
            # As torch.nn.functional.normalize(eps=1e-12); the maximum is inside the root because
            # the root has no gradient at 0.
            x = x / jnp.sqrt(jnp.maximum(jnp.square(x).sum(axis=1, keepdims=True), 1e-24))
        return x

    @property
    def positions(self) -> Array:
        """What is added to the tokens, learned or not: [1,T,D]; of the patches the last N."""
        if self.pos_embed is None:
            return jnp.asarray(sine_positions(self.places, self.patch_embed.embed_dim))
        return self.pos_embed[...]


def _stack(depth: int, block: Callable[[], Block]) -> list[Block]:
    layers.check_sizes(depth=depth)
    return [block() for _ in range(depth)]


@register
def vit(
    *, rngs: nnx.Rngs, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
    patch_size: int = 4, embed_dim: int = 128, depth: int = 6, num_heads: int = 4,
    mlp_dim: int | None = None, dropout: float = 0.1, remat: bool = False,
    scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A small pre-norm ViT for CIFAR-10 (1,205,898 parameters); mlp_dim None is 4 · embed_dim.

    Dropout also on the attention weights.
    """
    hidden = 4 * embed_dim if mlp_dim is None else mlp_dim

    def block():
        attn = layers.Attention(embed_dim, num_heads, dropout=dropout, rngs=rngs)
        mlp = layers.Mlp(embed_dim, hidden, dropout=dropout, rngs=rngs)
        return Block(embed_dim, attn, mlp, norms=PRE_NORM, rngs=rngs)

    patches = layers.PatchEmbed(img_size, patch_size, in_channels, embed_dim, rngs=rngs)
    blocks = _stack(depth, block)
    head = layers.Head(embed_dim, num_classes, rngs=rngs)
    norm, start = layers.LayerNorm(embed_dim, rngs=rngs), layers.truncated_normal
    embed = {"prefix": [Prefix("cls_token", start)], "position_init": start, "dropout": dropout}
    run = {"remat": remat, "scan_layers": scan_layers, "rngs": rngs}
    return VisionTransformer(patches, blocks, head, **embed, norm=norm, **run)


@register
def raster_vit(
    *, rngs: nnx.Rngs, img_size: int = 32, in_channels: int = 3, num_classes: int = 10,
    patch_size: int = 4, embed_dim: int = 64, depth: int = 3, num_heads: int = 4,
    mlp_dim: int = 256, remat: bool = False, scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A small ViT for CIFAR-10 over runs of the image's memory (159,498 parameters).

    Its tokens are not spatial patches: as in its source, the image's memory in C,H,W order is
    read in runs of C·P·P values, so at the default sizes a token is one and a half rows of one
    colour. ReLU after the norms, a norm inside the MLP, no final norm, no dropout.
    """

    def block():
        attn = layers.Attention(embed_dim, num_heads, rngs=rngs)
        mlp = layers.Mlp(embed_dim, mlp_dim, activation=ops.relu, hidden_norm=True, rngs=rngs)
        return Block(embed_dim, attn, mlp, norms=PRE_NORM, in_activation=ops.relu, rngs=rngs)

    sizes = img_size, patch_size, in_channels, embed_dim
    patches = layers.PatchEmbed(*sizes, raster=True, rngs=rngs)
    blocks = _stack(depth, block)
    head = layers.Head(embed_dim, num_classes, rngs=rngs)
    run = {"remat": remat, "scan_layers": scan_layers, "rngs": rngs}
    return VisionTransformer(patches, blocks, head, **run)


@register
def deep_vit(
    *, rngs: nnx.Rngs, img_size: int = 32, in_channels: int = 3, num_classes: int = 100,
    patch_size: int = 4, embed_dim: int = 256, depth: int = 24, num_heads: int = 8,
    mlp_dim: int = 512, head_dims: Sequence[int] = (512,), dropout: float = 0.1,
    remat: bool = False, scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A deep pre-norm ViT for CIFAR-100 (12,862,820 parameters).

    ReLU after the patch projection, no dropout on the attention, no final norm, a head with one
    hidden layer. Its CIFAR-10 form has 6 blocks and dropout 0.2 (3,328,778 parameters with 10
    classes; the source kept 100).
    """

    def block():
        attn = layers.Attention(embed_dim, num_heads, torch_multihead=True, rngs=rngs)
        mlp = layers.Mlp(embed_dim, mlp_dim, dropout=dropout, rngs=rngs)
        return Block(embed_dim, attn, mlp, norms=PRE_NORM, rngs=rngs)

    patches = layers.PatchEmbed(img_size, patch_size, in_channels, embed_dim, rngs=rngs)
    blocks = _stack(depth, block)
    head = layers.Head(embed_dim, num_classes, head_dims, (ops.relu,), rngs=rngs)
    run = {"remat": remat, "scan_layers": scan_layers, "rngs": rngs}
    embed = {"embed_activation": ops.relu, "dropout": dropout}
    return VisionTransformer(patches, blocks, head, **embed, **run)


@register
def mnist_vit(
    *, rngs: nnx.Rngs, img_size: int = 28, in_channels: int = 1, num_classes: int = 10,
    patch_size: int = 7, embed_dim: int = 128, depth: int = 4, num_heads: int = 4,
    mlp_dim: int = 3000, head_dims: Sequence[int] = (250, 100), dropout: float = 0.1,
    remat: bool = False, scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A post-norm ViT for MNIST (3,417,816 parameters); log-softmax belongs to the loss.

    After the positions each feature is divided by its norm over the tokens. Two slips of its
    source are put right: that one attended over the batch instead of the tokens (it forgot
    `batch_first`), and never trained its class token.
    """

    def block():
        how = {"dropout": dropout, "torch_multihead": True}
        attn = layers.Attention(embed_dim, num_heads, **how, rngs=rngs)
        mlp = layers.Mlp(embed_dim, mlp_dim, dropout=dropout, rngs=rngs)
        return Block(embed_dim, attn, mlp, norms=POST_NORM, dropout=dropout, rngs=rngs)

    patches = layers.PatchEmbed(img_size, patch_size, in_channels, embed_dim, rngs=rngs)
    blocks = _stack(depth, block)
    head = layers.Head(embed_dim, num_classes, head_dims, (layers.identity, jnp.tanh), rngs=rngs)
    run = {"remat": remat, "scan_layers": scan_layers, "rngs": rngs}
    return VisionTransformer(patches, blocks, head, unit_columns=True, **run)


@register
def mlp_head_vit(
    *, rngs: nnx.Rngs, img_size: int = 72, in_channels: int = 3, num_classes: int = 100,
    patch_size: int = 6, embed_dim: int = 64, depth: int = 8, num_heads: int = 4,
    mlp_dim: int = 128, head_dims: Sequence[int] = (2048, 1024), dropout: float = 0.1,
    head_dropout: float = 0.5, remat: bool = False, scan_layers: bool = False,
) -> VisionTransformer:  # fmt: skip
    """A ViT with norms before and after and a wide MLP head, for CIFAR-100 at 72×72 (2,618,916).

    GELU and dropout after both layers of the MLP, no final norm. A slip of its source is put right:
    that one has a class token for each place in the batch, `[batch,1,D]`, which ties the model to
    one batch size. Here it is `[1,1,D]`; loading a source checkpoint takes the first one.
    """

    def block():
        attn = layers.Attention(embed_dim, num_heads, torch_multihead=True, rngs=rngs)
        mlp = layers.Mlp(embed_dim, mlp_dim, dropout=dropout, out_activation=ops.gelu, rngs=rngs)
        rest = {"norms": DOUBLE_NORM, "epsilon": 1e-6, "dropout": dropout}
        return Block(embed_dim, attn, mlp, **rest, rngs=rngs)

    patches = layers.PatchEmbed(img_size, patch_size, in_channels, embed_dim, rngs=rngs)
    blocks = _stack(depth, block)
    hidden = head_dims, (ops.gelu, ops.gelu)
    head = layers.Head(embed_dim, num_classes, *hidden, dropout=head_dropout, rngs=rngs)
    run = {"remat": remat, "scan_layers": scan_layers, "rngs": rngs}
    prefix = [Prefix("cls_token", layers.unit_uniform)]
    return VisionTransformer(patches, blocks, head, prefix=prefix, **run)


# As in BEiT, https://github.com/microsoft/unilm/blob/master/beit/optim_factory.py: what makes the
# first tokens, then each block, and the last norm with the head.
LAYERS = layer_numbers.Layers(stem=r"(\w+_token|pos_embed|patch_embed)\b", block=r"blocks\.(\d+)\.")
layer_numbers.register(LAYERS, vit, raster_vit, deep_vit, mnist_vit, mlp_head_vit)
