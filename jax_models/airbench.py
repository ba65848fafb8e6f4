"""The networks of airbench; sizes in a row (`fmt: skip`), to be read beside torch_ref/airbench.py.

Source: Jordan 2024, https://arxiv.org/abs/2404.00498, and its code,
https://github.com/KellerJordan/cifar10-airbench.
"""

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jax_models import image_start, layer_numbers, layers, ops
from jax_models.cnn import BY_STAGE, ConvNet, check_widths
from jax_models.conv_layers import BatchNorm, Conv, Window, identity_start
from jax_models.registry import register_as
from jax_models.rngs import Rngs

_PATCH = 2  # side of the patches that are whitened, pixels
_DEPTHS = (1, 2, 3)  # convolutions that a stage may have


class Whitening(nnx.Module):
    """A 2×2 convolution without padding, to twice as many channels as a patch has values; GELU.

    Its kernel is meant to be `whitening_kernel`, and to stay it; its bias starts at zero.

    Args:
      in_channels: C of the images.
      rngs: initial weights.
    """

    def __init__(self, in_channels: int, *, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, 2 * _PATCH**2 * in_channels, _PATCH, rngs=rngs)
        self.conv.bias = nnx.Param(jnp.zeros(self.conv.out_features, jnp.float32))

    def __call__(self, images: Array, *, train: bool) -> Array:
        """images [B,H,W,C] -> [B,H-1,W-1,8·C]."""
        return ops.gelu(self.conv(images))

    @property
    def windows(self) -> list[Window]:
        """What it sees with."""
        return [self.conv.window]


