"""Small models that other libraries wrote, with what they compute, for tests without the libraries.

python -m tests.world.references     writes them again; `make parity-world` does
"""

import copy
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

FOLDER = Path(__file__).with_name("references")
LIBRARIES = ("torch", "torchvision", "timm", "transformers")
_ABOUT, _EXPECTED = "about.json", "expected.safetensors"
# The smallest that together have every part: below 2 MB.
_CHOSEN = {
    "timm": (
        "vit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "convnext_tiny",
    ),
    "transformers": (
        "ViTForImageClassification",
        "DeiTForImageClassification",
        "Dinov2WithRegistersForImageClassification, SwiGLU",
        "ResNetForImageClassification, basic",
        "ConvNextForImageClassification",
    ),
    "torchvision": ("VisionTransformer", "ConvNeXt"),
}


def names() -> list[str]:
    """The names of the stored models."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{_ABOUT}"))


def read(name: str) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    """Of a stored model what to load, with which keywords, and images [B,S,S,3] with logits.

    Those of a ViT at another size are `other_images` and `other_logits`.
    """
    about = json.loads((FOLDER / name / _ABOUT).read_text())
    expected = load_file(FOLDER / name / _EXPECTED)
    expected = {key: value.astype(np.float32) for key, value in expected.items()}
    return FOLDER / name / about["source"], about["settings"], expected


def write() -> None:
    """Write all of them again."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    made = {"command": "make parity-world", "with": {name: version(name) for name in LIBRARIES}}
    for case in _chosen():
        folder = FOLDER / f"{case.library}-{case.name.replace(', ', '-')}"
        folder.mkdir(parents=True)
        source = case.save(case.model, folder).relative_to(folder)
        save_file(_expected(case, folder), folder / _EXPECTED)
        about = made | {"source": str(source), "settings": case.settings}
        (folder / _ABOUT).write_text(json.dumps(about, indent=2) + "\n")


def _chosen() -> Iterator:
    from tests.world.climb import cases

    for case in cases():
        if case.name in _CHOSEN.get(case.library, ()):
            yield case


def _expected(case, folder: Path) -> dict[str, np.ndarray]:
    """Images and the library's logits of them, worked out in float64."""
    import torch

    from tests.world.case import SIDE, to_torch

    random, model = np.random.default_rng(case.side), copy.deepcopy(case.model).double()
    found, sides = {}, {"": case.side}
    if case.side == SIDE:  # of a ViT
        sides["other_"] = case.other_side
    for before, side in sides.items():
        images = random.normal(size=(1, side, side, 3)).astype(np.float16)
        run = model if not before else case.at(model, folder, side)
        with torch.no_grad():
            logits = run(to_torch(images).double())
        logits = getattr(logits, "logits", logits).numpy()
        found |= {f"{before}images": images, f"{before}logits": logits.astype(np.float32)}
    return found


if __name__ == "__main__":
    write()
