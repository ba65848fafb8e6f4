"""Models of transformers, and its folders."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForImageClassification

from tests.world import case
from tests.world.case import Case, Outputs, stir

_VIT = {
    "image_size": case.SIDE,
    "patch_size": case.PATCH,
    "hidden_size": case.WIDTH,
    "num_hidden_layers": case.DEPTH,
    "num_attention_heads": case.HEADS,
    "num_labels": case.CLASSES,
}
_MLP = {"intermediate_size": case.MLP}
_GATED = {"mlp_ratio": 2, "use_swiglu_ffn": True}
_BASIC = {"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 12, 20, 28]}
_BOTTLENECK = {"embedding_size": 8, "hidden_sizes": [32, 48, 80, 112]}
_CONVNEXT = {"hidden_sizes": [8, 12, 20, 28]}
_CNN = {"depths": [1, 2, 1, 1], "num_labels": case.CLASSES}
_REGISTERS = ("position_embeddings",)
# (class, settings, what Case needs besides)
_VITS = [
    ("ViTForImageClassification", _VIT | _MLP, {}),
    (
        "DeiTForImageClassification",
        _VIT | _MLP,
        {"renamed": {"distillation_token": "register_tokens"}, "layout": None},
    ),
    ("DeiTForImageClassificationWithTeacher", _VIT | _MLP, {}),
    ("Dinov2ForImageClassification", _VIT, {}),
    ("Dinov2ForImageClassification", _VIT | _GATED, {}),
    ("Dinov2WithRegistersForImageClassification", _VIT, {"unlike": _REGISTERS}),
    ("Dinov2WithRegistersForImageClassification", _VIT | _GATED, {"unlike": _REGISTERS}),
]
_CNNS = [
    ("ResNetForImageClassification", _CNN | _BASIC, {}),
    ("ResNetForImageClassification", _CNN | _BOTTLENECK, {}),
    ("ConvNextForImageClassification", _CNN | _CONVNEXT, {}),
    ("ResNetModel", _CNN | _BASIC, {}),
    ("ConvNextModel", _CNN | _CONVNEXT, {}),
]
_SHARD = "60KB"  # so that there are two or more


def cases() -> Iterator[Case]:
    """Every family at a reduced size."""
    for kind, settings, more in _VITS:
        label = f"{kind}, SwiGLU" if "use_swiglu_ffn" in settings else kind
        sides = {"side": case.SIDE, "other_side": case.OTHER_SIDE}
        yield _case(kind, label, settings, **sides, **more)
    for kind, settings, more in _CNNS:
        label = f"{kind}, {settings.get('layer_type', 'bottleneck')}"
        sides = {"side": case.CNN_SIDE, "other_side": case.CNN_OTHER_SIDE, "batch": 8}
        yield _case(kind, label if "ResNetFor" in kind else kind, settings, **sides, **more)


def _case(kind: str, label: str, settings: dict, *, side: int, layout="huggingface", **more):
    build = getattr(transformers, kind)

    def save(model, folder: Path) -> Path:
        model.save_pretrained(folder, max_shard_size=_SHARD)
        _processor(kind, side).save_pretrained(folder)
        return folder

    def reload(folder: Path):
        return _strictly(build, folder)

    def at(model, folder, side):
        if kind.startswith(("ResNet", "ConvNext")):
            return lambda images: _run(model, images).logits
        return lambda images: model(images, interpolate_pos_encoding=True).logits

    if kind.startswith(("ViT", "DeiT")):
        more["in_float32"] = ("other size", "attention")  # its softmax, where it keeps it
    model = build(build.config_class(**settings))
    stirred = stir(model, _run, side)
    return Case(
        "transformers", label, stirred, _run, save, reload, at, layout=layout, side=side, **more
    )


def _strictly(build, folder: Path, **more):
    """The model in a folder, which holds all of its weights and nothing else."""
    model, told = build.from_pretrained(folder, output_loading_info=True, **more)
    wrong = {key: list(names) for key, names in told.items() if names}
    if wrong:
        raise ValueError(f"{folder} does not load strictly: {wrong}")
    return model.eval()


def fine_tuned(
    source: Path, file: Path, classes: Sequence[str], dtype: torch.dtype
) -> torch.nn.Module:
    """The model of a folder, of other classes, with all of its weights from a file."""
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(source / name, file.parent)
    more = {"id2label": dict(enumerate(classes)), "dtype": dtype}
    return _strictly(AutoModelForImageClassification, file.parent, **more)


def with_new_head(source: Path, classes: Sequence[str], dtype: torch.dtype) -> torch.nn.Module:
    """The model of a folder with its weights, but for a head for other classes."""
    more = {"id2label": dict(enumerate(classes)), "dtype": dtype}
    model = AutoModelForImageClassification.from_pretrained(
        source, ignore_mismatched_sizes=True, **more
    )
    return model.eval()


def _processor(kind: str, side: int):
    """An image processor of the library that crops to a side."""
    both = {"height": side, "width": side}
    if kind.startswith("ViT"):
        return transformers.ViTImageProcessor(size=both)
    if kind.startswith("DeiT"):
        return transformers.DeiTImageProcessor(size=both, crop_size=both)
    if kind.startswith("Dino"):
        return transformers.BitImageProcessor(size={"shortest_edge": side}, crop_size=both)
    return transformers.ConvNextImageProcessor(size={"shortest_edge": side}, crop_pct=0.875)


def _run(model, images) -> Outputs:
    found = model(images, output_hidden_states=True)
    attention = ()
    if hasattr(model.config, "num_attention_heads"):
        own = model.config._attn_implementation
        model.set_attn_implementation("eager")  # which keeps it
        with torch.no_grad():
            attention = tuple(model(images, output_attentions=True).attentions)
        model.set_attn_implementation(own)
    logits = found.logits if hasattr(found, "logits") else found.pooler_output.flatten(1)
    return Outputs(logits, found.hidden_states[-1], attention)