class Stage(nnx.Module):
    """3×3 convolutions, each with batch norm and GELU; the first is pooled before its norm.

    Of three, what the first gives is added to the third before its GELU.

    Args:
      in_features: channels of the input.
      width: channels of each convolution.
      depth: how many there are, 1 to 3.
      norm_momentum, norm_eps: of batch norm.
      rngs: initial weights.
    """

    attention = None

    def __init__(
        self, in_features: int, width: int, depth: int, *, norm_momentum: float, norm_eps: float,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        how = {"padding": 1, "bias": False, "kernel": identity_start, "rngs": rngs}
        inputs = (in_features, *(width,) * (depth - 1))
        self.convs = nnx.List(Conv(n, width, 3, **how) for n in inputs)
        norm = {"momentum": norm_momentum, "epsilon": norm_eps}
        self.norms = nnx.List(BatchNorm(width, **norm) for _ in range(depth))

    def __call__(
        self, x: Array, *, train: bool, rngs: Rngs, maps: bool = True
    ) -> tuple[Array, None]:
        """x [B,H,W,C] -> (x [B,H//2,W//2,C'], None)."""
        (conv, norm), *others = zip(self.convs, self.norms, strict=True)
        x = first = ops.gelu(norm(ops.max_pool2x2(conv(x, exact=maps)), train=train))
        for i, (conv, norm) in enumerate(others):
            y = norm(conv(x, exact=maps), train=train)
            x = ops.gelu(y + first if i else y)
        return x, None

    @property
    def windows(self) -> list[Window]:
        """What it sees with, in order."""
        first, *others = (conv.window for conv in self.convs)
        return [first, Window(2, 2, 0), *others]


class ScaledHead(nnx.Module):
    """A product with a matrix, times a constant.

    Args:
      in_features: D.
      num_classes: K.
      scale: the constant.
      unit: start from weights of deviation 1.
      rngs: initial weights.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, scale: float, unit: bool, rngs: nnx.Rngs
    ):
        layers.check_sizes(num_classes=num_classes)
        layers.check_positive(head_scale=scale)
        kernel = layers.kernel_init(rngs.params(), (in_features, num_classes), jnp.float32)
        self.kernel = nnx.Param(kernel / kernel.std(ddof=1) if unit else kernel)
        self.scale = scale

    def __call__(self, x: Array, *, train: bool, rngs: Rngs) -> Array:
        """x [B,D] -> logits [B,K]."""
        return x @ self.kernel[...] * self.scale

    def read(self, x: Array) -> Array:
        """What it reads of x [B,D]: all."""
        return x


@register_as(
    {
        "airbench94": {},
        "airbench95": {"widths": (128, 384, 384)},
        "airbench96": {"widths": (128, 384, 512), "depths": (3, 3, 3), "norm_momentum": 0.1},
    }
)
def airbench(
    *, rngs: nnx.Rngs, in_channels: int = 3, num_classes: int = 10,
    widths: Sequence[int] = (64, 256, 256), depths: Sequence[int] = (2, 2, 2),
    norm_momentum: float = 0.4, norm_eps: float = 1e-12, head_scale: float = 1 / 9,
    unit_head: bool = False, remat: bool = False,
) -> ConvNet:  # fmt: skip
    """A CNN made to learn CIFAR-10 with few operations (airbench94: 1,972,792 parameters).

    `Whitening`, stages, and the largest value of each channel of the last map, which a matrix
    without bias turns into logits. Each convolution starts as the identity, as far as it has
    inputs. Images of 32 pixels leave a last map of 3×3, which the source pools as a whole too.

    The source trains neither the whitening kernel nor the scales of batch norm: as in its recipes
    here, `config.train.freeze` has to name them.

    Args:
      rngs: initial weights.
      in_channels: C of the images.
      num_classes: K.
      widths: channels of each stage.
      depths: convolutions of each stage, 1 to 3; of 3 with a sum around the last two.
      norm_momentum: share of a new batch in the running statistics of batch norm.
      norm_eps: added to the variance in batch norm. The source's is for photos: channels that are
        constant on all images, as on digits before black, it turns into noise of size 1.
      head_scale: factor of the logits.
      unit_head: the matrix of the head starts with a deviation of 1; with a `head_scale` of 1 over
        the last width, as in the source's airbench94_muon.
      remat: see `create_model`.

    Raises:
      ValueError: a value is out of its range, or there are not as many depths as widths.
    """
    widths = check_widths(widths, depths=depths)
    layers.check_sizes(in_channels=in_channels)
    layers.check_positive(norm_eps=norm_eps)
    _check(depths, norm_momentum, unit_head)
    stem = Whitening(in_channels, rngs=rngs)
    inputs = (stem.conv.out_features, *widths)
    norm = {"norm_momentum": norm_momentum, "norm_eps": norm_eps}
    stages = [
        Stage(n, width, depth, **norm, rngs=rngs)
        for n, width, depth in zip(inputs, widths, depths, strict=False)
    ]
    head = ScaledHead(widths[-1], num_classes, scale=head_scale, unit=unit_head, rngs=rngs)
    how = {"pool": ops.global_max_pool, "remat": remat}
    return ConvNet(stages, head, stem=stem, in_channels=in_channels, **how)


def _check(depths: Sequence[int], norm_momentum: float, unit_head: bool) -> None:
    for i, depth in enumerate(depths):
        if depth not in _DEPTHS:
            raise ValueError(f"depths[{i}]={depth!r}: expected 1, 2 or 3 convolutions in a stage.")
    layers.check_positive(norm_momentum=norm_momentum)
    if norm_momentum > 1:
        raise ValueError(f"norm_momentum={norm_momentum!r}: expected a share of at most 1.")
    if not isinstance(unit_head, bool):
        raise ValueError(f"unit_head={unit_head!r}: expected True or False.")


def whitening_kernel(batches: Iterable[np.ndarray], *, epsilon: float = 5e-4) -> np.ndarray:
    """The kernel of a convolution whose outputs on patches of images are uncorrelated.

    Its filters are the eigenvectors of the mean of ppᵀ over all patches p, each divided by the root
    of its eigenvalue + epsilon, the largest eigenvalue first; then their negatives. The sign, which
    is free, makes the largest entry of each of the first half positive.

    Args:
      batches: images as a model takes them, float [B,H,W,C] of two pixels a side at least.
      epsilon: added to the eigenvalues.

    Returns:
      float64 [2,2,C,8·C].
    """
    total, count = 0.0, 0
    for images in batches:
        patches = np.lib.stride_tricks.sliding_window_view(images, (_PATCH, _PATCH), (1, 2))
        channels = images.shape[-1]
        values = patches.reshape(-1, channels * _PATCH**2).astype(np.float64)  # by channel, row
        total, count = total + values.T @ values, count + len(values)
    eigenvalues, vectors = np.linalg.eigh(total / count)
    vectors = vectors[:, ::-1] / np.sqrt(eigenvalues[::-1] + epsilon)
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, range(len(largest))])
    both = np.concatenate([vectors, -vectors], axis=1)
    return both.reshape(channels, _PATCH, _PATCH, -1).transpose(1, 2, 0, 3)


layer_numbers.register(BY_STAGE, airbench)
image_start.register(lambda batches: {"stem.conv.kernel": whitening_kernel(batches)}, airbench)
