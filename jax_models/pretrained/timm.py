"""Folders of timm: config.json, in the form of today or of old, in this package's words."""

import math
from collections.abc import Mapping
from typing import Any

from jax_models import registry
from jax_models.pretrained.description import IMAGENET, MOST_BLOCKS, Description, Fields
from jax_models.pretrained.preprocessing import INTERPOLATIONS, Preprocessing

# timm's keyword -> ours. Those that only matter in training are passed over.
_KEYWORDS = {
    "img_size": "img_size",
    "in_chans": "in_channels",
    "num_classes": "num_classes",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "global_pool": "pool",
    "drop_path_rate": "drop_path",
    "layers": "depths",
    "channels": "widths",
    "depths": "depths",
    "dims": "widths",
    "mlp_ratio": "mlp_dim",
}
_IN_TRAINING = {"drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate"}
_IN_TRAINING |= {"attn_drop_rate", "weight_init", "init_values", "ls_init_value", "fix_init"}
_IN_TRAINING |= {"dynamic_img_size", "dynamic_img_pad", "strict_img_size", "zero_init_last"}


def describe(config: Fields, names: Mapping[str, Any]) -> Description:
    """Describe a model of timm.

    Args:
      config: of config.json.
      names: the names in the file of weights.

    Raises:
      SourceError: an architecture, or an argument of one, that is not known here.
    """
    name, _, _ = config.text("architecture").partition(".")
    if name not in registry.list_models():
        config.refuse("architecture", name, f"one of {', '.join(_known())}")
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
    share = fields.number("crop_pct", 0.875)
    interpolation = fields.text("interpolation", "bicubic")
    if interpolation not in INTERPOLATIONS:
        fields.refuse("interpolation", interpolation, f"one of {', '.join(INTERPOLATIONS)}")
    if not 0 < share <= 2:
        fields.refuse("crop_pct", share, "the share of the image that is seen, such as 0.875")
    fields.expect("crop_mode", "center", "squash")
    resize = math.floor(size / share)
    mean, std = fields.numbers("mean", IMAGENET["mean"]), fields.numbers("std", IMAGENET["std"])
    if len(mean) != len(std) or 0 in std:
        fields.refuse("std", list(std), "a number above 0 for each channel, as mean has")
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
    """timm's overrides in our words."""
    settings: dict[str, Any] = {}
    for name in given:
        if name in _IN_TRAINING or name == "num_classes":
            continue
        ours = _KEYWORDS.get(name)
        if ours not in keywords:
            given.refuse(name, given.get(name), "an argument that the models here have")
        if ours in ("depths", "widths"):
            settings[ours] = given.counts(name)
            if ours == "depths" and sum(settings[ours]) > MOST_BLOCKS:
                given.refuse(name, list(settings[ours]), f"up to {MOST_BLOCKS:,} blocks")
        elif name == "mlp_ratio":
            width = given.count("embed_dim", keywords["embed_dim"])
            settings[ours] = int(width * given.number(name))
        elif ours == "pool":
            settings[ours] = given.text(name)
        elif ours == "drop_path":
            settings[ours] = given.number(name)
        else:
            settings[ours] = (given.depth if ours == "depth" else given.count)(name)
    return settings


def _class_names(config: Fields, classes: int) -> tuple[str, ...] | None:
    names = config.get("label_names")
    if not isinstance(names, list) or len(names) != classes:
        return None
    told = config.get("label_descriptions")
    told = told if isinstance(told, dict) else {}
    return tuple(str(told.get(str(name), name)) for name in names)


def _known() -> list[str]:
    return [name for name in registry.list_models() if "_" in name or name.startswith("resnet")]
