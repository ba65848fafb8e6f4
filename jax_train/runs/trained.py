"""A trained model, read back from a run folder: for evaluating, predicting and explaining."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import jax_models
from jax_models import low_rank
from jax_models.pretrained import Preprocessing
from jax_models.pretrained.description import Description
from jax_train import data
from jax_train.data.decoding import fitted
from jax_train.data.sources.by_name import resizes, scheme_of
from jax_train.data.splits import open_store
from jax_train.engine import average, feed, steps
from jax_train.engine import recipe as build
from jax_train.engine.state import Progress, TrainState
from jax_train.errors import UserError
from jax_train.machine import runtime
from jax_train.runs import data_record
from jax_train.runs import folder as run_folder
from jax_train.runs.checkpoint import Checkpoints
from jax_train.runs.data_record import DataRecord

# Of training: weights say nothing of them.
RATES = ("dropout", "attention_dropout", "drop_path", "head_dropout")


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
      record: of the data it began with; None of a run begun by an older version.
      fit: brings Pillow's image to the raw image uint8 [H,W,C] that the model takes; None: as
        `decoding.fitted` does, bilinear.
      notes: what a user should know of the model, a sentence each.
    """

    folder: Path
    config: ConfigDict
    results: dict | None
    recipe: build.Model
    params: Any
    stats: Any
    step: int
    record: DataRecord | None = None
    fit: Callable[[Any], np.ndarray] | None = None
    notes: tuple[str, ...] = ()

    @property
    def whose_weights(self) -> str:
        """Which weights they are, for a report."""
        return f"weights of step {self.step:,}"

    @property
    def pictures_folder(self) -> Path:
        """Where its pictures go by themselves."""
        return self.folder / "explain"

    @functools.cached_property
    def model(self) -> nnx.Module:
        """The model with its weights as they are stored, adapters folded in; it evaluates."""
        return low_rank.merged(self.as_trained)

    @property
    def as_trained(self) -> nnx.Module:
        """The same with its adapters, if it has any, beside the matrices."""
        return nnx.merge(self.recipe.graphdef, self.params, self.stats)

    @property
    def description(self) -> Description:
        """The model and what it takes, in the words for pretrained ones."""
        config = self.config
        keywords = jax_models.model_keywords(config.model.name)
        settings = {k: v for k, v in config.model.items() if k in keywords and v is not None}
        settings = {k: v for k, v in settings.items() if k not in RATES}
        whole = config.augment.resize or config.data.image_size or image_shape(self)[0]
        side = config.augment.crop_size or whole
        how = config.data.interpolation or config.augment.interpolation or "bilinear"
        steps = Preprocessing(side, whole, how, tuple(config.data.mean), tuple(config.data.std))
        names = tuple(self.record.class_names) if self.record else None
        return Description(config.model.name, settings, steps, names)

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._known_classes or self.split().class_names

    @property
    def _known_classes(self) -> tuple[str, ...]:
        """Class names that the run folder has; none for unfinished runs of older versions."""
        known = self.record.class_names if self.record else (self.results or {}).get("class_names")
        return tuple(known or ())

    def split(self, name: str | None = None) -> data.Dataset | data.StreamedDataset:
        """A split of the run's data, such as 'test[:100]'; None: its test split.

        Raises:
          UserError: it cannot be read, or its classes are not those of the run any more.
        """
        fields = self.config.data
        try:
            found = data.load_split(self.config, fields.test_split if name is None else name)
        except UserError as error:
            try:
                open_store(self.config, download=False)
            except UserError:
                raise UserError(
                    f"{error} If the data of {self.folder} are elsewhere now, say where: --data "
                    "folder:PATH, or of a TFDS data set --data_dir FOLDER."
                ) from error
            raise
        if then := self._known_classes:
            data_record.check_classes(self.folder, fields.name, then, found.class_names)
        return found

    def other_split(
        self, name: str, data_dir: str | None, split: str
    ) -> data.Dataset | data.StreamedDataset:
        """A split of other data; images of a folder are brought to the run's size.

        Raises:
          UserError: it cannot be loaded.
        """
        config = self.config.copy_and_resolve_references()
        side = image_shape(self)[0] if resizes(name, data_dir) else None
        with config.ignore_type():
            config.data.update(name=name, data_dir=data_dir, image_size=side)
        return data.load_split(config, split)

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


