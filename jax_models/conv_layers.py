"""The parts of convolutional models. Feature maps are channels-last [B,H,W,C]."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jax_models import layers
from jax_models.dropout import Dropout


def conv3x3(in_features: int, out_features: int, *, padding: int = 1, rngs: nnx.Rngs) -> nnx.Conv:
    """A 3×3 convolution, stride 1, zero pixels around, that starts as torch.nn.Conv2d does."""
    return nnx.Conv(
        in_features, out_features, (3, 3), padding=((padding, padding), (padding, padding)),
        kernel_init=layers.kernel_init, bias_init=layers.bias_init(9 * in_features), rngs=rngs,
    )  # fmt: skip


class BatchNorm(nnx.Module):
    """Batch normalisation with the running statistics of torch.nn.BatchNorm2d.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167. A batch is normalised by its
    biased variance while the running variance takes the unbiased one; `nnx.BatchNorm` keeps the
    biased one, so evaluation would drift from PyTorch's.

    Statistics are taken in float32 at least, whatever the input.

    Args:
      num_features: C, size of the last axis.
      momentum: share of the new batch in the running statistics (PyTorch's sense).
      epsilon: added to the variance.
      axis_name: of a mapped axis (`jax.pmap`, `jax.vmap`) over which a batch is spread; its
        statistics are then those of the whole batch.
    """

    def __init__(
        self, num_features: int, *, momentum: float = 0.1, epsilon: float = 1e-5,
        axis_name: str | None = None,
    ):  # fmt: skip
        self.momentum, self.epsilon, self.axis_name = momentum, epsilon, axis_name
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
        dtype = x.dtype
        x = x.astype(jnp.promote_types(dtype, jnp.float32))
        if train:
            mean, var = self._batch_statistics(x)
        else:
            mean, var = self.mean[...], self.var[...]
        y = (x - mean) * jax.lax.rsqrt(var + self.epsilon)
        return (y * self.scale[...] + self.bias[...]).astype(dtype)

    def _batch_statistics(self, x):
        count = x.size // x.shape[-1]
        if self.axis_name is not None:
            count *= jax.lax.axis_size(self.axis_name)
        if count < 2:
            raise ValueError(
                f"Batch norm in training needs more than one value per channel, got input of shape "
                f"{x.shape}. Use a larger batch or larger images."
            )
        mean = self._mean(x)
        # The variance does not change with the mean to first order; leaving that zero out of the
        # gradient saves a pass, and on many devices a message.
        var = self._mean(jnp.square(x - jax.lax.stop_gradient(mean)))
        self._track(self.mean, mean)
        self._track(self.var, var * (count / (count - 1)))
        self.num_batches_tracked[...] += 1
        return mean, var

    def _mean(self, x):
        mean = x.mean(tuple(range(x.ndim - 1)))
        return mean if self.axis_name is None else jax.lax.pmean(mean, self.axis_name)

    def _track(self, running, batch):
        old = running[...]
        running[...] = old + self.momentum * (jax.lax.stop_gradient(batch).astype(old.dtype) - old)


class ConvStage(nnx.Module):
    """3×3 convolutions, each with ReLU; then, where wanted, attention, 2×2 max-pooling, dropout.

    Args:
      in_features: channels of the input.
      widths: channels of each convolution.
      padding: zero pixels around the input of each convolution.
      batch_norm: between each convolution and its ReLU.
      attention: self-attention over the positions.
      pool: 2×2 max-pooling.
      dropout: rate.
      rngs: initial weights.
    """

    def __init__(
        self, in_features: int, widths: Sequence[int], *, padding: int = 1,
        batch_norm: bool = False, attention: bool = False, pool: bool = False,
        dropout: float = 0.0, rngs: nnx.Rngs,
    ):  # fmt: skip
        inputs = (in_features, *widths[:-1])
        self.convs = nnx.List(
            conv3x3(n, width, padding=padding, rngs=rngs)
            for n, width in zip(inputs, widths, strict=True)
        )
        self.norms = nnx.List(BatchNorm(width) for width in widths) if batch_norm else None
        self.attention = SpatialAttention(widths[-1], rngs=rngs) if attention else None
        self.pool = pool
        self.dropout = Dropout(dropout)

    def __call__(
        self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """x [B,H,W,C] -> (x [B,H',W',C'], attention or None)."""
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = jax.nn.relu(x if self.norms is None else self.norms[i](x, train=train))
        weights = None
        if self.attention is not None:
            x, weights = self.attention(x)
        if self.pool:
            x = max_pool2x2(x)
        return self.dropout(x, train=train, rngs=rngs), weights


class SpatialAttention(nnx.Module):
    """Self-attention over the positions of a feature map, one head, keys and values pooled 2×2.

    Source: the non-local block, Wang et al. 2017, https://arxiv.org/abs/1711.07971, in the form of
    self-attention GANs, Zhang et al. 2018, https://arxiv.org/abs/1805.08318: scores are not scaled.
    The 1×1 convolutions are matrix products over the channels.

    Args:
      channels: C, a multiple of `reduction`.
      reduction: queries, keys and values have C / reduction channels.
      rngs: initial weights.

    Raises:
      ValueError: reduction does not divide the channels.
    """

    def __init__(self, channels: int, *, reduction: int = 8, rngs: nnx.Rngs):
        if channels % reduction:
            raise ValueError(
                f"widths: {channels} channels are not a multiple of {reduction}, the reduction of "
                "the attention between the convolutions."
            )
        inner = channels // reduction
        self.theta = layers.linear(channels, inner, rngs=rngs)
        self.phi = layers.linear(channels, inner, rngs=rngs)
        self.g = layers.linear(channels, inner, rngs=rngs)
        self.o = layers.linear(inner, channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x [B,H,W,C] -> (x + attended [B,H,W,C], attention [B,1,H·W,(H//2)·(W//2)])."""
        b, h, w, c = x.shape
        q, k, v = (
            maps.reshape(b, -1, 1, maps.shape[-1])
            for maps in (self.theta(x), max_pool2x2(self.phi(x)), max_pool2x2(self.g(x)))
        )
        y, weights = layers.attend(q, k, v, scale=1.0)
        return x + self.o(y).reshape(b, h, w, c), weights


def max_pool2x2(x: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2: [B,H,W,C] -> [B,H//2,W//2,C]; an odd last row is left out."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    return _max_of_windows(x[:, :h, :w])


def _windows(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


# Written out because the gradient of XLA's window reduction is three times slower on a CPU. The
# place of the maximum is kept, and not found again by comparing with it: XLA may compute the input
# twice with different rounding, and then no value would equal the maximum.
@jax.custom_vjp
def _max_of_windows(x):
    return _max_and_place(x)[0]


def _max_and_place(x):
    """Maxima, and where each lies: 0 to 3 in row-major order, the first where values tie."""
    windows = _windows(x)
    largest = windows[:, :, 0, :, 0]
    place = jnp.zeros(largest.shape, jnp.uint8)
    for number, (row, column) in enumerate(((0, 1), (1, 0), (1, 1)), start=1):
        value = windows[:, :, row, :, column]
        larger = (value > largest) | jnp.isnan(value)  # as in PyTorch, NaN stays
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.uint8(number), place)
    return largest, place


def _max_backward(place, gradient):
    numbers = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = place[:, :, None, :, None, :] == numbers
    spread = jnp.where(chosen, gradient[:, :, None, :, None, :], 0)
    b, h, _, w, _, c = spread.shape
    return (spread.reshape(b, 2 * h, 2 * w, c),)


_max_of_windows.defvjp(_max_and_place, _max_backward)
