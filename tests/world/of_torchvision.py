"""Models of torchvision, and PyTorch's files of them."""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.models import ConvNeXt, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import interpolate_embeddings

from tests.world import case
from tests.world.case import Case, Outputs, stir, watched

_SIZES = {
    "patch_size": case.PATCH,
    "num_layers": case.DEPTH,
    "num_heads": case.HEADS,
    "hidden_dim": case.WIDTH,
    "mlp_dim": case.MLP,
    "num_classes": case.CLASSES,
}
_VIT = {
    "name": "vit_base_patch16_224",
    "patch_size": case.PATCH,
    "depth": case.DEPTH,
    "num_heads": case.HEADS,
    "embed_dim": case.WIDTH,
    "mlp_dim": case.MLP,
}
_DEPTHS, _WIDTHS = (1, 2, 1, 1), (8, 12, 20, 28)
_FILE = "model.pth"


def cases() -> Iterator[Case]:
    """Every family at a reduced size."""
    sides = {"side": case.SIDE, "other_side": case.OTHER_SIDE}
    yield _case("VisionTransformer", VisionTransformer(case.SIDE, **_SIZES), _VIT, **sides)
    sides = {"side": case.CNN_SIDE, "other_side": case.CNN_OTHER_SIDE, "batch": 8}
    # In a wide model some value always lies on the kink of a ReLU in float32: so few blocks.
    bottlenecks = ("resnet50", Bottleneck, (1, 1, 1, 1))
    for name, block, depths in (("resnet18", BasicBlock, _DEPTHS), bottlenecks):
        model = ResNet(block, list(depths), num_classes=case.CLASSES)
        settings = {"name": name, "depths": depths}
        yield _case(f"ResNet, {block.__name__}", model, settings, **sides)
    stages = [
        CNBlockConfig(width, after, depth)
        for width, after, depth in zip(_WIDTHS, (*_WIDTHS[1:], None), _DEPTHS, strict=True)
    ]
    model = ConvNeXt(stages, num_classes=case.CLASSES)
    settings = {"name": "convnext_tiny", "depths": _DEPTHS, "widths": _WIDTHS}
    yield _case("ConvNeXt", model, settings, **sides)


def _case(label: str, model: torch.nn.Module, settings: dict, *, side: int, **more) -> Case:
    def save(model, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        torch.save(model.state_dict(), folder / _FILE)
        return folder / _FILE

    def reload(folder: Path):
        fresh = copy.deepcopy(model)
        fresh.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        return fresh.eval()

    return Case(
        "torchvision", label, stir(model, _run, side), _run, save, reload, _at,
        settings=settings, layout="torchvision", side=side, **more,
    )  # fmt: skip


def _at(model, folder, side):
    if not isinstance(model, VisionTransformer):
        return model
    other = VisionTransformer(side, **_SIZES).to(next(model.parameters()).dtype)
    state = interpolate_embeddings(side, case.PATCH, model.state_dict())
    other.load_state_dict(state, strict=True)
    return other.eval()


def _weights(module, inputs, output):
    """The attention, which torchvision does not ask for."""
    q, k, v = inputs
    return torch.nn.MultiheadAttention.forward(
        module, q, k, v, need_weights=True, average_attn_weights=False
    )[1]


def _run(model, images) -> Outputs:
    if isinstance(model, VisionTransformer):
        blocks = list(model.encoder.layers)
        watch = [(block.self_attention, _weights) for block in blocks]
        return watched(model, images, blocks[-1], watch)
    last = model.layer4 if isinstance(model, ResNet) else model.features[-1]
    return watched(model, images, last)
