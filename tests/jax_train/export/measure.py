"""Export every family, and compare and time what is written.

python -m tests.jax_train.export.measure        rewrites the tables in docs/deploy.md
"""

import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from jax_models import registry
from jax_models.pretrained import Preprocessing, Pretrained
from jax_train.export import check, graph, onnx_file, writing
from jax_train.runs import pretrained
from tests.jax_models import small
from tests.jax_train.export.exporting import MODELS, run_of
from tests.parity.measure import ROOT, rewrite

FULL = ("vit_tiny_patch16_224", "resnet18")  # at the sizes of their names
TIMED = (("vit", 64), ("resnet18", 8), ("vit_tiny_patch16_224", 8))  # and images at once
_SECONDS = 2.0
_PAGE = ROOT / "docs" / "deploy.md"


def full(name: str) -> pretrained.PretrainedRun:
    """A model of random weights at the sizes of its name, as a run without data."""
    keywords = registry.model_keywords(name)
    model = small.drawn(registry.abstract_model(name))
    side, classes = keywords.get("img_size", 224), keywords["num_classes"]
    names = tuple(f"class {k}" for k in range(classes))
    loaded = Pretrained(model, Preprocessing(side, None), names, name, name, {})
    return pretrained.as_run(loaded)


def differences() -> str:
    """A table: each model, and the largest difference of its logits in each format."""
    lines = ["| model | ONNX | StableHLO | same class |", "|---|---|---|---|"]
    runs = [(name, run_of(name)) for name in sorted(MODELS)]
    runs += [(f"{name}, full size", full(name)) for name in FULL]
    for name, run in runs:
        made, images, found = graph.build(run), check.random_images(run), []
        with tempfile.TemporaryDirectory() as folder:
            for ending in writing.FILES:
                found.append(writing.to_file(run, made, Path(folder) / f"model{ending}", images))
        equal = ", ".join(f"{one.equal} of {one.count}" for one in found)
        lines.append(f"| {name} | {' | '.join(f'{one.largest:.0e}' for one in found)} | {equal} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def speeds() -> str:
    """A table: images in a second of a core's time, here and in onnxruntime."""
    lines = ["| model | images at once | here | onnxruntime |", "|---|---|---|---|"]
    for name, count in TIMED:
        run = full(name)
        made = graph.build(run)
        images = np.random.default_rng(0).normal(size=(count, *made.image_shape))
        images = images.astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model.onnx"
            writing.to_file(run, made, target, check.random_images(run))
            opened = onnx_file.open_file(target)
        ours, theirs = (_images_a_second(f, images) for f in (made, opened.run))
        lines.append(f"| {name} | {count} | {ours:,.0f} | {theirs:,.0f} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def _images_a_second(function: Callable, images: np.ndarray) -> float:
    """Of the quickest call, by the time that cores worked for it: others may use the machine."""
    function(images)
    quickest, until = np.inf, time.process_time() + _SECONDS
    while time.process_time() < until:
        begun = time.process_time()
        function(images)
        quickest = min(quickest, time.process_time() - begun)
    return len(images) / quickest


def main() -> None:
    """Measure, and rewrite the tables in docs/deploy.md; with --speeds that of speeds alone."""
    if "--speeds" not in sys.argv[1:]:
        _rewrite_differences()
    rewrite("speeds", speeds(), _PAGE)


def _rewrite_differences() -> None:
    packages = ("jax", "jax2onnx", "onnx", "onnxruntime")
    made_with = ", ".join(f"{package} {version(package)}" for package in packages)
    rewrite("differences", f"Measured with {made_with}.\n\n{differences()}", _PAGE)


if __name__ == "__main__":
    main()
