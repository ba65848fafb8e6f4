"""A file of weights alone, whose model is named beside it: sizes are read off its tensors."""

import math
import zipfile
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from jax_models import registry
from jax_models.pretrained.description import HALF, IMAGENET, Description
from jax_models.pretrained.errors import SourceError
from jax_models.pretrained.preprocessing import Preprocessing
from jax_models.torch_weights import google, tensors

# Ends of the names of positions, and of class tokens, in the layouts that are read.
_POSITIONS = ("pos_embed", "pos_embedding", "position_embeddings")
_CLASS_TOKENS = ("cls_token", "class_token")
_TANH = (
    "Google's own code approximates GELU with tanh; here, as in timm, it is exact, which changes "
    "logits of order 1 by less than a thousandth."
)

_FIXED = "The file has no positions: they are the fixed ones of big_vision, sines and cosines."


def describe(
    path: Path, name: str, given: Mapping[str, Any], names: MutableMapping[str, Any]
) -> Description:
    """Describe a model of which there is a file of weights.

    Args:
      path: of the file.
      name: of the model, for `create_model`.
      given: settings that the name does not have.
      names: the tensors of the file; gets the positions of a model of Google's that has fixed ones.

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
    read: dict[str, Any] = {}
    notes = [_TANH] if _is_googles(path) else []
    patch = given.get("patch_size", keywords.get("patch_size"))
    if notes and "class_token" in keywords and _size(names, _POSITIONS, 1) is None:
        grid = given.get("img_size", keywords["img_size"]) // patch
        names["pos_embed"] = google.fixed_positions(grid, names["patch_embed.proj.weight"].shape[0])
        notes.append(_FIXED)
    tokens = _size(names, _POSITIONS, 1) if "img_size" in keywords else None
    if tokens is not None and patch is not None:
        read["img_size"] = math.isqrt(tokens) * patch
    read |= _counted(name, read | dict(given), keywords, names)
    if "class_token" in keywords:
        read |= _tokens(names, tokens)
        if _is_hugging_faces(names) and "dinov2" not in name:
            read["norm_eps"] = 1e-12  # as transformers' configs of ViT and DeiT have it
    if "head_norm_eps" in keywords and any("layer_scale_parameter" in key for key in names):
        read["head_norm_eps"] = 1e-12  # as those of ConvNeXt
    settings = read | dict(given)
    side = settings.get("img_size", keywords.get("img_size", 224))
    channels = settings.get("in_channels", 3)
    steps, rule = _preprocessing(path, name, names, side)
    note = f"A file does not say how images are prepared: {steps.interpolation}, mean "
    note += f"{steps.mean}, std {steps.std} is what {name} usually takes."
    return Description(
        name, settings, steps.with_channels(channels), None, rule, notes=[*notes, note]
    )


def _counted(
    name: str, given: Mapping[str, Any], keywords: Mapping[str, Any], names: Mapping[str, Any]
) -> dict[str, int]:
    """The numbers of classes and of channels, by the tensors whose shapes grow with them.

    Without a head there are no classes; where nothing tells the channels they are the usual ones.
    """

    def shapes(**counts: int) -> dict[str, tuple[int, ...]]:
        counts = {key: value for key, value in counts.items() if key in keywords}
        return tensors.shapes(registry.abstract_model(name, **counts | dict(given)), names)

    usual = {"num_classes": 2, "in_channels": 2}
    found = {"in_channels": keywords["in_channels"]} if "in_channels" in keywords else {}
    try:
        of_two = shapes(**usual)
        for axis, keyword in enumerate(usual):
            of_three = shapes(**usual | {keyword: 3})
            for tensor, shape in of_two.items():
                grows = len(shape) > axis and 2 * of_three[tensor][axis] == 3 * shape[axis]
                if grows and tensor in names and len(names[tensor].shape) > axis:
                    found[keyword] = 2 * names[tensor].shape[axis] // shape[axis]
                    break
        if "num_classes" not in found:
            shapes(num_classes=0)
            found["num_classes"] = 0
    except (ValueError, TypeError, OverflowError):  # there is no such model, as loading will tell
        pass
    return found


def _tokens(names: Mapping[str, Any], positions: int | None) -> dict[str, bool | str]:
    """What the tensors say of the tokens before the patches, beyond what is usual."""
    if not any(str(name).rpartition(".")[2] in _CLASS_TOKENS for name in names):
        return {"class_token": False, "pool": "avg", "fc_norm": "fc_norm.weight" in names}
    found: dict[str, bool | str] = {"pool": "avg"} if "fc_norm.weight" in names else {}
    if positions is not None and math.isqrt(positions) ** 2 == positions:
        found["cover_prefix"] = False
    return found


def _size(names: Mapping[str, Any], ends: Iterable[str], axis: int) -> int | None:
    """The size of an axis of the first end that a name has; of the shortest of these.

    Inside of blocks there are layers of the same names.
    """
    for end in ends:
        found = [name for name in names if name == end or name.endswith(f".{end}")]
        if found and len(shape := names[min(found, key=len)].shape) > axis:
            return int(shape[axis])
    return None


def _preprocessing(path: Path, name: str, names: Mapping[str, Any], side: int):
    """What models of a name usually take, by the library whose names the file has, and its rule."""
    if _is_googles(path):
        return Preprocessing(side, (side, side), "bilinear", **HALF), "Google"
    if any(key.startswith(("encoder.layers.encoder_layer_", "features.")) for key in names):
        return Preprocessing(side, round(side / 0.875), "bilinear", **IMAGENET), "torchvision"
    is_theirs = _is_hugging_faces(names) and not any("register_tokens" in key for key in names)
    rule = "Hugging Face" if is_theirs else "timm"
    own_vit = name.startswith("vit_") and "dinov2" not in name
    share = 1.0 if side >= 384 else 0.9 if name.startswith(("vit", "deit")) else 0.875
    steps = HALF if own_vit else IMAGENET
    return Preprocessing(side, math.floor(side / share), "bicubic", **steps), rule


def _is_hugging_faces(names: Mapping[str, Any]) -> bool:
    """Whether a ViT has the names of transformers, in files or in memory."""
    return any("attention.attention.query" in key or "attention.q_proj" in key for key in names)


def _is_googles(path: Path) -> bool:
    if path.suffix.lower() != ".npz":
        return False
    with zipfile.ZipFile(path) as archive:
        return google.recognises(name.removesuffix(".npy") for name in archive.namelist())
