"""Folders of transformers: config.json and preprocessor_config.json in this package's words."""

from collections.abc import Callable, Mapping
from typing import Any

from jax_models.pretrained.description import (
    HALF,
    IMAGENET,
    Description,
    Fields,
    nearest_name,
)
from jax_models.pretrained.preprocessing import INTERPOLATIONS, Preprocessing

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_CLASSIFIER = "ForImageClassification"
_TEACHER = "ForImageClassificationWithTeacher"


def check(config: Fields) -> None:
    """Raise a SourceError, before weights are opened, unless a model is of a kind known here."""
    kind = config.text("model_type")
    if kind not in _KINDS:
        config.refuse("model_type", kind, f"one of {', '.join(_KINDS)}")


def describe(config: Fields, preprocessor: Fields | None, names: Mapping[str, Any]) -> Description:
    """Describe a model of transformers.

    Args:
      config: of config.json.
      preprocessor: of preprocessor_config.json; None without one.
      names: the names in the file of weights.

    Raises:
      SourceError: a model, or a setting of one, that is not known here.
    """
    check(config)
    kind = config.text("model_type")
    found = _KINDS[kind](config, _heads(config, names))
    found.class_names = _class_names(config) if found.settings["num_classes"] else ()
    side, channels = found.settings.get("img_size", 224), found.settings["in_channels"]
    found.preprocessing = preprocessing(kind, preprocessor, side, channels, found.notes)
    return found


def _heads(config: Fields, names: Mapping[str, Any]) -> str:
    """The end of the class that was saved: '' of a bare model."""
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else ""
    for end in (_TEACHER, _CLASSIFIER):
        if isinstance(architecture, str) and architecture.endswith(end):
            return end
    if not architecture and any("classifier" in str(name) for name in names):
        return _CLASSIFIER
    return ""


def _class_names(config: Fields) -> tuple[str, ...] | None:
    names = config.get("id2label")
    if names is None:
        return None
    if not isinstance(names, dict) or set(names) != {str(k) for k in range(len(names))}:
        config.refuse("id2label", names, "a name for each number from 0")
    names = [str(names[str(k)]) for k in range(len(names))]
    if all(name == f"LABEL_{k}" for k, name in enumerate(names)):  # of nobody's choosing
        return None
    return tuple(names)


def _num_classes(config: Fields, head: str) -> int:
    if not head:
        return 0
    if "id2label" in config:
        return len(config.part("id2label"))
    return config.count("num_labels", 2)


def _vit(config: Fields, head: str) -> Description:
    config.expect("qkv_bias", True)
    settings = _transformer(config, head) | {"mlp_dim": config.count("intermediate_size", 3072)}
    settings["norm_eps"] = config.number("layer_norm_eps", 1e-12)
    return _described("vit_*_patch*_???", "vit_base_patch16_224", settings, rule="Hugging Face")


def _deit(config: Fields, head: str) -> Description:
    found = _vit(config, head)
    if head == _CLASSIFIER:  # its head reads the class token alone: the other is like a register
        found.settings["registers"] = 1
        found.renamed = {"distillation_token": "register_tokens"}
        return found
    found.settings["distilled"] = True
    default = "deit_base_distilled_patch16_224"
    found.name = nearest_name("deit_*_distilled_*", found.settings, default)
    return found


def _dinov2(config: Fields, head: str) -> Description:
    config.expect("qkv_bias", True)
    config.expect("apply_layernorm", True)
    settings = _transformer(config, head, patch_size=14)
    settings["norm_eps"] = config.number("layer_norm_eps", 1e-6)
    settings["layer_scale"] = config.number("layerscale_value", 1.0)
    settings["swiglu"] = config.flag("use_swiglu_ffn", False)
    hidden = int(settings["embed_dim"] * config.number("mlp_ratio", 4))
    gated = (int(hidden * 2 / 3) + 7) // 8 * 8
    settings["mlp_dim"] = gated if settings["swiglu"] else hidden
    settings["pool"] = "token_and_avg" if head else "token"
    if config.text("model_type") == "dinov2":
        name = "vit_base_patch14_dinov2"
        return _described("vit_*_patch14_dinov2", name, settings, rule="Hugging Face")
    settings |= {"registers": config.count("num_register_tokens", 4), "cover_prefix": False}
    return _described("vit_*_reg4_dinov2", "vit_base_patch14_reg4_dinov2", settings)


def _transformer(config: Fields, head: str, patch_size: int = 16) -> dict[str, Any]:
    config.expect("hidden_act", "gelu")
    return _common(config, head) | {
        "img_size": config.count("image_size", 224),
        "patch_size": config.count("patch_size", patch_size),
        "embed_dim": config.count("hidden_size", 768),
        "depth": config.depth("num_hidden_layers", 12),
        "num_heads": config.count("num_attention_heads", 12),
    }


