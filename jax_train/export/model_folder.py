"""Folders that transformers and timm load: config, weights, preprocessing, and a model card."""

from pathlib import Path

import jax
import numpy as np

import jax_models
from jax_models import torch_weights
from jax_models.pretrained import SourceError, writing
from jax_train.errors import UserError
from jax_train.export.check import TOLERANCE, Runtime
from jax_train.export.graph import FEATURES, LOGITS
from jax_train.files import json_text, write_atomically
from jax_train.printing import counted, figure, readable
from jax_train.runs.trained import TrainedRun

_USE = {
    "huggingface": """from transformers import pipeline

model = pipeline("TASK", "PATH")
model("photo.jpg")""",
    "timm": """import timm

model = timm.create_model("local-dir:PATH", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))""",
}


def choose_format(run: TrainedRun, given: str | None) -> str:
    """The library of a folder, one of `writing.FORMATS`.

    Raises:
      UserError: it has no such model, none has, or several have and none is given.
    """
    name, possible = run.config.model.name, writing.formats_of(run.model)
    if not possible:
        raise UserError(
            f"--to: {name} as it was built is in none of {' and '.join(writing.FORMATS.values())}, "
            "so that there is no folder to write. Export to .onnx or .stablehlo, or write its "
            "weights with convert."
        )
    if given is None and len(possible) > 1:
        raise UserError(f"--to: which library's folder? Give --format {' or '.join(possible)}.")
    if given is not None and given not in possible:
        raise UserError(
            f"--format {given}: {writing.FORMATS[given]} has no {name} as it was built. It goes to "
            f"--format {possible[0]}."
        )
    return given or possible[0]


def write(run: TrainedRun, format: str, folder: Path) -> None:
    """Write the files of a model into an empty folder.

    Raises:
      UserError: the library has no model of such sizes.
      OSError: a file cannot be written.
    """
    try:
        texts = writing.files(run.model, run.description, format)
    except writing.Unwritable as error:
        name = run.config.model.name
        library = writing.FORMATS[format]
        raise UserError(
            f"--format {format}: {library} has no {name} of this kind: {error}."
        ) from None
    for name, fields in texts.items():
        write_atomically(folder / name, json_text(fields, indent=2) + "\n")
    write_atomically(folder / "README.md", _card(run, format))
    state = torch_weights.export(run.model, format)
    state = {name: array.astype(_dtype(array), copy=False) for name, array in state.items()}
    torch_weights.files.write(state, folder / writing.WEIGHTS_FILE)


def open_folder(run: TrainedRun, format: str, folder: Path) -> Runtime:
    """Read a folder as `jax_models.load_pretrained` does; what is run takes prepared images.

    Raises:
      UserError: it cannot be read, has other classes, or prepares images in another way.
    """
    try:
        loaded = jax_models.load_pretrained(folder)
    except SourceError as error:
        raise UserError(f"--format {format}: what was written is not read: {error}") from None
    if loaded.class_names != run.class_names:
        raise UserError(f"--format {format}: the names of the classes are not read as written.")
    levels = np.arange(256, dtype=np.uint8)[:, None]
    ours, theirs = (
        steps.normalise(levels) for steps in (run.description.preprocessing, loaded.preprocessing)
    )
    if not np.allclose(theirs, ours, atol=TOLERANCE):
        raise UserError(f"--format {format}: what is done to images is not read as written.")
    compiled = jax.jit(lambda images: loaded.model(images))
    name = LOGITS if run.class_names else FEATURES

    def run_model(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(compiled(images))}

    return Runtime(f"the reader of {writing.FORMATS[format]}' layout", run_model)


def _dtype(array: np.ndarray) -> np.dtype:
    return np.dtype(np.float32) if np.issubdtype(array.dtype, np.floating) else array.dtype


def _card(run: TrainedRun, format: str) -> str:
    """The model card: what the model is, what it reached, how it is used."""
    library = "transformers" if format == "huggingface" else format
    task = "image-classification" if run.class_names else "image-feature-extraction"
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {task}", "---", ""]
    lines += [f"# {run.config.model.name}", "", _origin(run), ""]
    lines += _figures(run)
    lines += ["## Use", "", "```python", _USE[format].replace("TASK", task), "```", ""]
    if run.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in run.notes), ""]
    if names := run.class_names:
        lines += [f"## Its {len(names)} classes", "", ", ".join(map(readable, names)), ""]
    return "\n".join(lines)


def _origin(run: TrainedRun) -> str:
    steps = run.description.preprocessing
    size = f"{steps.size}×{steps.size} pixels, {counted(steps.channels, 'channel')}"
    if run.results is None:
        return f"The weights are those of {readable(str(run.folder))}. Images of {size}."
    results = run.results
    epochs = counted(results["epochs"], "epoch")
    return (
        f"Trained on {readable(results['data'])} by jax-vit-cnn, {epochs}; "
        f"{figure(results['parameters'], ',.0f')} parameters; images of {size}. The weights are "
        f"those of epoch {results['reported_epoch']}."
    )


def _figures(run: TrainedRun) -> list[str]:
    """A table of what results.json says."""
    rows = []
    for name, split in (("validation", "val"), ("test", "test")):
        if found := (run.results or {}).get(split):
            count = figure(run.results["images"].get(split), ",.0f")
            cells = [figure(found[key], form) for key, form in _FIGURES.items()]
            rows.append(f"| {name} | {count} | {' | '.join(cells)} |")
    header = ["| split | images | top-1 | top-5 | loss |", "|---|---|---|---|---|"]
    return ["## Figures", "", *header, *rows, ""] if rows else []


_FIGURES = {"top1": ".2%", "top5": ".2%", "loss": ".4f"}
