"""The parts models are put together from. Images and feature maps are channels-last.

Weights start from the distributions PyTorch's layers start from, because accuracy is compared
with PyTorch runs: uniform in ±1/sqrt(fan_in) for weights and biases alike.
"""

import jax
import jax.numpy as jnp
from flax import nnx

# Kaiming-uniform with a = sqrt(5) comes to uniform in ±1/sqrt(fan_in), a variance of 1/(3 fan_in).
kernel_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(fan_in: int):
    """Initializer of a bias as PyTorch's Linear and Conv2d have it: uniform in ±1/sqrt(fan_in)."""

    def init(key, shape, dtype=jnp.float32):
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def truncated_normal(key, shape, stddev: float = 0.02):
    """Normal values cut at ±2 absolute, as torch.nn.init.trunc_normal_(std=stddev)."""
    return jnp.clip(stddev * jax.random.normal(key, shape, jnp.float32), -2.0, 2.0)


def linear(in_features: int, out_features: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """A Linear layer that starts as torch.nn.Linear does."""
    return nnx.Linear(
        in_features, out_features, kernel_init=kernel_init, bias_init=bias_init(in_features),
        rngs=rngs,
    )  # fmt: skip


def conv3x3(in_features: int, out_features: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """A 3×3 convolution, stride 1, one zero pixel around, that starts as torch.nn.Conv2d does."""
    return nnx.Conv(
        in_features, out_features, (3, 3), padding=((1, 1), (1, 1)),
        kernel_init=kernel_init, bias_init=bias_init(9 * in_features), rngs=rngs,
    )  # fmt: skip


def layer_norm(num_features: int, *, epsilon: float = 1e-5, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm over the last axis with PyTorch's epsilon.

    The variance is taken of the centred values: E[x²] - E[x]² loses half the digits.
    """
    return nnx.LayerNorm(num_features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


class BatchNorm(nnx.Module):
    """Batch normalisation with the running statistics of torch.nn.BatchNorm2d.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167. A batch is normalised by its
    biased variance while the running variance takes the unbiased one; `nnx.BatchNorm` keeps the
    biased one, so evaluation would drift from PyTorch's.

    Args:
      num_features: C, size of the last axis.
      momentum: share of the new batch in the running statistics (PyTorch's sense).
      epsilon: added to the variance.
    """

    def __init__(self, num_features: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(num_features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(num_features, jnp.float32))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Normalise x [..., C]; with `train`, by the batch, updating the running statistics.

        Raises:
          ValueError: `train` with a single value per channel, which has no variance.
        """
        if train:
            mean, var = self._batch_statistics(x)
        else:
            mean, var = self.mean[...], self.var[...]
        y = (x - mean) * jax.lax.rsqrt(var + self.epsilon)
        return y * self.scale[...] + self.bias[...]

    def _batch_statistics(self, x):
        axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
        if count < 2:
            raise ValueError(
                f"Batch norm in training needs more than one value per channel, got input of shape "
                f"{x.shape}. Use a larger batch or larger images."
            )
        mean = x.mean(axes)
        var = jnp.square(x - mean).mean(axes)
        self._track(self.mean, mean)
        self._track(self.var, var * (count / (count - 1)))
        self.num_batches_tracked[...] += 1
        return mean, var

    def _track(self, running, batch):
        old = running[...]
        running[...] = old + self.momentum * (jax.lax.stop_gradient(batch).astype(old.dtype) - old)


class Dropout(nnx.Module):
    """Dropout with cheap counter-based masks.

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html; kept values are
    scaled by 1 / (1 - rate) in training, as in PyTorch. The mask is a hash of (key, position),
    several times cheaper on a CPU than JAX's default generator.

    Args:
      rate: share of the values that are set to zero, in [0, 1).

    Raises:
      ValueError: the rate is outside [0, 1).
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"dropout={rate} is not a rate: give a number from 0 up to below 1.")
        self.rate = rate

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """Return x [B, ...], with `train` after dropping values out.

        `rngs.dropout()` gives one key, or one key per example [B]: then an example's mask follows
        from its own key alone and not from where in the batch, or on which device, it stands.

        Raises:
          ValueError: `train` without `rngs`.
        """
        if not train or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError(
                "Training with dropout needs random keys: call the model with "
                "rngs=nnx.Rngs(dropout=key), or build it with dropout=0."
            )
        mask = dropout_mask(rngs.dropout(), x.shape, self.rate)
        return jnp.where(mask, x / (1 - self.rate), jnp.zeros((), x.dtype))


def dropout_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Boolean mask of `shape` that is False with probability `rate`.

    Args:
      key: a typed PRNG key, or one per example, shape [shape[0]].
      shape: of the mask.
      rate: in [0, 1).
    """
    words = jax.random.key_data(key)
    counted = shape if key.ndim == 0 else (1, *shape[1:])
    words = words.reshape(*key.shape, *(1,) * (len(shape) - key.ndim), words.shape[-1])
    position = jax.lax.iota(jnp.uint32, _size(counted)).reshape(counted)
    bits = _mix(_mix(position ^ words[..., 0]) + words[..., -1])
    return bits >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _size(shape) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _mix(x):
    """A bijection of uint32 in which every input bit flips every output bit half the time.

    Source: the "triple32"-style finalizer family, https://github.com/skeeto/hash-prospector.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x21F0AAAD)
    x = (x ^ (x >> 15)) * jnp.uint32(0x735A2D97)
    return x ^ (x >> 15)


class PatchEmbed(nnx.Module):
    """Cut images into patches and project each to a token.

    A patch is flattened channel by channel (C, P, P), PyTorch's order, so that the kernel
    [C·P·P, D] is the flattened kernel of the P×P convolution with stride P that this equals.

    Args:
      img_size: side of the square images, pixels.
      patch_size: P, side of a patch, pixels.
      in_channels: C.
      embed_dim: D.
      rngs: initial weights.

    Raises:
      ValueError: the patches do not tile the image.
    """

    def __init__(
        self, img_size: int, patch_size: int, in_channels: int, embed_dim: int, *, rngs: nnx.Rngs
    ):
        if img_size % patch_size:
            fitting = [str(p) for p in range(1, img_size + 1) if img_size % p == 0]
            raise ValueError(
                f"patch_size={patch_size} does not divide img_size={img_size}: "
                f"choose one of {', '.join(fitting)}."
            )
        self.patch_size = patch_size
        self.num_patches = (img_size // patch_size) ** 2
        self.projection = linear(in_channels * patch_size**2, embed_dim, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """images [B,H,W,C] -> tokens [B,N,D], patches in row-major order."""
        b, h, w, c = images.shape
        p = self.patch_size
        patches = images.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 5, 2, 4)
        return self.projection(patches.reshape(b, self.num_patches, c * p * p))


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. Heads are split head-major.

    Args:
      embed_dim: D, a multiple of num_heads.
      num_heads: h.
      dropout: rate on the attention weights.
      rngs: initial weights.

    Raises:
      ValueError: num_heads does not divide embed_dim.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float, rngs: nnx.Rngs):
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide embed_dim={embed_dim}: every head takes "
                "an equal share of the width, so choose a divisor of it."
            )
        self.num_heads = num_heads
        self.qkv = linear(embed_dim, 3 * embed_dim, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.projection = linear(embed_dim, embed_dim, rngs=rngs)

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array]:
        """x [B,T,D] -> (output [B,T,D], attention [B,h,T,T], in training after dropout)."""
        b, t, d = x.shape
        head_dim = d // self.num_heads
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(b, t, 3, self.num_heads, head_dim), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * head_dim**-0.5
        weights = self.dropout(jax.nn.softmax(scores, axis=-1), train=train, rngs=rngs)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(b, t, d)
        return self.projection(y), weights


class Mlp(nnx.Module):
    """Linear, exact GELU, dropout, Linear, dropout.

    Args:
      embed_dim: D.
      mlp_dim: F, the hidden width.
      dropout: rate after each of the two layers.
      rngs: initial weights.
    """

    def __init__(self, embed_dim: int, mlp_dim: int, *, dropout: float, rngs: nnx.Rngs):
        self.fc1 = linear(embed_dim, mlp_dim, rngs=rngs)
        self.fc2 = linear(mlp_dim, embed_dim, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """x [..., D] -> [..., D]."""
        x = jax.nn.gelu(self.fc1(x), approximate=False)
        x = self.dropout(x, train=train, rngs=rngs)
        return self.dropout(self.fc2(x), train=train, rngs=rngs)


class ConvStage(nnx.Module):
    """(3×3 convolution, batch norm, ReLU) twice, then 2×2 max-pooling.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      rngs: initial weights.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.conv1 = conv3x3(in_features, out_features, rngs=rngs)
        self.norm1 = BatchNorm(out_features)
        self.conv2 = conv3x3(out_features, out_features, rngs=rngs)
        self.norm2 = BatchNorm(out_features)

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """x [B,H,W,C] -> [B,H//2,W//2,C']."""
        x = jax.nn.relu(self.norm1(self.conv1(x), train=train))
        x = jax.nn.relu(self.norm2(self.conv2(x), train=train))
        return max_pool2x2(x)


def max_pool2x2(x: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2: [B,H,W,C] -> [B,H//2,W//2,C]; an odd last row is left out.

    A reshape and a maximum, because the gradient of XLA's window reduction is slow on a CPU. Where
    values tie, the gradient is shared among them while PyTorch gives it to the first. After a ReLU
    ties are zeros, which pass no gradient on, so both agree.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max(axis=(2, 4))


def check_images(images: jax.Array, in_channels: int, img_size: int | None = None) -> None:
    """Raise a ValueError unless images are float [B,H,W,C] of the size the model was built for."""
    side = "H,W" if img_size is None else f"{img_size},{img_size}"
    expected = f"float images [B,{side},{in_channels}]"
    shape = jnp.shape(images)
    wrong = len(shape) != 4 or shape[-1] != in_channels
    if not wrong and img_size is not None:
        wrong = shape[1:3] != (img_size, img_size)
    if wrong:
        hint = ""
        if len(shape) == 4 and shape[1] == in_channels:
            hint = " Images in PyTorch's order [B,C,H,W] need images.transpose(0, 2, 3, 1)."
        raise ValueError(f"The model takes {expected}, got shape {tuple(shape)}.{hint}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"The model takes {expected}, got {images.dtype}: scale the pixels and normalise them "
            "first, for example images / 255."
        )


def check_sizes(**sizes: int) -> None:
    """Raise a ValueError that names the first size that is not a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}={size!r}: expected a whole number of at least 1.")
