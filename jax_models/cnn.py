"""Convolutional classifiers."""

from collections.abc import Sequence

import jax
from flax import nnx

from jax_models import layers
from jax_models.registry import register


class ConvNet(nnx.Module):
    """Stages that halve the image, global average pooling, and a linear head.

    Args:
      in_channels: C.
      num_classes: K.
      widths: channels of each stage.
      rngs: initial weights.

    Raises:
      ValueError: a size is below 1, or there is no stage.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, widths: Sequence[int], rngs: nnx.Rngs
    ):
        widths = tuple(widths)
        if not widths:
            raise ValueError("widths=(): expected the channels of at least one stage.")
        layers.check_sizes(in_channels=in_channels, num_classes=num_classes)
        layers.check_sizes(**{f"widths[{i}]": width for i, width in enumerate(widths)})
        self.in_channels = in_channels
        inputs = (in_channels, *widths[:-1])
        self.stages = nnx.List(
            layers.ConvStage(n, width, rngs=rngs) for n, width in zip(inputs, widths, strict=True)
        )
        self.fc = layers.linear(widths[-1], num_classes, rngs=rngs)

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None,
        return_intermediates: bool = False,
    ) -> jax.Array | tuple[jax.Array, dict[str, tuple[jax.Array, ...]]]:  # fmt: skip
        """Classify images.

        Args:
          images: float [B,H,W,C]; each stage halves H and W, rounding down.
          train: normalise by the batch and update the running statistics.
          rngs: not used; every model takes the same arguments.
          return_intermediates: also return `{"attention": (), "features": …}`, the output
            [B,H/2^s,W/2^s,widths[s]] of each stage.

        Returns:
          logits [B,K], or (logits, intermediates).

        Raises:
          ValueError: images of another shape or of integers, or too small for the stages.
        """
        del rngs
        layers.check_images(images, self.in_channels)
        if min(images.shape[1:3]) < 2 ** len(self.stages):
            raise ValueError(
                f"Images of {images.shape[1]}x{images.shape[2]} pixels are too small to be halved "
                f"by {len(self.stages)} stages: give fewer widths or larger images."
            )
        x, features = images, []
        for stage in self.stages:
            x = stage(x, train=train)
            features.append(x)
        logits = self.fc(x.mean(axis=(1, 2)))
        if return_intermediates:
            return logits, {"attention": (), "features": tuple(features)}
        return logits

    def torch_names(self) -> dict:
        """Where the PyTorch state dict has other names (see `torch_weights`)."""
        names = {}
        for i in range(len(self.stages)):
            for ours, theirs in {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}.items():
                names[f"stages.{i}.{ours}"] = f"conv{i + 1}.{theirs}"
        return names


@register
def simple_cnn(
    *, rngs: nnx.Rngs, in_channels: int = 3, num_classes: int = 10,
    widths: Sequence[int] = (64, 128, 256, 512),
) -> ConvNet:  # fmt: skip
    """A plain batch-norm CNN for CIFAR-10 (4,694,346 parameters)."""
    return ConvNet(in_channels=in_channels, num_classes=num_classes, widths=widths, rngs=rngs)
