"""Vision Transformers and CNNs in Flax NNX.

    model = jax_models.create_model("vit", rngs=nnx.Rngs(0), num_classes=10)
    logits = model(images)                                    # images [B,H,W,C], evaluation mode
    logits = model(images, train=True, rngs=nnx.Rngs(dropout=key))
    logits, out = model(images, return_intermediates=True)    # out["attention"], out["features"]

`jax_models.torch_weights` moves weights to and from PyTorch state dicts. Pretrained models come
with what belongs to them:

    loaded = jax_models.load_pretrained("hf:google/vit-base-patch16-224")
    loaded.model(loaded.preprocessing(["cat.jpg"])), loaded.class_names
"""

from jax_models import (  # noqa: F401 - they register
    airbench,
    airbench_names,
    attention_cnn,
    cct,
    cct_names,
    cnn,
    cnn_names,
    convnext,
    convnext_names,
    image_start,
    layer_numbers,
    resnet,
    resnet_names,
    sl_vit,
    sl_vit_names,
    standard_vit,
    standard_vit_names,
    vit,
    vit_names,
)
from jax_models.pretrained import Pretrained, load_pretrained, open_pretrained
from jax_models.registry import (
    can_scan,
    create_model,
    family,
    list_families,
    list_models,
    model_keywords,
    register,
    register_as,
)

__all__ = ["can_scan", "create_model", "family", "list_families", "list_models"]
__all__ += ["Pretrained", "load_pretrained", "open_pretrained"]
__all__ += ["model_keywords", "register", "register_as"]
