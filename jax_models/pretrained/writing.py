"""Folders as transformers and timm save them: what `huggingface` and `timm` read, written."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from jax_models import registry, torch_weights
from jax_models.layers import NoHead
from jax_models.pretrained.description import Description
from jax_models.pretrained.folder import CONFIG, PREPROCESSOR, WEIGHTS
from jax_models.pretrained.huggingface import RESAMPLE
from jax_models.pretrained.preprocessing import Preprocessing
from jax_models.torch_weights import tables

WEIGHTS_FILE = WEIGHTS[0]
_EPS = 1e-6  # written into transformers' ConvNeXt, and timm's models
FORMATS = {"huggingface": "Hugging Face's transformers", "timm": "timm"}
Settings = Mapping[str, Any]


class Unwritable(ValueError):
    """A library has no such model; the message says why, without the model's name."""


def formats_of(model: nnx.Module) -> list[str]:
    """The formats whose library may have a model, by the names of its weights."""
    return [name for name in FORMATS if _has_names(model, name)]


def files(model: nnx.Module, found: Description, format: str) -> dict[str, dict[str, Any]]:
    """What the JSON files of a folder hold, by the names of the files.

    Args:
      model: with the weights.
      found: its description, class names and preprocessing included.
      format: one of `FORMATS`.

    Raises:
      Unwritable: the library has no model like that.
    """
    if not _has_names(model, format):
        raise Unwritable(f"{FORMATS[format]} has no such model")
    if (steps := found.preprocessing) is None:
        raise Unwritable("a folder says what happens to images, which is not known")
    settings = registry.model_keywords(found.name) | found.settings
    if format == "timm":
        return {CONFIG: _timm(model, found, settings, steps)}
    kind = tables.written(model, format).root.rstrip(".")
    config = {"model_type": kind, "dtype": "float32", "num_channels": settings["in_channels"]}
    config |= _head(model, found, settings, kind) | _KINDS[kind](settings)
    return {CONFIG: config, PREPROCESSOR: _processor(steps)}


def _has_names(model: nnx.Module, format: str) -> bool:
    try:
        torch_weights.names(model, format)
    except ValueError:
        return False
    return True


# transformers


def _head(model: Any, found: Description, settings: Settings, kind: str) -> dict[str, Any]:
    """Which class of the library it is, and what the classes are called."""
    if isinstance(model.head, NoHead):
        return {"architectures": [f"{_CLASSES[kind]}Model"]}
    names = found.class_names or [f"LABEL_{k}" for k in range(settings["num_classes"])]
    end = "ForImageClassification" + "WithTeacher" * (kind == "deit")
    return {
        "architectures": [f"{_CLASSES[kind]}{end}"],
        "id2label": {str(k): name for k, name in enumerate(names)},
        "label2id": {name: k for k, name in enumerate(names)},
    }


def _transformer(settings: Settings) -> dict[str, Any]:
    return {
        "image_size": settings["img_size"],
        "patch_size": settings["patch_size"],
        "hidden_size": settings["embed_dim"],
        "num_hidden_layers": settings["depth"],
        "num_attention_heads": settings["num_heads"],
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": settings["norm_eps"],
    }


def _vit(settings: Settings) -> dict[str, Any]:
    width = settings["mlp_dim"] or 4 * settings["embed_dim"]
    return _transformer(settings) | {"intermediate_size": width}


