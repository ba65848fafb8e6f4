"""Convolutional classifiers; sizes in a row (`fmt: skip`), to be read beside torch_ref/cnn.py."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jax import Array

from jax_models import conv_layers, layer_numbers, layers, ops, stack
from jax_models.registry import register
from jax_models.rngs import Rngs


def channel_means(x: Array) -> Array:
    """[B,H,W,C] -> [B,C]."""
    return x.mean((1, 2))


def all_values(x: Array) -> Array:
    """[B,H,W,C] -> [B,C·H·W], channel by channel, PyTorch's order."""
    return ops.channels_first(x).reshape(x.shape[0], -1)


class ConvNet(nnx.Module):
    """Convolutional stages one after the other, and a head on what the last one gives.

    Args:
      stages: at least one; each has `windows` and `attention`, as a `ConvStage` has.
      head: from features [B,F] to logits.
      in_channels: C of the images.
      stem: what comes before the stages; it has a `conv` and `windows`.
      img_size: side of the square images, pixels; None where any size will do.
      pool: what the head is given of the last feature map, [B,H',W',C'] -> [B,F].
      remat: see `create_model`.
    """

    def __init__(
        self, stages: Sequence[nnx.Module], head: layers.Head, *, in_channels: int,
        stem: nnx.Module | None = None, img_size: int | None = None,
        pool: Callable[[Array], Array] = channel_means, remat: bool = False,
    ):  # fmt: skip
        self.stem, self.stages, self.head, self.remat = stem, nnx.List(stages), head, remat
        self.in_channels, self.img_size, self.pool = in_channels, img_size, pool

    def __call__(
        self, images: Array, *, train: bool = False, rngs: Rngs = None,
        return_intermediates: bool = False,
    ) -> Array | tuple[Array, dict[str, tuple[Array, ...]]]:  # fmt: skip
        """Classify images.

        Args:
          images: float [B,H,W,C].
          train: normalise by the batch and update the running statistics; drop values out.
          rngs: `nnx.Rngs(dropout=key)`, needed in training with dropout.
          return_intermediates: also return `{"attention": …, "features": …}`: the output
            [B,H',W',C'] of each stage, and the attention of each stage that has one.

        Returns:
          logits [B,K], or (logits, intermediates).

        Raises:
          ValueError: images of another shape or of integers, or too small for the stages;
            training with dropout without `rngs`.
        """
        how = {"train": train, "rngs": rngs}
        x, attention, features = self._maps(images, **how, maps=return_intermediates)
        logits = self.head(self.pool(x), **how)
        if return_intermediates:
            attention = tuple(weights for weights in attention if weights is not None)
            return logits, {"attention": attention, "features": features}
        return logits

    def forward_features(self, images: Array) -> Array:
        """images [B,H,W,C] -> the map [B,H',W',C'] that the last stage gives; evaluates."""
        return self._maps(images)[0]

    def pooled_features(self, images: Array) -> Array:
        """images [B,H,W,C] -> what the layers of the head read [B,F]; evaluates."""
        return self.head.read(self.pool(self._maps(images)[0]))

    def _maps(self, images, *, train=False, rngs=None, maps=False):
        """The map of the last stage, and attention and map of each."""
        layers.check_images(images, self.in_channels, self.img_size)
        self._check_size(*images.shape[1:3])
        x, how = self.embed(images, train=train), {"maps": maps, "remat": self.remat}
        return stack.run_parts(self.stages, x, train=train, rngs=rngs, **how)

    def embed(self, images: Array, *, train: bool = False) -> Array:
        """What the first stage is given of images [B,H,W,C]: [B,H',W',C']."""
        return images if self.stem is None else self.stem(images, train=train)

    def after(self, stage: int, x: jax.Array) -> jax.Array:
        """Logits [B,K] of the output [B,H',W',C'] of a stage, whose number is from 0."""
        for part in list(self.stages)[stage + 1 :]:
            x, _ = part(x, train=False, rngs=None, maps=False)
        return self.head(self.pool(x), train=False, rngs=None)

    def stage_pixels(self, stage: int) -> tuple[float, int]:
        """Where a stage's output lies on the image: (first pixel, pixels per value).

        Value i of a row or column stands for pixels first + i·step up to first + (i+1)·step: it
        has seen as many on the left as on the right of them. With padding the last ones may reach
        over the border.
        """
        first, step = 0, 1
        for size, stride, padding in self._windows(stage):
            first += step * ((size - stride) / 2 - padding)
            step *= stride
        return first, step

    def _windows(self, stage):
        """What the images have gone through after a stage."""
        stem = [] if self.stem is None else [self.stem]
        parts = stem + list(self.stages)[: stage + 1]
        return [window for part in parts for window in part.windows]

    @property
    def attention_stages(self) -> tuple[int, ...]:
        """Numbers of the stages that return attention."""
        return tuple(i for i, stage in enumerate(self.stages) if stage.attention is not None)

    @property
    def first_filters(self) -> jax.Array:
        """Kernel [h,w,C,F] of the convolution that sees the image."""
        first = self.stages[0].convs[0] if self.stem is None else self.stem.conv
        return first.kernel[...]

    def _check_size(self, height, width):
        windows, pixels = self._windows(len(self.stages)), min(height, width)
        for window in windows:
            pixels = window.places(pixels)
        if pixels < 1:
            halvings = sum(window.stride.bit_length() - 1 for window in windows)
            raise ValueError(
                f"Images of {height}x{width} pixels are too small to be halved {halvings} "
                "times: give fewer widths or larger images."
            )


