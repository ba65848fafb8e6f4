"""A file of weights alone, whose model is named beside it: sizes are read off its tensors."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_models import registry
from jax_models.pretrained.description import HALF, IMAGENET, Description
from jax_models.pretrained.errors import SourceError
from jax_models.pretrained.preprocessing import Preprocessing

# Ends of the names of a classifier's and of an input kernel in the layouts that are read, and of
# positions; each with the axis of what is counted. Google's arrays are turned.
_CLASSIFIERS = {"head.weight": 0, "fc.weight": 0, "classifier.weight": 0, "classifier.1.weight": 0}
_CLASSIFIERS |= {"classifier.2.weight": 0, "linear.weight": 0, "head/kernel": 1}
_CLASSIFIERS |= {"cls_classifier.weight": 0}
_INPUTS = {"patch_embed.proj.weight": 1, "conv_proj.weight": 1, "conv1.weight": 1}
_INPUTS |= {"stem.0.weight": 1, "features.0.0.weight": 1, "projection.weight": 1}
_INPUTS |= {"embedder.embedder.convolution.weight": 1, "patch_embeddings.weight": 1}
_INPUTS |= {"downsample_layers.0.0.weight": 1, "embedding/kernel": 2}
_POSITIONS = {"pos_embed": 1, "pos_embedding": 1, "position_embeddings": 1}


def describe(
    path: Path, name: str, given: Mapping[str, Any], names: Mapping[str, Any]
) -> Description:
    """Describe a model of which there is a file of weights.

    Args:
      path: of the file.
      name: of the model, for `create_model`.
      given: settings that the name does not have.
      names: the tensors of the file.

    Raises:
      SourceError: there is no model of that name, or it lacks a keyword.
    """
    try:
        keywords = registry.model_keywords(name)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    if unknown := given.keys() - keywords.keys():
        raise SourceError(
            f"{path}: {name} has no keyword {min(unknown)!r}. It takes: {', '.join(keywords)}."
        )
    read = {"num_classes": _size(names, _CLASSIFIERS) or 0, "in_channels": _size(names, _INPUTS)}
    if "img_size" in keywords:
        tokens = _size(names, _POSITIONS)
        patch = given.get("patch_size", keywords["patch_size"])
        read["img_size"] = None if tokens is None else math.isqrt(tokens) * patch
    read = {key: value for key, value in read.items() if value is not None and key in keywords}
    settings = read | dict(given)
    side = settings.get("img_size", keywords.get("img_size", 224))
    channels = settings.get("in_channels", keywords["in_channels"])
    steps, rule = _preprocessing(path, name, names, side)
    note = f"A file does not say how images are prepared: {steps.interpolation}, mean "
    note += f"{steps.mean}, std {steps.std} is what {name} usually takes."
    return Description(name, settings, steps.with_channels(channels), None, rule, notes=[note])


def _size(names: Mapping[str, Any], ends: Mapping[str, int]) -> int | None:
    """The size of the axis that is said of the first end that a name has; the shortest of these.

    Inside of blocks there are layers of the same names.
    """
    for end, axis in ends.items():
        found = [name for name in names if name == end or name.endswith((f".{end}", f"/{end}"))]
        if found and len(shape := names[min(found, key=len)].shape) > axis:
            return int(shape[axis])
    return None


def _preprocessing(path: Path, name: str, names: Mapping[str, Any], side: int):
    """What models of a name usually take, by the library whose names the file has, and its rule."""
    if path.suffix.lower() == ".npz" and any("/" in key for key in names):
        return Preprocessing(side, (side, side), "bilinear", **HALF), "Google"
    if any(key.startswith(("encoder.layers.encoder_layer_", "features.")) for key in names):
        return Preprocessing(side, round(side / 0.875), "bilinear", **IMAGENET), "torchvision"
    rule = "Hugging Face" if any("attention.attention.query" in key for key in names) else "timm"
    own_vit = name.startswith("vit_") and "dinov2" not in name
    share = 1.0 if side >= 384 else 0.9 if name.startswith(("vit", "deit")) else 0.875
    steps = HALF if own_vit else IMAGENET
    return Preprocessing(side, math.floor(side / share), "bicubic", **steps), rule
