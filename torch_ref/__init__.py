"""The models of `jax_models` in PyTorch: the same names, keywords and numbers.

    mirror = torch_ref.create_model("vit", num_classes=10)
    logits = mirror(images)                                   # images [B,C,H,W]
    logits, out = mirror(images, return_intermediates=True)

As in any PyTorch module, `mirror.train()` and `mirror.eval()` choose the mode.
"""

from torch_ref import (  # noqa: F401 - they register their models
    airbench,
    attention_cnn,
    cct,
    cnn,
    convnext,
    resnet,
    sl_vit,
    standard_vit,
    vit,
)
from torch_ref.registry import create_model, list_models

__all__ = ["create_model", "list_models"]