def check_widths(
    widths: Sequence[int], count: int | None = None, *, depths: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Return the channels of the stages as a tuple.

    Raises:
      ValueError: there are none, or not `count`, or one is below 1; or there is another number of
        `depths`, or one of these is below 1.
    """
    if not isinstance(widths, Sequence) or not widths or count not in (None, len(widths)):
        expected = f"{count} numbers" if count else "one number or more"
        raise ValueError(f"widths={widths!r}: expected a tuple of {expected}, channels of a stage.")
    layers.check_sizes(**{f"widths[{i}]": width for i, width in enumerate(widths)})
    if depths is not None:
        if not isinstance(depths, Sequence) or len(depths) != len(widths):
            expected = f"as many numbers of blocks as widths={tuple(widths)!r} has channels"
            raise ValueError(f"depths={depths!r}: expected a tuple of {expected}.")
        layers.check_sizes(**{f"depths[{i}]": depth for i, depth in enumerate(depths)})
    return tuple(widths)


@register
def simple_cnn(
    *, rngs: nnx.Rngs, in_channels: int = 3, num_classes: int = 10,
    widths: Sequence[int] = (64, 128, 256, 512), remat: bool = False,
) -> ConvNet:  # fmt: skip
    """A plain batch-norm CNN for CIFAR-10 (4,694,346 parameters).

    A stage is (3×3 convolution, batch norm, ReLU) twice and 2×2 max-pooling; the head takes the
    mean of each channel.
    """
    widths = check_widths(widths)
    layers.check_sizes(in_channels=in_channels)
    stages = [
        conv_layers.ConvStage(n, (width, width), batch_norm=True, pool=True, rngs=rngs)
        for n, width in zip((in_channels, *widths), widths, strict=False)
    ]
    head = layers.Head(widths[-1], num_classes, rngs=rngs)
    return ConvNet(stages, head, in_channels=in_channels, remat=remat)


@register
def mnist_cnn(
    *, rngs: nnx.Rngs, img_size: int = 28, in_channels: int = 1, num_classes: int = 10,
    widths: Sequence[int] = (32, 64), head_dims: Sequence[int] = (128,), dropout: float = 0.25,
    head_dropout: float = 0.5, remat: bool = False,
) -> ConvNet:  # fmt: skip
    """Two convolutions without padding for MNIST (1,199,882); log-softmax belongs to the loss."""
    first, second = check_widths(widths, 2)
    layers.check_sizes(img_size=img_size, in_channels=in_channels)
    side = (img_size - 4) // 2
    if side < 1:
        raise ValueError(f"img_size={img_size}: the convolutions and the pooling need at least 6.")
    stages = [
        conv_layers.ConvStage(in_channels, (first,), padding=0, rngs=rngs),
        conv_layers.ConvStage(first, (second,), padding=0, pool=True, dropout=dropout, rngs=rngs),
    ]
    sizes = second * side**2, num_classes, head_dims, (ops.relu,)
    head = layers.Head(*sizes, dropout=head_dropout, rngs=rngs)
    sizes = {"in_channels": in_channels, "img_size": img_size}
    return ConvNet(stages, head, **sizes, pool=all_values, remat=remat)


BY_STAGE = layer_numbers.Layers(stem=r"stem\.", block=r"stages\.(\d+)\.")
layer_numbers.register(BY_STAGE, simple_cnn, mnist_cnn)
