"""A pretrained model in the place of a trained run: for predicting, explaining and converting."""

import json
import os
import re
from pathlib import Path
from typing import NoReturn

import jax_models
from configs import common
from jax_models.pretrained import Pretrained, SourceError
from jax_models.pretrained.hub import is_on_hub
from jax_models.torch_weights import files
from jax_train.engine import recipe as build
from jax_train.engine.augment import Augmentation
from jax_train.engine.state import split
from jax_train.errors import UserError
from jax_train.machine import runtime
from jax_train.runs.data_record import DataRecord
from jax_train.runs.trained import TrainedRun

_EVAL_BATCH = 100


class PretrainedRun(TrainedRun):
    """A pretrained model that answers as a run does; it has no data of its own."""

    @property
    def pictures_folder(self) -> Path:
        """Where its pictures go by themselves: a source is not written into."""
        return Path("explain") / re.sub(r"[^\w.-]+", "-", str(self.folder)).strip("-.")

    def split(self, name: str | None = None) -> NoReturn:
        """Raise a UserError: there are no data."""
        raise UserError(
            f"{self.folder} is a pretrained model, which has no data of its own: name image files."
        )


def is_source(place: str | os.PathLike) -> bool:
    """Whether something is named where pretrained weights are, and not a run."""
    if is_on_hub(os.fspath(place)):
        return True
    path = Path(place)
    if os.path.isfile(path):
        return path.name.lower().endswith(files.ENDINGS)
    try:
        described = json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError):  # the run's own error tells more
        return os.path.isdir(path) and any(path.glob("*.safetensors"))
    return isinstance(described, dict) and bool({"model_type", "architecture"} & described.keys())


def load(source: str | os.PathLike, name: str | None = None) -> Pretrained:
    """Load a pretrained model; see `jax_models.load_pretrained`.

    Raises:
      UserError: it cannot be loaded; or JAX was told to use devices that are not there.
    """
    if name is None and os.path.isfile(source):
        raise UserError(
            f"{source} is a file of weights: say of which model, such as --model "
            "vit_base_patch16_224."
        )
    runtime.check_devices()
    try:
        return jax_models.load_pretrained(source, name=name)
    except SourceError as error:
        raise UserError(str(error)) from None


def open_source(source: str | os.PathLike, name: str | None = None) -> PretrainedRun:
    """Load a pretrained model in the form of a run.

    Raises:
      UserError: as `load`, or the model has no head.
    """
    loaded = load(source, name)
    if not loaded.class_names:
        raise UserError(
            f"{source} is a {loaded.name} without a head: it gives features and knows no classes. "
            "convert takes it; in Python load_pretrained(…, num_classes=K) gives it a head."
        )
    steps, size = loaded.preprocessing, loaded.preprocessing.size
    config = common.get_config()
    config.model.name = loaded.name
    config.data.update(name=str(source), mean=steps.mean, std=steps.std)
    config.augment.flip = True  # as far as is known: all of these are trained on mirror images
    graphdef, weights = split(loaded.model)
    record = DataRecord(str(source), None, loaded.class_names, (size, size, steps.channels), {})
    return PretrainedRun(
        folder=Path(source),
        config=config,
        results=None,
        recipe=build.Model(
            graphdef=graphdef,
            augmentation=Augmentation(train=None, evaluate=steps.normalise),
            eval_batch_size=_EVAL_BATCH,
        ),
        params=weights.params,
        stats=weights.stats,
        step=0,
        record=record,
        fit=steps.fit,
        notes=loaded.notes,
    )
