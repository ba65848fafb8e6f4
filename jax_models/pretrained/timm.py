"""Folders of timm: config.json, in the form of today or of old, in this package's words."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

from jax_models import registry
from jax_models.pretrained.description import IMAGENET, Description, Fields
from jax_models.pretrained.preprocessing import INTERPOLATIONS, Preprocessing

# timm's arguments of a model, and how they read in our words.
_COUNTS = {
    "img_size": "img_size",
    "in_chans": "in_channels",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "num_heads": "num_heads",
}
_LISTS = {"layers": "depths", "depths": "depths", "channels": "widths", "dims": "widths"}
# What the models here are; other values would need other models.
_FIXED = {
    "qkv_bias": True,
    "pre_norm": False,
    "qk_norm": False,
    "conv_mlp": False,
    "head_norm_first": False,
    "use_grn": False,
    "kernel_sizes": 7,
    "cardinality": 1,
    "base_width": 64,
    "stem_type": "",
    "avg_down": False,
    "output_stride": 32,
}
_IN_TRAINING = {"drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"}
_IN_TRAINING |= {"attn_drop_rate", "drop_path_rate", "weight_init", "fix_init", "zero_init_last"}
_IN_TRAINING |= {"ls_init_value", "dynamic_img_size", "dynamic_img_pad", "strict_img_size"}


def describe(config: Fields) -> Description:
    """Describe a model of timm.

    Args:
      config: of config.json.

    Raises:
      SourceError: an architecture, or an argument of one, that is not known here.
    """
    name, _, _ = config.text("architecture").partition(".")
    if name not in registry.list_models():
        near = difflib.get_close_matches(name, registry.list_models(), cutoff=0.0)
        known = f"one of jax_models.list_models(), such as {', '.join(near)}"
        config.refuse("architecture", name, known)
    pretrained = config.part("pretrained_cfg") if "pretrained_cfg" in config else config
    size = pretrained.counts("input_size", [3, 224, 224])
    if len(size) != 3 or size[1] != size[2]:
        pretrained.refuse("input_size", list(size), "[channels, height, width] of a square")
    settings = {"in_channels": size[0], "num_classes": _num_classes(config, pretrained)}
    keywords = registry.model_keywords(name)
    if "img_size" in keywords:
        settings["img_size"] = size[1]
    settings |= _arguments(config.part("model_args"), keywords)
    found = Description(name, settings, preprocessing(pretrained, settings["in_channels"]))
    found.preprocessing = found.preprocessing.at(settings.get("img_size", size[1]))
    found.class_names = _class_names(config, settings["num_classes"])
    return found


def preprocessing(fields: Fields, channels: int) -> Preprocessing:
    """Read timm's own evaluation transform off a `pretrained_cfg`.

    Raises:
      SourceError: a field holds what cannot be.
    """
    size = fields.counts("input_size", [3, 224, 224])[1]
    share = fields.share("crop_pct", 0.875)
    interpolation = fields.text("interpolation", "bicubic")
    if interpolation not in INTERPOLATIONS:
        fields.refuse("interpolation", interpolation, f"one of {', '.join(INTERPOLATIONS)}")
    fields.expect("crop_mode", "center", "squash")
    resize = math.floor(size / share)
    mean, std = fields.mean_and_std("mean", "std", IMAGENET)
    squashed = fields.get("crop_mode") == "squash"
    steps = (resize, resize) if squashed else resize
    return Preprocessing(size, steps, interpolation, mean, std).with_channels(channels)


def _num_classes(config: Fields, pretrained: Fields) -> int:
    for fields in (config.part("model_args"), config, pretrained):
        if "num_classes" in fields:
            classes = fields.get("num_classes")
            return 0 if classes == 0 and classes is not False else fields.count("num_classes")
    return 1000


def _arguments(given: Fields, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """timm's arguments in our words; those that matter in training alone are passed over."""
    settings: dict[str, Any] = {}
    for name in given:
        if name in _IN_TRAINING or name == "num_classes" or name not in given:
            continue
        ours = _COUNTS.get(name) or _LISTS.get(name)
        if name in _FIXED:
            given.expect(name, _FIXED[name])
        elif name == "global_pool" and "pool" not in keywords:
            given.expect(name, "avg", "fast")
        elif name in _OTHERS and _OTHERS[name][0] in keywords:
            ours, read = _OTHERS[name]
            settings[ours] = read(given, keywords)
        elif ours not in keywords:
            given.refuse(name, given.get(name), "an argument that the models here have")
        elif name in _LISTS:
            settings[ours] = (given.depths if ours == "depths" else given.counts)(name)
        else:
            settings[ours] = given.count(name)
    return settings


def _mlp_dim(given: Fields, keywords: Mapping[str, Any]) -> int:
    width = int(given.count("embed_dim", keywords["embed_dim"]) * given.number("mlp_ratio"))
    return width // 2 if keywords["swiglu"] else width  # of both halves together


def _pool(given: Fields, keywords: Mapping[str, Any]) -> str:
    given.expect("global_pool", "token", "avg")
    return given.text("global_pool")


_OTHERS = {
    "depth": ("depth", lambda given, _: given.depth("depth")),
    "global_pool": ("pool", _pool),
    "mlp_ratio": ("mlp_dim", _mlp_dim),
    "norm_eps": ("norm_eps", lambda given, _: given.number("norm_eps")),
    "init_values": ("layer_scale", lambda given, _: given.number("init_values")),
    "class_token": ("class_token", lambda given, _: given.flag("class_token")),
    "fc_norm": ("fc_norm", lambda given, _: given.flag("fc_norm")),
    "no_embed_class": ("cover_prefix", lambda given, _: not given.flag("no_embed_class")),
    "reg_tokens": (
        "registers",
        lambda given, _: given.count("reg_tokens") if given.get("reg_tokens") else None,
    ),
}


def _class_names(config: Fields, classes: int) -> tuple[str, ...] | None:
    names = config.get("label_names")
    if not isinstance(names, list) or len(names) != classes:
        return None
    told = config.get("label_descriptions")
    told = told if isinstance(told, dict) else {}
    return tuple(str(told.get(str(name), name)) for name in names)
