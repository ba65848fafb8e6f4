"""The parts models are put together from.

Weights start from the distributions PyTorch's layers start from, because accuracy is compared
with PyTorch runs: uniform in ±1/sqrt(fan_in) for weights and biases alike. Signatures with
`fmt: skip` have their sizes in a row, to be read beside torch_ref.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models import ops
from jax_models.checks import check_positive, check_sizes
from jax_models.dropout import Dropout
from jax_models.low_rank import Adaptable
from jax_models.rngs import Rngs

# Kaiming-uniform with a = sqrt(5) comes to uniform in ±1/sqrt(fan_in), a variance of 1/(3 fan_in).
kernel_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(fan_in: int):
    """Initializer of a bias as PyTorch's Linear and Conv2d have it: uniform in ±1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def truncated_normal(key, shape):
    """Normal values of standard deviation 0.02, cut at ±2 absolute (torch's trunc_normal_)."""
    return jnp.clip(0.02 * jax.random.normal(key, shape, jnp.float32), -2.0, 2.0)


def start_layers(model: nnx.Module, rngs: nnx.Rngs, kernel: Callable = truncated_normal) -> None:
    """Start all Linear layers and convolutions of a model from `kernel(key, shape)`, biases 0."""
    # New variables: JAX looks long for the sharding of a traced value that replaces another.
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Linear | nnx.Conv):
            layer.kernel = nnx.Param(kernel(rngs.params(), layer.kernel.shape))
            if layer.bias is not None:
                layer.bias = nnx.Param(jnp.zeros(layer.bias.shape, jnp.float32))


near_zero = nnx.initializers.normal(1e-6, jnp.float32)
standard_normal = nnx.initializers.normal(1.0, jnp.float32)  # as torch.randn and nn.Embedding
unit_uniform = nnx.initializers.uniform(1.0, jnp.float32)  # in [0, 1), as torch.rand


