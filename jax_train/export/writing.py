"""From a model to a file or folder that was opened again and gives what the model gives."""

import contextlib
import dataclasses
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from jax_train.analysis.scoring import check_finite
from jax_train.errors import UserError
from jax_train.export import model_folder, onnx_file, stablehlo_file
from jax_train.export.check import Compared, Images, compare
from jax_train.export.graph import Graph
from jax_train.files import json_text, new_folder, write_atomically, write_both
from jax_train.runs.results import versions
from jax_train.runs.trained import TrainedRun

FILES = {".onnx": onnx_file, ".stablehlo": stablehlo_file}  # by the ending of their names
_CURE = "Check that the folder is yours to write to and has room."


def beside(target: Path) -> Path | None:
    """Where what a format has no room for is kept; None: all is in the file."""
    return target.with_name(f"{target.name}.json") if target.suffix == ".stablehlo" else None


def to_file(run: TrainedRun, graph: Graph, target: Path, images: Images) -> Compared:
    """Write a file; it appears under its name once its runtime has given what the model gives.

    Args:
      run: the model.
      graph: what is exported of it.
      target: ends in one of `FILES`.
      images: to compare with.

    Raises:
      UserError: it cannot be written, or differs from the model.
    """
    format, facts, found = FILES[target.suffix], describe(run, graph), []
    content = format.encode(graph, run.config.model.name, facts)
    inputs, expected = _expected(run, graph, images)

    def write(file) -> None:
        file.write(content)
        file.flush()
        opened = format.open_file(Path(file.name))
        found.append(compare(str(target), opened, expected, inputs))

    with _told(target):
        if other := beside(target):
            text = f"{json_text(facts, indent=2)}\n"
            write_both(other, text, lambda: write_atomically(target, write))
        else:
            write_atomically(target, write)
    return found[0]


def to_folder(run: TrainedRun, graph: Graph, format: str, target: Path, images: Images) -> Compared:
    """Write a folder, as `to_file` does; `format` as of `model_folder.choose_format`."""
    inputs, expected = _expected(run, graph, images)
    with _told(target), new_folder(target) as folder:
        model_folder.write(run, format, folder)
        opened = model_folder.open_folder(run, format, folder)
        return compare(str(target), opened, expected, inputs)


def describe(run: TrainedRun, graph: Graph) -> dict[str, object]:
    """What whoever uses a file has to know, and what made it."""
    steps = run.description.preprocessing
    whose = dataclasses.asdict(steps) if graph.dtype == "float32" else {}
    made = {"python": platform.python_version()} | versions()
    with contextlib.suppress(PackageNotFoundError):  # run from a checkout
        made["jax-vit-cnn"] = version("jax-vit-cnn")
    return {
        "model": run.config.model.name,
        "source": str(run.folder),
        "weights": run.whose_weights,
        "class_names": list(run.class_names),
        "images": {"dtype": graph.dtype, "shape": ["batch", *graph.image_shape]} | whose,
        "outputs": {name: ["batch", *shape] for name, shape in graph.outputs.items()},
        "versions": made,
    }


def _expected(
    run: TrainedRun, graph: Graph, images: Images
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a graph takes of images, and what it gives of it."""
    inputs = np.asarray(graph.inputs(images.pixels))
    expected = graph(inputs)
    for name, values in expected.items():
        check_finite(run, values, name)
    return inputs, expected


@contextlib.contextmanager
def _told(target: Path):
    try:
        yield
    except OSError as error:
        raise UserError(f"--to {target} cannot be written: {error}. {_CURE}") from error
