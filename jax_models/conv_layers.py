"""The parts of convolutional models. Feature maps are channels-last [B,H,W,C].

Sizes of a stage are in a row (`fmt: skip`), to be read beside torch_ref/cnn.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jax_models import layers, ops, stack
from jax_models.dropout import Dropout
from jax_models.low_rank import Adaptable
from jax_models.rngs import Rngs


class Window(NamedTuple):
    """What a convolution or a pool sees at once, along an axis: pixels, all of them counts.

    Attributes:
      size: its side.
      stride: from one window to the next.
      padding: on each side of the map.
    """

    size: int
    stride: int
    padding: int

    def places(self, pixels: int) -> int:
        """How many windows there are on so many pixels; below 1 where not one fits."""
        return (pixels + 2 * self.padding - self.size) // self.stride + 1


def identity_start(key: Array, shape: Sequence[int], dtype=jnp.float32) -> Array:
    """Kernels [h,w,C,D] whose first outputs, C or all D, are the inputs; the others are random.

    As torch.nn.init.dirac_ on the first C filters of a torch.nn.Conv2d.
    """
    height, width, inputs, outputs = shape
    first = min(inputs, outputs)
    identity = np.zeros(shape, bool)
    identity[height // 2, width // 2, range(first), range(first)] = True
    random = layers.kernel_init(key, shape, dtype)
    return jnp.where(np.arange(outputs) < first, identity.astype(dtype), random)


class Conv(Adaptable, nnx.Conv):
    """A convolution that starts as torch.nn.Conv2d does, or from another kernel.

    Args:
      in_features: channels of the input.
      out_features: channels of the output.
      size: side of the kernel.
      stride: pixels from one place to the next.
      padding: zero pixels on each side.
      groups: see `ops.convolution`; as many as channels in a depthwise one.
      bias: whether it has one.
      kernel: initial values.
      rngs: initial weights.
    """

    def __init__(
        self, in_features: int, out_features: int, size: int, *, stride: int = 1, padding: int = 0,
        groups: int = 1, bias: bool = True, kernel=layers.kernel_init, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.window = Window(size, stride, padding)
        start = {
            "kernel_init": kernel,
            "bias_init": layers.bias_init(size**2 * in_features // groups),
        }
        super().__init__(
            in_features, out_features, (size, size), strides=stride,
            padding=((padding, padding), (padding, padding)), feature_group_count=groups,
            use_bias=bias, **start, rngs=rngs,
        )  # fmt: skip

    def __call__(self, x: Array, *, exact: bool = False) -> Array:
        """x [B,H,W,C] -> [B,H',W',D]; `exact` as in `ops.convolution`."""
        bias = None if self.bias is None else self.bias[...]
        _, stride, padding = self.window
        how = {"stride": stride, "groups": self.feature_group_count, "exact": exact}
        y = ops.convolution(x, self.kernel[...], bias, padding, **how)
        return y if self.lora_a is None else y + self.low_rank(x[:, ::stride, ::stride])

    @property
    def is_matrix(self) -> bool:
        """Whether it is a product with each pixel alone."""
        return self.window.size == 1 and not self.window.padding and self.feature_group_count == 1


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
      frozen: in training too normalise by the running statistics, and leave them as they are.
    """

    def __init__(
        self, num_features: int, *, momentum=0.1, epsilon=1e-5, axis_name: str | None = None,
        frozen: bool = False,
    ):  # fmt: skip
        self.momentum, self.epsilon, self.axis_name = momentum, epsilon, axis_name
        self.frozen = frozen
        self.scale = nnx.Param(jnp.ones(num_features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(num_features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(num_features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(num_features, jnp.float32))
        self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, x: Array, *, train: bool, relu: bool = False) -> Array:
        """Normalise x [..., C]; with `train`, unless frozen, by the batch, whose statistics count.

        With `relu` it is followed by ReLU.

        Raises:
          ValueError: `train` with a single value per channel, which has no variance.
        """
        wide = jnp.promote_types(x.dtype, jnp.float32)
        scale, bias = self.scale[...].astype(wide), self.bias[...].astype(wide)
        if train and not self.frozen:
            if (count := self._count(x)) < 2:
                raise ValueError(
                    "Batch norm in training needs more than one value per channel, got input of "
                    f"shape {x.shape}. Use a larger batch or larger images."
                )
            norm = ops.batch_norm_relu if relu else ops.batch_norm
            y, mean, var = norm(x, scale, bias, self.epsilon, self.axis_name)
            self._track(count, mean, var)
            return y
        y = ops.normalise(x, self.mean[...], self.var[...], scale, bias, self.epsilon)
        return ops.relu(y) if relu else y

    def affine(self) -> tuple[Array, Array]:
        """In evaluation the norm is a product with, and then a sum with, these rows [C]."""
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        return scale, self.bias[...] - self.mean[...] * scale

    def _count(self, x):
        count = x.size // x.shape[-1]
        return count if self.axis_name is None else count * jax.lax.axis_size(self.axis_name)

    def _track(self, count, mean, var):
        """Move the running statistics towards those of a batch."""
        for running, batch in ((self.mean, mean), (self.var, var * (count / (count - 1)))):
            old = running[...]
            new = jax.lax.stop_gradient(batch).astype(old.dtype)
            running[...] = old + self.momentum * (new - old)
        self.num_batches_tracked[...] += 1


def conv_norm(
    conv: Conv, norm: BatchNorm | None, x: Array, *, train: bool, relu: bool = True,
    added: Array | None = None, branch: Callable = layers.identity, exact: bool = False,
) -> Array:  # fmt: skip
    """A convolution, batch norm if any, a sum and a ReLU; in evaluation on CPUs in one operation.

    Args:
      conv, norm: the layers.
      x: [B,H,W,C].
      train: see `BatchNorm`.
      relu: whether there is a ReLU at the end.
      added: to what the branch gives.
      branch: applied after the norm, in training only.
      exact: see `ops.convolution`; then in several operations.

    Returns:
      [B,H',W',D].
    """
    if not (train or exact) and conv.lora_a is None:
        _, stride, padding = conv.window
        how = {"stride": stride, "groups": conv.feature_group_count, "added": added, "relu": relu}
        affine = functools.partial(_affine, conv, norm)
        y = ops.convolution_affine(x, conv.kernel[...], affine, padding, **how)
        if y is not None:
            return y
    y = conv(x, exact=exact)
    if norm is not None and relu and added is None and branch is layers.identity:
        return norm(y, train=train, relu=True)
    y = y if norm is None else norm(y, train=train)
    y = branch(y) if train else y
    y = y if added is None else y + added
    return ops.relu(y) if relu else y


def _affine(conv: Conv, norm: BatchNorm | None) -> tuple[Array, Array]:
    """What a convolution without its bias is multiplied by, and what is added, [D] each."""
    bias = 0 if conv.bias is None else conv.bias[...]
    if norm is None:
        return jnp.ones(conv.out_features), jnp.broadcast_to(bias, conv.out_features)
    scale, offset = norm.affine()
    return scale, scale * bias + offset


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
            Conv(n, width, 3, padding=padding, rngs=rngs)
            for n, width in zip(inputs, widths, strict=True)
        )
        self.norms = nnx.List(BatchNorm(width) for width in widths) if batch_norm else None
        self.attention = SpatialAttention(widths[-1], rngs=rngs) if attention else None
        self.pool = pool
        self.dropout = Dropout(dropout)

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = True
    ) -> tuple[Array, Array | None]:
        """x [B,H,W,C] -> (x [B,H',W',C'], attention or None).

        Without `maps` the attention may be None.
        """
        for i, conv in enumerate(self.convs):
            norm = None if self.norms is None else self.norms[i]
            # Maps that are looked at are more exact.
            x = conv_norm(conv, norm, x, train=train, exact=maps)
        weights = None
        if self.attention is not None:
            x, weights = self.attention(x, maps=maps)
        if self.pool:
            x = ops.max_pool2x2(x)
        return self.dropout(x, train=train, rngs=rngs), weights

    @property
    def windows(self) -> list[Window]:
        """What it sees with, in order."""
        return [conv.window for conv in self.convs] + [Window(2, 2, 0)] * self.pool


