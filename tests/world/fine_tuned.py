"""Runs that begin with a library's model, and what goes back there of them: the same logits."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
import torch
from PIL import Image

from configs import finetune_folder
from jax_models import low_rank
from jax_train import __main__
from jax_train.runs import trained
from jax_train.runs.trained import TrainedRun, image_shape
from jax_train.train import train
from tests.world import of_timm, of_transformers
from tests.world.case import to_torch
from tests.world.climb import largest

_COLOURS = {"cat": (200, 40, 40), "dog": (40, 200, 40), "owl": (40, 40, 200)}
_IMAGES = 6  # of each class; two are for validation and test
_CHANGES = {"train.epochs": 4, "train.batch_size": 4, "optim.learning_rate": 0.1}
_ADAPTERS = {"model.lora_rank": 3, "model.lora_alpha": 5.0, "optim.learning_rate": 0.3}
_LEAST, _LEAST_ADAPTED = 0.1, 0.01  # deviation of logits that say something; largest of matrices B


class Tuned(NamedTuple):
    """A run of the recipe `finetune_folder`.

    Attributes:
      library: module of the case that it begins with.
      name: of the case.
      layout: by whose names it goes back.
      adapters: low-rank ones train beside the matrices, and the head.
    """

    library: ModuleType
    name: str
    layout: str
    adapters: bool = False

    @property
    def label(self) -> str:
        """What trains, for people."""
        return f"{self.name}{', adapters' * self.adapters}"

    @property
    def library_name(self) -> str:
        """As the table says it."""
        return f"{self.library.__name__.rpartition('of_')[2]}, fine-tuned"


RUNS = (
    Tuned(of_timm, "vit_tiny_patch16_224", "timm"),
    Tuned(of_timm, "vit_small_patch14_dinov2, no head", "timm"),
    Tuned(of_timm, "resnet18", "timm"),
    Tuned(of_timm, "vit_tiny_patch16_224", "timm", adapters=True),
    Tuned(of_transformers, "ViTForImageClassification", "huggingface"),
    Tuned(of_transformers, "ConvNextForImageClassification", "huggingface"),
    Tuned(of_transformers, "ViTForImageClassification", "huggingface", adapters=True),
)


def climb(tuned: Tuned) -> Iterator[tuple[str, dict[str, float]]]:
    """Train, and bring the result back.

    Yields:
      (what came back, by a name that follows that of the library; largest error by rung).
    """
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        case = next(case for case in tuned.library.cases() if case.name == tuned.name)
        source = case.save(case.model, folder / "theirs")
        run = _trained(source, folder, _ADAPTERS if tuned.adapters else {})
        shape = image_shape(run)
        images = np.random.default_rng(5).integers(0, 256, (case.batch, *shape), np.uint8)
        inputs = run.recipe.inputs(images)  # made apart: in float32 they round as they are compiled
        compute = jax.jit(lambda *weights, inputs: run.recipe.merge(*weights)(inputs))
        ours = np.asarray(compute(run.params, run.stats, inputs=inputs))
        inputs = to_torch(np.asarray(inputs))
        _check_has_learned(run, ours)

        def error(model: torch.nn.Module) -> dict[str, float]:
            with torch.no_grad():
                theirs = model(inputs)
            return {"logits": largest(ours, getattr(theirs, "logits", theirs))}

        classes = tuple(_COLOURS), inputs.dtype
        file = _converted(run, folder / "ours" / "model.safetensors", tuned.layout)
        yield (
            f"{tuned.label}{' folded in' * tuned.adapters}",
            error(tuned.library.fine_tuned(source, file, *classes)),
        )
        if tuned.adapters:
            to = folder / "adapters" / "adapter_model.safetensors"
            _converted(run, to, tuned.layout, "--adapter")
            base = tuned.library.with_new_head(source, *classes)
            yield f"{tuned.label} by PEFT", error(_by_peft(base, to.parent))


def _trained(source: Path, folder: Path, changes: dict) -> TrainedRun:
    """The run that begins with the weights in a folder."""
    random = np.random.default_rng(3)
    for name, colour in _COLOURS.items():
        (folder / "images" / name).mkdir(parents=True)
        for i in range(_IMAGES):
            noise = random.normal(0, 40, (*random.integers(70, 90, 2), 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    config = finetune_folder.get_config()
    config.dtype = "float64" if jax.config.jax_enable_x64 else "float32"
    config.model.init_from = str(source)
    config.data.name = f"folder:{folder / 'images'}"
    config.update_from_flattened_dict(_CHANGES | changes)
    with contextlib.redirect_stdout(io.StringIO()):
        train(config, folder / "run")
    return trained.open_run(folder / "run")


def _check_has_learned(run: TrainedRun, logits: np.ndarray) -> None:
    """Refuse a run that equals its source whatever is made of it."""
    found = [
        float(np.abs(layer.lora_b[...]).max())
        for layer in low_rank.adapters(run.as_trained).values()
    ]
    if not logits.std() > _LEAST or not all(most > _LEAST_ADAPTED for most in found):
        raise ValueError(f"{run.folder} has hardly learned: {logits.std()}, {found}")


def _converted(run: TrainedRun, to: Path, layout: str, *more: str) -> Path:
    to.parent.mkdir()
    command = ["convert", "--from", str(run.folder), "--to", str(to), "--layout", layout, *more]
    with contextlib.redirect_stdout(io.StringIO()):
        if code := __main__.main(command):
            raise ValueError(f"{' '.join(command)} ended with code {code}")
    return to


def _by_peft(base: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """A library's model with the adapters in a folder."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).eval()
