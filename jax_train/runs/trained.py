"""A trained model, read back from a run folder: for evaluating, predicting and explaining."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from jax_train import data
from jax_train.engine import feed, steps
from jax_train.engine import recipe as build
from jax_train.engine.state import Progress, TrainState
from jax_train.errors import UserError
from jax_train.runs import folder as run_folder
from jax_train.runs.checkpoint import Checkpoints

_FIRST = "run its training command again, it goes on to the first one."


@dataclass(frozen=True)
class TrainedRun:
    """A run and the model it reports.

    Attributes:
      folder: the run folder.
      config: complete, as trained.
      results: what results.json holds; None while the run is not finished.
      recipe: what evaluates; `recipe.inputs` turns raw images uint8 [B,H,W,C] into what the model
        takes, `recipe.merge` gives the model in the dtype of the run.
      params: the reported weights.
      stats: their batch statistics.
      step: of the weights.
    """

    folder: Path
    config: ConfigDict
    results: dict | None
    recipe: build.Model
    params: Any
    stats: Any
    step: int

    @functools.cached_property
    def model(self) -> nnx.Module:
        """The model with its weights as they are stored; without `train` it evaluates."""
        return nnx.merge(self.recipe.graphdef, self.params, self.stats)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        if self.results and "class_names" in self.results:
            return tuple(self.results["class_names"])
        return data.load_split(self.config, self.config.data.test_split).class_names

    @functools.cached_property
    def _logits(self):
        return jax.jit(functools.partial(steps.logits, self.recipe))

    def logits(self, images: np.ndarray, batch_size: int = 100) -> np.ndarray:
        """Logits [N,K] of raw images uint8 [N,H,W,C], as evaluation in training gives them."""
        size, parts = feed.even_batch(len(images), batch_size), []
        for start in range(0, len(images), size):
            batch = feed.padded(images[start : start + size], size)
            parts.append(np.asarray(self._logits(self.params, self.stats, batch)))
        return np.concatenate(parts)[: len(images)]


def open_run(folder: str | Path) -> TrainedRun:
    """Read a run's config and the weights it reports (of an unfinished run: the newest).

    Raises:
      UserError: the folder holds no run, or no checkpoint, or one that cannot be read.
    """
    folder = Path(folder)
    config = run_folder.read_config(folder)
    results = run_folder.results(folder)
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    weights = build.abstract_weights(config)
    state = TrainState(jax.ShapeDtypeStruct((), np.int32), *weights, opt_state=None)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state
    )
    like = Progress(state, sums=None)
    step, progress = _weights(folder, like, results)
    model = build.describe_model(config)
    return TrainedRun(folder, config, results, model, *progress.state.reported, step)


def _weights(folder: Path, like: Progress, results: dict | None) -> tuple[int, Progress]:
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds no checkpoint yet: {_FIRST}")
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        best = bool(results) and results["reported_weights"] == "best"
        found = checkpoints.restore_best(like) if best else checkpoints.restore_newest(like)
    if found is None:
        raise UserError(f"{folder}/checkpoints holds no complete checkpoint: {_FIRST}")
    return found[:2]


def image_shape(run: TrainedRun) -> tuple[int, int, int]:
    """Return height and width in pixels, and channels, of the raw images that a run takes.

    Where the config does not hold them they are those of the run's data, which is then opened, but
    neither downloaded nor decoded.

    Raises:
      UserError: that data is not there any more.
    """
    config = run.config.copy_and_resolve_references()
    side = config.data.image_size or (0 if config.augment.resize else config.model.img_size)
    if side:
        return side, side, len(config.data.mean)
    config.update({"data": {"download": False, "memory_limit": 0.0}})
    try:
        return data.load_split(config, config.data.test_split).image_shape
    except UserError as error:
        raise UserError(
            f"The size of the images that {run.folder} takes is that of its data, which cannot be "
            f"opened: {error}"
        ) from error
