"""Models of timm, and its folders."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_checkpoint
from timm.models._hub import save_for_hf

from tests.world import case
from tests.world.case import Case, Outputs, stir, watched

_VIT = {
    "img_size": case.SIDE,
    "patch_size": case.PATCH,
    "embed_dim": case.WIDTH,
    "depth": case.DEPTH,
    "num_heads": case.HEADS,
    "num_classes": case.CLASSES,
}
_CLASSES = {"num_classes": case.CLASSES}
_WIDTHS = {"channels": [64, 20, 28, 36]}  # the stem's are fixed
_RESNET = _CLASSES | _WIDTHS | {"layers": [1, 2, 1, 1]}
_CONVNEXT = _CLASSES | {"depths": [1, 2, 1, 1], "dims": [8, 12, 20, 28]}
_CNN_SIDES = case.CNN_SIDE, case.CNN_OTHER_SIDE
_VITS = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch16_224": {"global_pool": "avg"},
    "deit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {},
    "vit_small_patch14_dinov2": {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_giant_patch14_dinov2": {},
    "vit_giant_patch14_reg4_dinov2": {},
}
_CNNS = {"resnet18": _RESNET, "resnet50": _RESNET, "convnext_tiny": _CONVNEXT}
_NO_HEAD = {"num_classes": 0}
_WITHOUT_HEAD = {
    "vit_small_patch14_dinov2": _VIT | _NO_HEAD,
    "resnet18": _RESNET | _NO_HEAD,
    "convnext_tiny": _CONVNEXT | _NO_HEAD,
}
_FULL = ("vit_tiny_patch16_224", "resnet18", "convnext_tiny")


def cases() -> Iterator[Case]:
    """Every family at a reduced size, three at full size."""
    for name, more in _VITS.items():
        label = f"{name}, pool avg" if more else name
        yield _case(name, label, _VIT | more, case.SIDE, case.OTHER_SIDE)
    for name, settings in _CNNS.items():
        yield _case(name, name, settings, *_CNN_SIDES, batch=8)
    for name, settings in _WITHOUT_HEAD.items():
        sides = (case.SIDE, case.OTHER_SIDE) if "vit" in name else _CNN_SIDES
        yield _case(name, f"{name}, no head", settings, *sides, batch=8)
    for name in _FULL:
        yield _case(name, f"{name}, full size", {}, 224, 288, batch=2)


def _case(name: str, label: str, settings: dict[str, Any], side: int, other: int, batch=3) -> Case:
    def save(model, folder: Path) -> Path:
        save_for_hf(model, folder, model_args=settings, safe_serialization=True)
        return folder

    def resized(model, folder: Path, side: int):
        if hasattr(model, "blocks"):
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=side)
        return model.eval()

    def at(model, folder, side):
        return resized(model, folder, side).to(next(model.parameters()).dtype)

    return Case(
        "timm", label, stir(timm.create_model(name, **settings), run, side), run, save,
        lambda folder: timm.create_model(f"local-dir:{folder}", pretrained=True).eval(),
        at, layout="timm", side=side, other_side=other, batch=batch,
    )  # fmt: skip


def run(model, images) -> Outputs:
    """What a model of timm's says of images."""
    watch = []
    for block in getattr(model, "blocks", ()):
        block.attn.fused_attn = False
        watch.append((block.attn.attn_drop, lambda module, inputs, output: output))
    if hasattr(model, "blocks"):
        last = model.blocks[-1]
    else:
        last = model.layer4 if hasattr(model, "layer4") else model.stages[-1]
    return watched(model, images, last, watch)


def fine_tuned(
    source: Path, file: Path, classes: Sequence[str], dtype: torch.dtype
) -> torch.nn.Module:
    """The model of a folder, of other classes, with all of its weights from a file."""
    model = timm.create_model(f"local-dir:{source}", num_classes=len(classes)).to(dtype)
    load_checkpoint(model, str(file), strict=True)  # what create_model(checkpoint_path=…) calls
    return model.eval()


def with_new_head(source: Path, classes: Sequence[str], dtype: torch.dtype) -> torch.nn.Module:
    """The model of a folder with its weights, but for a head for other classes."""
    model = timm.create_model(f"local-dir:{source}", pretrained=True, num_classes=len(classes))
    return model.to(dtype).eval()