class BlockStage(nnx.Module):
    """Residual blocks one after the other, and what comes before the first.

    Args:
      blocks: each maps x to (x, None), and has `windows`.
      downsample: makes the maps smaller beforehand; None where the first block does.
      remat: of the blocks, see `create_model`.
    """

    attention = None

    def __init__(
        self, blocks: Sequence[nnx.Module], *, downsample: nnx.Module | None = None,
        remat: bool = False,
    ):  # fmt: skip
        self.downsample, self.blocks, self.remat = downsample, nnx.List(blocks), remat

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = True
    ) -> tuple[Array, None]:
        """x [B,H,W,C] -> (x [B,H',W',C'], None)."""
        if self.downsample is not None:
            x = self.downsample(x, train=train)
        how = {"train": train, "rngs": rngs, "maps": maps, "remat": self.remat}
        return stack.run_parts(self.blocks, x, **how)[0], None

    @property
    def windows(self) -> list[Window]:
        """What it sees with, in order."""
        parts = ([] if self.downsample is None else [self.downsample]) + list(self.blocks)
        return [window for part in parts for window in part.windows]


class SpatialAttention(nnx.Module):
    """Self-attention over the positions of a feature map, one head, keys and values pooled 2×2.

    Source: the non-local block, Wang et al. 2017, https://arxiv.org/abs/1711.07971, in the form of
    self-attention GANs, Zhang et al. 2018, https://arxiv.org/abs/1805.08318: scores are not scaled.
    The 1×1 convolutions are matrix kernels over the channels.

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
        self.theta = layers.Linear(channels, inner, rngs=rngs)
        self.phi = layers.Linear(channels, inner, rngs=rngs)
        self.g = layers.Linear(channels, inner, rngs=rngs)
        self.o = layers.Linear(inner, channels, rngs=rngs)

    def __call__(self, x: Array, *, maps: bool = True) -> tuple[Array, Array | None]:
        """x [B,H,W,C] -> (x + attended [B,H,W,C], attention [B,1,H·W,(H//2)·(W//2)]).

        Without `maps` the attention may be None.
        """
        b, h, w, c = x.shape
        parts = layers.linear(x, self.theta, self.phi, self.g)  # one gradient of x, added up
        parts[1:] = map(ops.max_pool2x2, parts[1:])
        q, k, v = (part.reshape(b, -1, 1, part.shape[-1]) for part in parts)
        y, weights = ops.attend(q, k, v, scale=1.0, maps=maps)
        return x + self.o(y).reshape(b, h, w, c), weights
