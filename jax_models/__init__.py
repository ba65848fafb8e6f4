"""Vision Transformers and CNNs in Flax NNX.

    model = jax_models.create_model("vit", rngs=nnx.Rngs(0), num_classes=10)
    logits = model(images)                                    # images [B,H,W,C], evaluation mode
    logits = model(images, train=True, rngs=nnx.Rngs(dropout=key))
    logits, out = model(images, return_intermediates=True)    # out["attention"], out["features"]

`jax_models.torch_weights` moves weights to and from PyTorch state dicts.
"""

from jax_models import attention_cnn as _attention_cnn  # noqa: F401 - registers its models
from jax_models import cnn as _cnn  # noqa: F401 - registers its models
from jax_models import cnn_names as _cnn_names  # noqa: F401 - registers their PyTorch names
from jax_models import vit as _vit  # noqa: F401 - registers its models
from jax_models import vit_names as _vit_names  # noqa: F401 - registers their PyTorch names
from jax_models.registry import can_scan, create_model, list_models, model_keywords, register

__all__ = ["can_scan", "create_model", "list_models", "model_keywords", "register"]
