"""Small folders as transformers and timm save them, with weights of this package's own export."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from jax_models import registry, torch_weights
from tests.jax_models import small

SIDE, CLASSES = 32, 7
NAMES = [f"kind {k}" for k in range(CLASSES)]
VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
RESNET = {"depths": (1, 2, 1, 1), "widths": (8, 12, 20, 28)}
CONVNEXT = {"depths": (1, 2, 1, 1), "widths": (8, 12, 20, 28)}
_LABELS = {"id2label": {str(k): name for k, name in enumerate(NAMES)}}
_TRANSFORMER = _LABELS | {
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
_OF_VIT = _TRANSFORMER | {"intermediate_size": 96}
_EPS = {"norm_eps": 1e-12}
_DINOV2 = VIT | {"pool": "token_and_avg", "layer_scale": 0.7}
_OF_DINOV2 = _TRANSFORMER | {"layerscale_value": 0.7, "image_size": SIDE}
_STAGES = _LABELS | {"depths": [1, 2, 1, 1]}


# kind -> (name of the model, its settings, config.json of transformers)
HUGGING_FACE = {
    "vit": ("vit_tiny_patch16_224", VIT | _EPS, _OF_VIT | {"model_type": "vit"}),
    "deit": (
        "deit_tiny_distilled_patch16_224",
        VIT | _EPS,
        _OF_VIT
        | {"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]},
    ),
    "dinov2": ("vit_small_patch14_dinov2", _DINOV2, _OF_DINOV2 | {"model_type": "dinov2"}),
    "dinov2_giant": (
        "vit_giant_patch14_dinov2",
        _DINOV2 | {"mlp_dim": 64},
        _OF_DINOV2 | {"model_type": "dinov2", "use_swiglu_ffn": True},
    ),
    "dinov2_with_registers": (
        "vit_small_patch14_reg4_dinov2",
        _DINOV2,
        _OF_DINOV2 | {"model_type": "dinov2_with_registers", "num_register_tokens": 4},
    ),
    "resnet": (
        "resnet50",
        RESNET,
        _STAGES
        | {
            "model_type": "resnet",
            "layer_type": "bottleneck",
            "embedding_size": 8,
            "hidden_sizes": [32, 48, 80, 112],
        },
    ),
    "resnet_basic": (
        "resnet18",
        RESNET,
        _STAGES
        | {
            "model_type": "resnet",
            "layer_type": "basic",
            "embedding_size": 8,
            "hidden_sizes": [8, 12, 20, 28],
        },
    ),
    "convnext": (
        "convnext_tiny",
        CONVNEXT | {"head_norm_eps": 1e-12},
        _STAGES | {"model_type": "convnext", "hidden_sizes": [8, 12, 20, 28]},
    ),
}
# name of the model -> settings, and timm's arguments
TIMM = {
    "vit_tiny_patch16_224": (VIT, VIT),
    "deit3_small_patch16_224": (VIT, VIT),
    "vit_small_patch14_reg4_dinov2": (VIT | {"pool": "avg"}, VIT | {"global_pool": "avg"}),
    "deit_tiny_distilled_patch16_224": (VIT, VIT),
    "resnet18": (RESNET, {"layers": [1, 2, 1, 1], "channels": [8, 12, 20, 28]}),
    "convnext_tiny": (CONVNEXT, {"depths": [1, 2, 1, 1], "dims": [8, 12, 20, 28]}),
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def build(name: str, **settings) -> nnx.Module:
    """A model of random values."""
    return small.drawn(registry.abstract_model(name, **({"num_classes": CLASSES} | settings)))


def hugging_face(
    folder: Path,
    kind: str = "vit",
    preprocessor: dict | None = None,
    num_classes: int = CLASSES,
    **changes,
):
    """Write a folder of transformers; return the model in it. `changes` are of its config."""
    name, settings, config = HUGGING_FACE[kind]
    model = build(name, num_classes=num_classes, **settings)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(torch_weights.export(model, "huggingface"), folder / "model.safetensors")
    config = {"architectures": ["AForImageClassification"]} | config | changes
    (folder / "config.json").write_text(json.dumps(config))
    given = PREPROCESSOR if preprocessor is None else preprocessor
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return model


def timm(
    folder: Path,
    name: str = "vit_tiny_patch16_224",
    legacy: bool = False,
    num_classes: int = CLASSES,
    **changes,
):
    """Write a folder of timm; return the model in it. `changes` are of its pretrained_cfg."""
    settings, arguments = TIMM[name]
    model = build(name, num_classes=num_classes, **settings)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(torch_weights.export(model, "timm"), folder / "model.safetensors")
    pretrained = {
        "input_size": [3, SIDE, SIDE],
        "crop_pct": 0.9,
        "interpolation": "bicubic",
        "num_classes": num_classes,
        **IMAGENET,
    } | changes
    config = {"architecture": name, "num_classes": num_classes, "model_args": arguments}
    config |= pretrained if legacy else {"pretrained_cfg": pretrained, "label_names": NAMES}
    (folder / "config.json").write_text(json.dumps(config))
    return model


def images(count: int = 2, side: int = SIDE, channels: int = 3) -> jax.Array:
    """Random inputs of a model."""
    shape = count, side, side, channels
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
