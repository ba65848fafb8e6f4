"""A pretrained model in the place of a trained run: for predicting, explaining and converting."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import jax_models
from jax_models.pretrained import Opened, Pretrained, SourceError
from jax_models.pretrained.description import Description
from jax_models.pretrained.hub import is_on_hub
from jax_models.torch_weights import files
from jax_train import data, recipes
from jax_train.data.source import Fit
from jax_train.data.splits import open_store
from jax_train.engine import recipe as build
from jax_train.engine.augment import Augmentation
from jax_train.engine.state import split
from jax_train.errors import UserError
from jax_train.machine import runtime
from jax_train.printing import counted
from jax_train.runs.class_names import find_classes
from jax_train.runs.data_record import DataRecord
from jax_train.runs.trained import TrainedRun, image_shape

_EVAL_BATCH = 100  # of large images


@dataclass(frozen=True)
class PretrainedRun(TrainedRun):
    """A pretrained model that answers as a run does; it has no data of its own.

    Attributes:
      description: of the model, as it was loaded.
    """

    description: Description | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits; none without a head."""
        return tuple(self.record.class_names)

    @property
    def whose_weights(self) -> str:
        """Where they are from."""
        return f"weights of {self.folder}"

    @property
    def pictures_folder(self) -> Path:
        """Where its pictures go by themselves: a source is not written into."""
        return Path("explain") / re.sub(r"[^\w.-]+", "-", str(self.folder)).strip("-.")

    def split(self, name: str | None = None) -> NoReturn:
        """Raise a UserError: there are no data."""
        raise UserError(
            f"{self.folder} is a pretrained model, which has no data of its own: name image files, "
            "or data where the command takes --data."
        )

    def other_split(
        self, name: str, data_dir: str | None = None, split: str | None = None
    ) -> data.StreamedDataset:
        """A split of a data set, its images brought to the model as its source says.

        None for its test split, else a validation split, else 'train'. Raises a UserError where it
        cannot be read.
        """
        config = self.config.copy_and_resolve_references()
        config.data.update(name=name, data_dir=data_dir)
        store = open_store(config, fit=Fit(image_shape(self), self.fit))
        names = {*store.source.splits, *store.source.aliases}
        own = next((held for held in ("test", "validation", "val") if held in names), "train")
        return store.load(own if split is None else split)

    def on(
        self, name: str, data_dir: str | None = None, split: str | None = None, *, subset=False
    ) -> tuple["PretrainedRun", data.StreamedDataset]:
        """Take a split of a data set whose classes are among the model's.

        Args:
          name, data_dir: as `config.data.name` and `config.data.data_dir`.
          split: as of `other_split`.
          subset: the model chooses among the classes of the data alone.

        Returns:
          This model, and the examples with images as it takes them and labels in its classes.

        Raises:
          UserError: the data cannot be read, or their classes are not the model's.
        """
        examples = self.other_split(name, data_dir, split)
        wanted = str(self.folder), self.class_names, name, examples.class_names
        numbers, notes = find_classes(*wanted)
        many = len(self.class_names)
        if subset:
            record = self.record._replace(class_names=examples.class_names)
            recipe = replace(self.recipe, classes=tuple(numbers))
            return replace(self, record=record, recipe=recipe), examples
        if len(numbers) < many:
            classes = counted(many, "class", "classes")
            notes.append(
                f"the model chooses among all its {classes}, of which the data have "
                f"{len(numbers):,}: --classes subset lets it choose among these"
            )
        notes = (*examples.notes, *notes)
        return self, examples.with_classes(self.class_names, np.array(numbers), notes=notes)


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


def load(
    source: str | os.PathLike,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    img_size: int | None = None,
) -> Pretrained:
    """Load a pretrained model.

    Args:
      source, name: as of `jax_models.load_pretrained`.
      settings: keywords of the model of a file, which its name does not have.
      img_size: side of the images in pixels, if not that of the source.

    Raises:
      UserError: it cannot be loaded, or cannot have that size; or JAX was told to use devices that
        are not there.
    """
    if name is None and os.path.isfile(source):
        raise UserError(
            f"{source} is a file of weights: say of which model, such as --model "
            "vit_base_patch16_224."
        )
    runtime.check_devices()
    try:
        opened = jax_models.open_pretrained(source, name=name, **(settings or {}))
    except SourceError as error:
        raise UserError(str(error)) from None
    if img_size is not None:
        _check_side(opened, img_size)
    try:
        return opened.at(img_size=img_size)
    except ValueError as error:
        asked = "" if img_size is None else f"--img_size {img_size}: "
        raise UserError(f"{asked}{error}") from None


def _check_side(opened: Opened, side: int) -> None:
    """Refuse a side of the images that is no whole number of a model's patches."""
    found = opened.description
    patch = (jax_models.model_keywords(found.name) | found.settings).get("patch_size", 1)
    if side >= 1 and side % patch == 0:
        return
    expected = "a whole number of pixels, at least 1"
    if patch > 1:
        low = max(side // patch, 1) * patch
        expected = f"a multiple of {patch}, the side of a patch of {opened.source}, such as {low} "
        expected += f"or {low + patch}"
    raise UserError(f"--img_size {side}: expected {expected}.")


def open_source(
    source: str | os.PathLike,
    name: str | None = None,
    *,
    needs_head: bool = True,
    img_size: int | None = None,
) -> PretrainedRun:
    """Load a pretrained model in the form of a run; `img_size` as of `load`.

    Raises:
      UserError: as `load`, or the model has no head and needs one.
    """
    loaded = load(source, name, img_size=img_size)
    if needs_head and not loaded.class_names:
        raise UserError(
            f"{source} is a {loaded.name} without a head: it knows no classes. features, export, "
            "convert and evaluate --knn or --linear take it; in Python "
            "load_pretrained(…, num_classes=K) gives it a head."
        )
    return as_run(loaded)


def as_run(loaded: Pretrained) -> PretrainedRun:
    """A loaded model in the form of a run."""
    source, steps, size = loaded.source, loaded.preprocessing, loaded.preprocessing.size
    config = recipes.defaults()
    config.model.name = loaded.name
    config.data.update(name=source, **steps.statistics)
    config.eval.batch_size = _EVAL_BATCH
    config.augment.flip = True  # as far as is known: all of these are trained on mirror images
    graphdef, weights = split(loaded.model)
    record = DataRecord(source, None, loaded.class_names, (size, size, steps.channels), {})
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
        description=Description(
            loaded.name, loaded.settings, loaded.preprocessing, loaded.class_names
        ),
    )
