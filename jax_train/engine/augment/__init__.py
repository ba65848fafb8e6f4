"""Image augmentation inside the compiled step: pure functions driven by one random key per image.

One key per image, rather than one per batch, makes an image's augmentation independent of the
images around it and of how the batch is spread over devices. Images are `[B, H, W, C]`; the
definitions are torchvision's (https://docs.pytorch.org/vision/stable/transforms.html), so that a
PyTorch recipe keeps its meaning. An operation is one entry of `operations.OPERATIONS`.
"""

from jax_train.engine.augment.geometry import (
    crop_at,
    flip_where,
    normalise,
    resize,
    rotate_by,
)
from jax_train.engine.augment.operations import Place
from jax_train.engine.augment.pipeline import Augmentation, build

__all__ = ["Augmentation", "Place", "build"]
__all__ += ["crop_at", "flip_where", "normalise", "resize", "rotate_by"]