def open_run(
    folder: str | os.PathLike, data_name: str | None = None, data_dir: str | None = None
) -> TrainedRun:
    """Read a run's config and the weights it reports (of an unfinished run: the newest).

    Args:
      folder: of the run.
      data_name: where its data are now, as `config.data.name`; None: where they were in training,
        whatever the working folder is.
      data_dir: likewise, as `config.data.data_dir`.

    Raises:
      UserError: the folder holds no run, or no checkpoint, or one that cannot be read; or
        JAX was told to use devices that are not there.
    """
    runtime.check_devices()
    folder = Path(folder)
    config = run_folder.read_config(folder)
    record = data_record.read(folder)
    _set_place(config, record, data_name, data_dir)
    results = run_folder.results(folder)
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    weights = build.abstract_weights(config)
    averaged = weights if average.is_on(config) else None
    step = jax.ShapeDtypeStruct((), np.int32)
    state = TrainState(step, *weights, averaged, opt_state=None)
    state = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state
    )
    like = Progress(state, sums=None)
    step, progress = _weights(folder, like, results)
    model, fit, how = build.describe_model(config), None, config.data.interpolation
    if how:
        side = config.data.image_size
        fit = functools.partial(fitted, size=(side, side), interpolation=how)
    state, told = progress.state.reported, ()
    if results is None:
        told = (f"the run is not finished; these weights are of step {step:,}",)
    return TrainedRun(folder, config, results, model, *state, step, record, fit, told)


def _set_place(config: ConfigDict, record: DataRecord | None, name, data_dir) -> None:
    """Have a run's config say where its data are now."""
    moved = record and data_record.located(config) != (record.name, record.data_dir)
    if moved and scheme_of(record.name) is scheme_of(config.data.name):
        config.data.update(name=record.name, data_dir=record.data_dir)
    if name is not None:
        config.data.update(name=name, data_dir=None)
    if data_dir is not None:
        config.data.data_dir = data_dir


def holds_data_of(folder: str | os.PathLike, name: str, data_dir: str | None) -> bool:
    """Whether a data set is the one that the run in a folder began with, wherever it lies.

    Raises:
      UserError: there is no such data set.
    """
    record, config = data_record.read(folder), run_folder.read_config(folder)
    if record is None:
        place = config.data.name, config.data.data_dir
        return (name, data_dir or config.data.data_dir) == place
    if scheme_of(name) is not scheme_of(record.name):
        return False
    config.data.update(name=name, data_dir=data_dir)
    source = open_store(config).source
    if not set(record.files) <= set(source.splits):
        return False
    now = {base: source.contents(base) for base in record.files}
    return not data_record.changes(record, record._replace(files=now))


def _weights(folder: Path, like: Progress, results: dict | None) -> tuple[int, Progress]:
    again = "run its training command again"
    if results:  # of a finished run that only prints the results
        again = f"delete {folder}/results.json and {again}"
    if not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds no checkpoint yet: {again}, it goes on to the first one.")
    cure = f"To set it aside and go on from an older one, {again}."
    with Checkpoints(folder / "checkpoints", read_only=True, cure=cure) as checkpoints:
        best = bool(results) and results["reported_weights"] == "best"
        found = checkpoints.restore_best(like) if best else checkpoints.restore_newest(like)
    if found is None:
        raise UserError(
            f"{folder}/checkpoints holds no complete checkpoint: {again}, it goes on to the first "
            "one."
        )
    return found[:2]


def image_shape(run: TrainedRun) -> tuple[int, int, int]:
    """Return height and width in pixels, and channels, of the raw images that a run takes.

    Where the config does not hold them they are those of the run's data, which is then opened, but
    neither downloaded nor decoded.

    Raises:
      UserError: that data is not there any more.
    """
    if run.record:
        return tuple(run.record.image_shape)
    config = run.config.copy_and_resolve_references()
    other = config.augment.resize or config.augment.crop_size
    side = config.data.image_size or (0 if other else config.model.img_size)
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