class Linear(Adaptable, nnx.Linear):
    """A Linear layer that starts as torch.nn.Linear does, or from other initializers."""

    def __init__(
        self, in_features: int, out_features: int, *, kernel=kernel_init, bias=None,
        use_bias: bool = True, rngs: nnx.Rngs,
    ):  # fmt: skip
        start = {"kernel_init": kernel, "bias_init": bias or bias_init(in_features)}
        super().__init__(in_features, out_features, use_bias=use_bias, **start, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """x [..., D] -> [..., F]."""
        return linear(x, self)[0]

    @property
    def offset(self) -> Array | None:
        """The bias [F]; None without one."""
        return None if self.bias is None else self.bias[...]


def linear(x: Array, *layers: Linear) -> list[Array]:
    """What each of several layers, all with a bias or all without, makes of x [..., D]."""
    kernels, biases = [layer.kernel[...] for layer in layers], [layer.offset for layer in layers]
    more = [layer.low_rank(x) for layer in layers]
    outs = zip(ops.linear(x, kernels, biases), more, strict=True)
    return [y if added is None else y + added for y, added in outs]


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last axis with PyTorch's epsilon."""

    def __init__(self, num_features: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs):
        super().__init__(num_features, epsilon=epsilon, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """x [..., D] -> [..., D]."""
        return ops.layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class PatchEmbed(nnx.Module):
    """Cut images into patches and project each to a token.

    A patch is flattened channel by channel (C, P, P), PyTorch's order, so that the kernel
    [C·P·P, D] is the flattened kernel of the P×P convolution with stride P that this equals.

    Args:
      img_size: side of the square images, pixels.
      patch_size: P, side of a patch, pixels.
      in_channels: C.
      embed_dim: D.
      raster: instead of P×P squares take runs of C·P·P values of the image's memory in C,H,W order.
      shifted: shifted patch tokenization: a token is made of five patches, of the image and of
        copies moved by half a patch towards each corner, zero where they end; of their values in
        the order (P, P, 5, C) there is a layer norm first. Source: Lee et al. 2021,
        https://arxiv.org/abs/2112.13492.
      rngs: initial weights.

    Raises:
      ValueError: the patches do not tile the image, or have no half to be shifted by.
    """

    # Where the five patches lie, in half patches down and to the right.
    SHIFTS = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))

    def __init__(
        self, img_size: int, patch_size: int, in_channels: int, embed_dim: int, *,
        raster: bool = False, shifted: bool = False, rngs: nnx.Rngs,
    ):  # fmt: skip
        check_sizes(img_size=img_size, patch_size=patch_size)
        check_sizes(in_channels=in_channels, embed_dim=embed_dim)
        if img_size % patch_size:
            fitting = ", ".join(str(p) for p in range(1, img_size + 1) if img_size % p == 0)
            wrong = f"patch_size={patch_size} does not divide img_size={img_size}"
            raise ValueError(f"{wrong}: choose one of {fitting}.")
        if shifted and patch_size < 2:
            raise ValueError(f"patch_size={patch_size}: expected at least 2, to shift it by half.")
        self.img_size, self.in_channels, self.patch_size = img_size, in_channels, patch_size
        self.raster, self.shift = raster, patch_size // 2 * shifted
        self.grid = img_size // patch_size
        self.num_patches = self.grid**2
        values = in_channels * patch_size**2 * (len(self.SHIFTS) if shifted else 1)
        self.norm = LayerNorm(values, rngs=rngs) if shifted else identity
        self.projection = Linear(values, embed_dim, rngs=rngs)

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.projection.out_features

    @property
    def token_pixels(self) -> tuple[int, int, int]:
        """(first pixel, pixels per token, side of what a token sees), see `ConvEmbed`."""
        return 0, self.patch_size, self.patch_size + 2 * self.shift

    def cut(self, images: Array) -> Array:
        """images [B,H,W,C] -> patches row by row [B,N,C·P·P]; with `shifted` [B,N,P·P·5·C]."""
        if self.shift:
            images = self._with_shifts(images)
        b, h, w, c = images.shape
        p = self.patch_size
        if self.raster:
            patches = images.transpose(0, 3, 1, 2)
        else:
            patches = images.reshape(b, h // p, p, w // p, p, c)
            order = (0, 1, 3, 2, 4, 5) if self.shift else (0, 1, 3, 5, 2, 4)
            patches = patches.transpose(order)
        return patches.reshape(b, self.num_patches, c * p * p)

    def _with_shifts(self, images):
        """The five images one after the other: [B,H,W,C] -> [B,H,W,5·C]."""
        (h, w), s = images.shape[1:3], self.shift
        padded = jnp.pad(images, ((0, 0), (s, s), (s, s), (0, 0)))
        starts = [(s + s * down, s + s * right) for down, right in self.SHIFTS]
        return jnp.concatenate([padded[:, i : i + h, j : j + w] for i, j in starts], axis=-1)

    def __call__(self, images: Array, *, exact: bool = False) -> Array:
        """images [B,H,W,C] -> tokens [B,N,D]; `exact` is for convolutions and changes nothing."""
        return self.projection(self.norm(self.cut(images)))


class Attention(nnx.Module):
    """Multi-head self-attention, heads split head-major, with one fused projection to q, k and v.

    Args:
      embed_dim: D, a multiple of num_heads.
      num_heads: h.
      dropout: rate on the attention weights.
      torch_multihead: start as torch.nn.MultiheadAttention does (Xavier over the fused kernel,
        zero biases) and not as Linear layers do.
      qkv_bias: whether that projection has a bias.
      locality: locality self-attention: the scores of each head are scaled by a factor that is
        learned, from 1/√(D/h), and no token attends to itself. Source: Lee et al. 2021,
        https://arxiv.org/abs/2112.13492.
      rngs: initial weights.

    Raises:
      ValueError: num_heads does not divide embed_dim.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, *, dropout: float = 0.0,
        torch_multihead: bool = False, qkv_bias: bool = True, locality: bool = False,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        check_sizes(embed_dim=embed_dim, num_heads=num_heads)
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide embed_dim={embed_dim}: every head takes "
                "an equal share of the width, so choose a divisor of it."
            )
        self.num_heads, self.locality = num_heads, locality
        xavier = nnx.initializers.xavier_uniform(), nnx.initializers.zeros
        kernel, bias = xavier if torch_multihead else (kernel_init, None)
        start = {"kernel": kernel, "bias": bias, "use_bias": qkv_bias}
        self.qkv = Linear(embed_dim, 3 * embed_dim, **start, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.projection = Linear(embed_dim, embed_dim, bias=bias, rngs=rngs)
        start = (embed_dim // num_heads) ** -0.5
        self.score_scale = nnx.Param(jnp.full(num_heads, start, jnp.float32)) if locality else None

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = True, queries: int | None = None
    ) -> tuple[Array, Array | None]:
        """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T], in training after dropout).

        Without `maps` the attention may be None. With `queries` only so many tokens, the first
        ones, attend (to all): (output [B,Q,D], attention [B,h,Q,T]).
        """
        how = {"drop": self.dropout.drop(train, rngs), "maps": maps, "queries": queries}
        how["added"] = self.qkv.low_rank(x)
        if self.locality:
            how |= {"scale": self.score_scale[...], "others_only": True}
        kernel = self.qkv.kernel[...]
        y, weights = ops.attention(x, kernel, self.qkv.offset, self.num_heads, **how)
        return self.projection(y), weights


class DropPath(Dropout):
    """Stochastic depth: leave the branch of a block out, for each example by its own chance.

    Source: Huang et al. 2016, https://arxiv.org/abs/1603.09382; branches that are kept are scaled
    by 1 / (1 - rate) in training, as in timm.

    Args:
      rate: chance of leaving a branch out, in [0, 1).

    Raises:
      ValueError: the rate is outside [0, 1).
    """

    def __init__(self, rate: float):
        super().__init__(rate, "drop_path")

    def __call__(self, x: Array, *, train: bool, rngs: Rngs) -> Array:
        """The branch x [B, ...], with `train` zero for some examples; raises as `Dropout` does."""
        drop = self.drop(train, rngs)
        return x if drop is None else drop(x, (x.shape[0], *(1,) * (x.ndim - 1)))

    @classmethod
    def rates(cls, last: float, count: int) -> tuple[float, ...]:
        """The rates of `count` blocks, which rise evenly from 0 to that of the last one.

        Raises:
          ValueError: the last one is outside [0, 1).
        """
        last = cls(last).rate
        return tuple(last * i / max(count - 1, 1) for i in range(count))


def identity(x: Array) -> Array:
    """x."""
    return x


class Mlp(nnx.Module):
    """Linear, (norm,) activation, dropout, Linear, (activation,) dropout.

    Args:
      embed_dim: D.
      mlp_dim: F, the hidden width.
      dropout: rate after each of the two layers.
      activation: after the first layer.
      out_activation: after the second layer.
      hidden_norm: a layer norm of width F before the activation.
      gated: the first layer gives 2F values, of which the first half, activated, is multiplied
        with the second; with SiLU this is SwiGLU. Source: Shazeer 2020,
        https://arxiv.org/abs/2002.05202.
      rngs: initial weights.
    """

    def __init__(
        self, embed_dim: int, mlp_dim: int, *, dropout: float = 0.0,
        activation: Callable = ops.gelu, out_activation: Callable = identity,
        hidden_norm: bool = False, gated: bool = False, rngs: nnx.Rngs,
    ):  # fmt: skip
        check_sizes(embed_dim=embed_dim, mlp_dim=mlp_dim)
        self.activation, self.out_activation, self.gated = activation, out_activation, gated
        self.fc1 = Linear(embed_dim, (1 + gated) * mlp_dim, rngs=rngs)
        self.norm = LayerNorm(mlp_dim, rngs=rngs) if hidden_norm else identity
        self.fc2 = Linear(mlp_dim, embed_dim, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(self, x: Array, *, train: bool, rngs: Rngs) -> Array:
        """x [..., D] -> [..., D]."""
        x = self.fc1(x)
        x, *gated = jnp.split(x, 2, axis=-1) if self.gated else [x]
        x = self.activation(self.norm(x))
        for values in gated:
            x = x * values
        x = self.dropout(x, train=train, rngs=rngs)
        return self.dropout(self.out_activation(self.fc2(x)), train=train, rngs=rngs)


class LayerScale(nnx.Module):
    """A learned factor for each feature. Source: Touvron et al. 2021, arXiv:2103.17239.

    Args:
      num_features: D.
      start: value of all factors at first.

    Raises:
      ValueError: the start is not a number above 0.
    """

    def __init__(self, num_features: int, start: float):
        check_positive(layer_scale=start)
        self.gamma = nnx.Param(jnp.full(num_features, start, jnp.float32))

    def __call__(self, x: Array) -> Array:
        """x [..., D] -> [..., D]."""
        return x * self.gamma[...]


class Head(nnx.Module):
    """Linear layers to the logits, with an activation and dropout after each hidden one.

    Args:
      in_features: width of the input.
      num_classes: K.
      head_dims: width of each hidden layer; none for a linear head.
      activations: of each hidden layer.
      dropout: rate after each hidden layer.
      norm: of the input.
      in_dropout: rate on what that gives.
      rngs: initial weights.

    Raises:
      ValueError: there are not as many widths as activations, or a size is below 1.
    """

    def __init__(
        self, in_features: int, num_classes: int, head_dims: Sequence[int] = (),
        activations: tuple[Callable, ...] = (), *, dropout: float = 0.0,
        norm: Callable = identity, in_dropout: float = 0.0, rngs: nnx.Rngs,
    ):  # fmt: skip
        if not isinstance(head_dims, Sequence) or len(head_dims) != len(activations):
            raise ValueError(
                f"head_dims={head_dims!r}: expected {len(activations)} hidden width(s)."
            )
        check_sizes(**{f"head_dims[{i}]": width for i, width in enumerate(head_dims)})
        check_sizes(num_classes=num_classes)
        widths = [in_features, *head_dims, num_classes]
        self.norm, self.activations = norm, activations
        self.layers = nnx.List(
            Linear(n, width, rngs=rngs) for n, width in itertools.pairwise(widths)
        )
        self.in_dropout = Dropout(in_dropout)
        self.dropout = Dropout(dropout, "head_dropout")

    def __call__(self, x: Array, *, train: bool, rngs: Rngs) -> Array:
        """x [B,D] -> logits [B,K]."""
        x = self.in_dropout(self.norm(x), train=train, rngs=rngs)
        *hidden, last = self.layers
        for layer, activation in zip(hidden, self.activations, strict=True):
            x = self.dropout(activation(layer(x)), train=train, rngs=rngs)
        return last(x)

    def read(self, x: Array) -> Array:
        """What the first layer reads of x [B,D] in evaluation: [B,D]."""
        return self.norm(x)


class NoHead(nnx.Module):
    """In place of a head: the features that its layers would read; arguments as of `Head`."""

    def __init__(self, *, norm: Callable = identity, in_dropout: float = 0.0):
        self.norm, self.in_dropout = norm, Dropout(in_dropout)

    def __call__(self, x: Array, *, train: bool, rngs: Rngs) -> Array:
        """x [B,D] -> [B,D]."""
        return self.in_dropout(self.norm(x), train=train, rngs=rngs)

    def read(self, x: Array) -> Array:
        """As of `Head`."""
        return self.norm(x)


def linear_head(in_features: int, num_classes: int, *, rngs: nnx.Rngs, **how) -> Head | NoHead:
    """A `Head` of one layer, with its keywords `norm` and `in_dropout`; none for 0 classes."""
    if num_classes == 0 and type(num_classes) is int:
        return NoHead(**how)
    return Head(in_features, num_classes, **how, rngs=rngs)


class MeanHead(nnx.Module):
    """Heads that read a token each, and whose logits are averaged, as of DeiT's two.

    Source: Touvron et al. 2020, https://arxiv.org/abs/2012.12877.
    """

    def __init__(self, heads: Sequence[Head]):
        self.heads = nnx.List(heads)

    def __call__(self, x: Array, *, train: bool, rngs: Rngs) -> Array:
        """x [B,tokens,D] -> logits [B,K]."""
        logits = [head(x[:, i], train=train, rngs=rngs) for i, head in enumerate(self.heads)]
        return sum(logits) / len(logits)

    def read(self, x: Array) -> Array:
        """The mean of what the heads read of x [B,tokens,D]: [B,D], as timm has it."""
        return sum(head.read(x[:, i]) for i, head in enumerate(self.heads)) / len(self.heads)


def check_images(images: Array, in_channels: int, img_size: int | None = None) -> None:
    """Raise a ValueError unless images are float [B,H,W,C] of the size the model was built for."""
    side = "H,W" if img_size is None else f"{img_size},{img_size}"
    expected = f"float images [B,{side},{in_channels}]"
    shape = images.shape
    sides = (shape[1:3] if img_size is None else (img_size, img_size)) + (in_channels,)
    if len(shape) != 4 or shape[1:] != sides:
        hint = ""
        if len(shape) == 4 and shape[1] == in_channels:
            hint = " Images in PyTorch's order [B,C,H,W] need images.transpose(0, 2, 3, 1)."
        raise ValueError(f"The model takes {expected}, got shape {tuple(shape)}.{hint}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"The model takes {expected}, got {images.dtype}: scale the pixels and normalise them "
            "first, for example images / 255."
        )
