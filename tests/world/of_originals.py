"""Files by the names of Google's and Facebook's own code, which timm reads by its own means."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import scipy.ndimage
import timm
import torch
from timm.models import deit, vision_transformer

from tests.jax_models.pretrained import originals
from tests.world import case, of_timm
from tests.world.case import Case, stir

_SIZES = {
    "patch_size": case.PATCH,
    "embed_dim": case.WIDTH,
    "depth": case.DEPTH,
    "num_heads": case.HEADS,
}
_GAP = {"class_token": False, "global_pool": "avg", "fc_norm": False}
_FILTERS = {  # what timm makes of Facebook's names
    "deit3": partial(deit.checkpoint_filter_fn, adapt_layer_scale=True),
    "vit": vision_transformer.checkpoint_filter_fn,
}


def cases() -> Iterator[Case]:
    """The forms of Google's files, and Facebook's of DeiT-3 and DINOv2, at a reduced size."""
    google = "vit_tiny_patch16_224"
    yield _google(google, "numbers of old", originals.OLD)
    yield _google(google, "Linen's numbers", originals.NEW, prefix="params/")
    yield _google(google, "pool gap, scanned", originals.NEW, _GAP, form=originals.stacked)
    yield _facebook("deit3_small_patch16_224", originals.deit3)
    for size, swiglu in (("small", False), ("giant", True)):
        for registers in ("", "reg4_"):
            name = f"vit_{size}_patch14_{registers}dinov2"
            yield _facebook(name, partial(originals.dinov2, swiglu=swiglu))


def _google(name, label, numbers, settings=None, *, prefix="", form=lambda state: state) -> Case:
    settings = _SIZES | {"num_classes": case.CLASSES} | (settings or {})

    def save(model, folder: Path) -> Path:
        state = form(originals.google(_arrays(model), numbers, case.HEADS))
        folder.mkdir(exist_ok=True)
        np.savez(folder / "model.npz", **{f"{prefix}{name}": v for name, v in state.items()})
        return folder / "model.npz"

    def read(folder: Path, side: int):
        model = timm.create_model(name, img_size=side, **settings)
        model.load_pretrained(folder / "model.npz")
        return model.eval()

    def at(model, folder: Path, side: int):
        """Resized as at Google: timm has a rule of its own for these files."""
        other = read(folder, side).to(model.pos_embed.dtype)
        prefix = model.num_prefix_tokens
        old, new = (s // case.PATCH for s in (case.SIDE, side))
        grid = model.pos_embed.detach()[0, prefix:].float().numpy().reshape(old, old, -1)
        grid = scipy.ndimage.zoom(grid, (new / old, new / old, 1), order=1)
        with torch.no_grad():
            other.pos_embed[0, prefix:] = torch.from_numpy(grid.reshape(new * new, -1))
        return other

    return _case("Google's file in timm", name, f"{name}, {label}", settings, save, read, at)


def _facebook(name, rename) -> Case:
    settings = _SIZES | {"num_classes": case.CLASSES}
    convert = _FILTERS[name.partition("_")[0]]

    def save(model, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        state = {key: torch.from_numpy(value) for key, value in rename(_arrays(model)).items()}
        torch.save({"model": state}, folder / "model.pth")
        return folder / "model.pth"

    def read(folder: Path, side: int):
        model = timm.create_model(name, img_size=side, **settings)
        state = torch.load(folder / "model.pth", weights_only=True)["model"]
        model.load_state_dict(convert(state, model), strict=True)
        return model.eval()

    def at(model, folder: Path, side: int):
        return read(folder, side).to(model.pos_embed.dtype)

    return _case("Facebook's file in timm", name, name, settings, save, read, at)


def _case(library: str, name: str, label: str, settings: dict, save, read, at) -> Case:
    """That timm's model is what timm reads of the file is a part of it."""

    def write(model, folder: Path) -> Path:
        path = save(model, folder)
        if not any(p.dtype == torch.float64 for p in model.parameters()):
            again, own = (m.state_dict() for m in (read(folder, case.SIDE), model))
            wrong = [key for key in own if not torch.equal(own[key], again[key])]
            if wrong:
                raise ValueError(f"timm reads other values of {path}: {wrong}")
        return path

    model = timm.create_model(name, img_size=case.SIDE, **settings)
    return Case(
        library, label, stir(model, of_timm.run, case.SIDE), of_timm.run, write,
        lambda folder: read(folder, case.SIDE), at, settings=_SIZES | {"name": name},
    )  # fmt: skip


def _arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}