def _dinov2(settings: Settings) -> dict[str, Any]:
    width, swiglu, hidden = (settings[key] for key in ("embed_dim", "swiglu", "mlp_dim"))
    widths = {
        ratio: (width * ratio * 2 // 3 + 7) // 8 * 8 if swiglu else width * ratio
        for ratio in range(1, 17)
    }
    fitting = [ratio for ratio in widths if widths[ratio] == (hidden or widths[4])]
    if not fitting:
        raise Unwritable(f"its MLP would have a width of {widths[4]} or another multiple")
    registers = {"num_register_tokens": settings["registers"]} if settings["registers"] else {}
    return (
        _transformer(settings)
        | registers
        | {
            "mlp_ratio": fitting[0],
            "use_swiglu_ffn": swiglu,
            "apply_layernorm": True,
            "layerscale_value": settings["layer_scale"],
        }
    )


def _resnet(settings: Settings) -> dict[str, Any]:
    widths, block = settings["widths"], settings["block"]
    return {
        "depths": list(settings["depths"]),
        "hidden_sizes": [width * (4 if block == "bottleneck" else 1) for width in widths],
        "embedding_size": widths[0],
        "layer_type": block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _convnext(settings: Settings) -> dict[str, Any]:
    if settings["norm_eps"] != _EPS:
        raise Unwritable(f"its layer norms have an epsilon of {_EPS}")
    own = settings["head_norm_eps"]
    return {
        "depths": list(settings["depths"]),
        "hidden_sizes": list(settings["widths"]),
        "num_stages": len(settings["depths"]),
        "patch_size": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": settings["norm_eps"] if own is None else own,
    }


# model_type -> what makes the config, and how the library's classes begin
_KINDS: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "vit": _vit,
    "deit": _vit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
    "resnet": _resnet,
    "convnext": _convnext,
}
_CLASSES = {"vit": "ViT", "deit": "DeiT", "resnet": "ResNet", "convnext": "ConvNext"}
_CLASSES |= {"dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}


def _processor(steps: Preprocessing) -> dict[str, Any]:
    """preprocessor_config.json: of a processor that does all these steps."""
    numbers = {name: number for number, name in RESAMPLE.items()}
    size = steps.resize
    if isinstance(size, tuple):
        sides = {"height": size[0], "width": size[1]}
    else:
        sides = {"shortest_edge": steps.size if size is None else size}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": size is not None,
        "size": sides,
        "resample": numbers[steps.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": steps.size, "width": steps.size},
        "do_rescale": True,
        "rescale_factor": steps.scale,
        "do_normalize": True,
        "image_mean": list(steps.mean),
        "image_std": list(steps.std),
        "do_convert_rgb": steps.channels == 3,
    }


# timm


def _timm(
    model: nnx.Module, found: Description, settings: Settings, steps: Preprocessing
) -> dict[str, Any]:
    classes, arguments = settings["num_classes"], _arguments(found, settings)
    first, heads = (_weights(model, paths) for paths in (_FIRST, _HEADS))
    sides = steps.resize if isinstance(steps.resize, tuple) else (steps.resize or steps.size,)
    if len({*sides}) > 1:
        raise Unwritable("it resizes images to squares, not to {}x{} pixels".format(*sides))
    resize = sides[0]
    share = steps.size / resize
    if math.floor(steps.size / share) != resize:  # as timm reckons it
        share = math.nextafter(share, 0)
    pretrained = {
        "tag": "",
        "custom_load": False,
        "input_size": [steps.channels, steps.size, steps.size],
        "fixed_input_size": "img_size" in settings,
        "interpolation": steps.interpolation,
        "crop_pct": share,
        "crop_mode": "squash" if len(sides) > 1 else "center",
        **{key: list(values) for key, values in steps.statistics.items()},
        "num_classes": classes,
        "first_conv": first[0],
        "classifier": heads if len(heads) > 1 else next(iter(heads), None),
    }
    config = {"architecture": found.name, "num_classes": classes, "model_args": arguments}
    named = {"label_names": list(found.class_names)} if found.class_names else {}
    return config | named | {"pretrained_cfg": pretrained}


def _weights(model: nnx.Module, paths: Sequence[str]) -> list[str]:
    """What timm calls those of these layers that a model has."""
    known = tables.written(model, "timm")
    there = {".".join(map(str, path[:-1])) for path, _ in nnx.to_flat_state(nnx.state(model))}
    places = ((path, known.find(path, known.root)) for path in paths if path in there)
    return [str(place.name) if place else path for path, place in places]


def _arguments(found: Description, settings: Settings) -> dict[str, Any]:
    """timm's arguments for what is not as the name has it.

    Raises:
      Unwritable: timm takes no such argument from a file.
    """
    own = registry.model_keywords(found.name)
    arguments: dict[str, Any] = {}
    family = registry.family(found.name)
    theirs = _TIMM | _OF_FAMILY.get(family, {})
    if family == "resnet" and settings["widths"][0] != _STEM:
        raise Unwritable(f"its first convolution has {_STEM} channels")
    for name, value in settings.items():
        if value == own[name] or name in _IN_TRAINING or name == "num_classes":
            continue
        if name == "mlp_dim":
            width = value * (1 + settings["swiglu"])
            arguments["mlp_ratio"] = _ratio(width, settings["embed_dim"])
        elif name == "pool" and value != "token_and_avg":
            arguments["global_pool"] = value
        elif name == "cover_prefix":
            arguments["no_embed_class"] = not value
        elif name in theirs:
            arguments[theirs[name]] = list(value) if isinstance(value, tuple) else value
        else:
            raise Unwritable(f"it has no {name}={value!r} in a {found.name}")
    return arguments


def _ratio(width: int, embed_dim: int) -> float:
    """What embed_dim is multiplied with, and the product rounded down, to get a width."""
    ratio = width / embed_dim
    return ratio if int(embed_dim * ratio) == width else math.nextafter(ratio, math.inf)


_FIRST = ("patch_embed.projection", "stem.conv")
_HEADS = ("head.layers.0", "head.heads.0.layers.0", "head.heads.1.layers.0")
_STEM = 64  # of timm's ResNets, whatever their stages have
_IN_TRAINING = ("dropout", "drop_path")
_TIMM = {
    "img_size": "img_size",
    "in_channels": "in_chans",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "layer_scale": "init_values",
    "class_token": "class_token",
    "fc_norm": "fc_norm",
    "registers": "reg_tokens",
}
_OF_FAMILY = {
    "resnet": {"depths": "layers", "widths": "channels"},
    "convnext": {"depths": "depths", "widths": "dims"},
}