def _resnet(config: Fields, head: str) -> Description:
    block = config.text("layer_type", "bottleneck")
    if block not in ("basic", "bottleneck"):
        config.refuse("layer_type", block, "'basic' or 'bottleneck'")
    config.expect("hidden_act", "relu")
    config.expect("downsample_in_bottleneck", False)
    config.expect("downsample_in_first_stage", False)
    outputs = config.counts("hidden_sizes", [256, 512, 1024, 2048])
    widths = outputs if block == "basic" else tuple(width // 4 for width in outputs)
    config.expect("embedding_size", widths[0])
    settings = _common(config, head) | {
        "depths": config.depths("depths", [3, 4, 6, 3]),
        "widths": widths,
        "block": block,
    }
    return _described("resnet*", "resnet50", settings)


def _convnext(config: Fields, head: str) -> Description:
    config.expect("hidden_act", "gelu")
    config.expect("patch_size", 4)
    settings = _common(config, head) | {
        "depths": config.depths("depths", [3, 3, 9, 3]),
        "widths": config.counts("hidden_sizes", [96, 192, 384, 768]),
        "norm_eps": 1e-6,  # written into the library; the config has that of the last norm alone
        "head_norm_eps": config.number("layer_norm_eps", 1e-12),
    }
    return _described("convnext_*", "convnext_tiny", settings)


def _common(config: Fields, head: str) -> dict[str, Any]:
    channels = config.count("num_channels", 3)
    return {"in_channels": channels, "num_classes": _num_classes(config, head)}


def _described(pattern: str, default: str, settings: dict[str, Any], **more: Any) -> Description:
    return Description(nearest_name(pattern, settings, default), settings, None, **more)


_KINDS: dict[str, Callable[[Fields, str], Description]] = {
    "vit": _vit,
    "deit": _deit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
    "resnet": _resnet,
    "convnext": _convnext,
}

# Preprocessing

_BIT = {"size": {"shortest_edge": 256}, "crop_size": 224, "resample": 3, **IMAGENET}
_CONVNEXT = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}
_OF_KIND = {  # what the published files of a kind of model hold
    "vit": {"size": None, "resample": 2, **HALF},
    "deit": {"size": {"height": 256, "width": 256}, "crop_size": 224, "resample": 3, **IMAGENET},
    "dinov2": _BIT,
    "dinov2_with_registers": _BIT,
    "resnet": _CONVNEXT | IMAGENET,
    "convnext": _CONVNEXT | IMAGENET,
}
_OF_PROCESSOR = {  # the defaults of the classes, for fields that a file lacks
    "ViT": {"size": {"height": 224, "width": 224}, "resample": 2, **HALF},
    "DeiT": {"size": {"height": 256, "width": 256}, "crop_size": 224, "resample": 3, **HALF},
    "Bit": _BIT | {"size": {"shortest_edge": 224}},
    "ConvNext": _CONVNEXT | {"size": {"shortest_edge": 384}, **HALF},
}


def preprocessing(
    kind: str, given: Fields | None, side: int, channels: int, notes: list[str]
) -> Preprocessing:
    """Read the image processor of a model.

    Args:
      kind: of the model, its model_type.
      given: of preprocessor_config.json; None without one, which adds a note.
      side: of the model's images in pixels.
      channels: of these.
      notes: see `Description`.

    Raises:
      SourceError: a field holds what cannot be.
    """
    if given is None:
        notes.append(
            "There is no preprocessor_config.json: images are prepared as the published models of "
            f"the kind {kind!r} expect them."
        )
        defaults = dict(_OF_KIND[kind])
        defaults["size"] = defaults["size"] or {"height": side, "width": side}
        return _read(Fields(None, {}), kind, defaults, side).with_channels(channels)
    named = given.get("image_processor_type") or given.get("feature_extractor_type") or ""
    family = next((name for name in _OF_PROCESSOR if str(named).startswith(name)), None)
    if family is None:
        family = {"vit": "ViT", "deit": "DeiT"}.get(kind, "Bit")
        family = "ConvNext" if "crop_pct" in given else family
    return _read(given, family, _OF_PROCESSOR[family], side).with_channels(channels)


def _read(given: Fields, family: str, defaults: Mapping[str, Any], side: int) -> Preprocessing:
    """The steps of an image processor, in its own order: resize, crop, rescale, normalise."""
    size, crop = _size(given, family, defaults), None
    resample = given.get("resample", defaults["resample"])
    if not isinstance(resample, int) or resample not in RESAMPLE:
        given.refuse("resample", resample, "a number of Pillow's, 0 to 5")
    if defaults.get("crop_pct"):  # resizes straight from 384 pixels on
        crop = size if isinstance(size, int) else size[0]
        share = given.share("crop_pct", defaults["crop_pct"])
        size = int(crop / share) if crop < 384 else (crop, crop)
    elif given.flag("do_center_crop", "crop_size" in defaults):
        crop = _side(given, "crop_size", given.get("crop_size", defaults.get("crop_size", side)))
    if not given.flag("do_resize", True):
        size = None
    if crop is None and isinstance(size, tuple) and size[0] != size[1]:
        given.refuse("size", list(size), "one side, of square images")
    if crop is None:
        crop = side if size is None else size if isinstance(size, int) else size[0]
    scale = given.number("rescale_factor", 1 / 255) if given.flag("do_rescale", True) else 1.0
    mean, std = given.mean_and_std("image_mean", "image_std", defaults)
    if not given.flag("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    return Preprocessing(crop, size, RESAMPLE[resample], mean, std, scale, rounds_up=False)


def _size(given: Fields, family: str, defaults: Mapping[str, Any]) -> int | tuple[int, int]:
    """The shorter side, or (height, width)."""
    size = given.get("size", defaults["size"])
    if isinstance(size, int):  # of old files
        size = given.count("size") if "size" in given else size
        return (size, size) if family.lower().startswith(("vit", "deit")) else size
    if isinstance(size, dict):
        inside = Fields(given.path, size)
        if "shortest_edge" in inside:
            return inside.count("shortest_edge")
        if "height" in inside and "width" in inside:
            return inside.count("height"), inside.count("width")
    given.refuse("size", size, "a number, shortest_edge, or height and width")


def _side(given: Fields, name: str, value: Any) -> int:
    if isinstance(value, dict):
        inside = Fields(given.path, value)
        if inside.count("height") == inside.count("width"):
            return inside.count("height")
    elif isinstance(value, int):
        return Fields(given.path, {name: value}).count(name)
    given.refuse(name, value, "one side, of square images")


assert set(RESAMPLE.values()) == set(INTERPOLATIONS)
