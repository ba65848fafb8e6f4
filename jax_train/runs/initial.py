"""The weights that a run starts from, where `config.model.init_from` names some.

They are read once, when the run begins. What follows from them goes into the run's config, and the
weights into its first checkpoint, so that the run never needs its source again.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import jax_models
from jax_models import registry
from jax_models.pretrained import Preprocessing, SourceError
from jax_models.pretrained.description import Description
from jax_train.config import fields, ranges
from jax_train.data.sources.by_name import resizes
from jax_train.data.split import AUTO
from jax_train.engine.field_checks import INTERPOLATIONS
from jax_train.engine.recipe import NO_KEYWORDS
from jax_train.engine.state import Weights, split
from jax_train.errors import UserError
from jax_train.printing import listing, readable
from jax_train.runs import weights as places
from jax_train.runs.trained import RATES
from jax_train.runs.weights import Found

_OF_DATA = ("img_size", "in_channels", "num_classes")  # keywords that the data say
_PINS = ("model.init_revision", "model.init_sha256")
_FILLED = ("data.image_size", "data.interpolation", "augment.interpolation")  # besides the model's
_FILLED_SIZES = ("augment.resize", "augment.crop_size")  # the same; 0 where they are not given
_SHOWN = 12  # digits of a checksum


@dataclass(frozen=True)
class Source:
    """Weights that were read, and what follows from them.

    Attributes:
      config: that was asked for, with what follows from the weights filled in.
      found: the weights.
    """

    config: ConfigDict
    found: Found

    def statistics(self, channels: int) -> dict[str, tuple[float, ...]]:
        """`mean` and `std` of pixels scaled to [0, 1] that the weights expect."""
        return self.found.opened.description.preprocessing.with_channels(channels).statistics

    def weights(self, config: ConfigDict, class_names: Iterable[str]) -> tuple[Weights, list[str]]:
        """What a run starts from, on the host, and lines for people.

        Args:
          config: `self.config`, resolved.
          class_names: of the run's data.

        Raises:
          UserError: the model cannot have those sizes.
        """
        try:
            loaded = self.found.opened.at(**{key: config.model[key] for key in _OF_DATA})
        except ValueError as error:
            raise _refused(config, error) from None
        old, new = (
            places.arrays(nnx.state(model)) for model in (self.found.opened.model, loaded.model)
        )
        kept = sum(path in new and new[path].shape == array.shape for path, array in old.items())
        lines = [
            f"weights: {described(self.config)}",
            f"{kept} of {len(new)} arrays are loaded as they are",
        ]
        lines += [note.rstrip(".") for note in (*loaded.notes, *self.found.notes)]
        lines += self._other_classes(tuple(class_names))
        wide = config.dtype == "float64"
        return jax.tree.map(lambda leaf: _on_host(leaf, wide), split(loaded.model)[1]), lines

    def _other_classes(self, names: tuple[str, ...]) -> list[str]:
        """A line where the head is kept for classes of other names."""
        known = self.found.opened.description.class_names
        if known is None or len(known) != len(names) or tuple(known) == names:
            return []
        there = listing(known, 40)
        return [f"the head is kept, because it has as many classes; there they were {there}"]


def described(config: ConfigDict) -> str | None:
    """Which weights a run began with, for people: the source, its commit and its checksum.

    Args:
      config: of a run that has begun.

    Returns:
      None where they were drawn from the seed.
    """
    model = config.model
    if model.init_from is None:
        return None
    commit = f", commit {model.init_revision[:_SHOWN]}" if model.init_revision else ""
    return f"{readable(model.init_from)}{commit}, SHA-256 {model.init_sha256[:_SHOWN]}…"


def recall(config: ConfigDict, workdir: str | os.PathLike) -> ConfigDict:
    """Fill in what the run in a folder, if there is one, once found in its weights.

    Args:
      config: as it was asked for.
      workdir: the run folder.

    Returns:
      The config itself where there is nothing to fill in.
    """
    path, asked = Path(workdir) / "config.json", config.model.init_from
    if asked is None or not path.is_file():
        return config
    try:
        stored = fields.read_stored(path).fields
    except (OSError, ValueError, TypeError, AttributeError):
        return config  # told where the folder is checked
    then = stored["model.init_from"]
    if then is None or stored["model.name"] not in jax_models.list_models():
        return config  # likewise
    config = config.copy_and_resolve_references()
    place = places.located(asked)
    if place != then and places.checksum(place) == stored["model.init_sha256"]:
        place = then  # moved, or called otherwise
    sized = _sized(config, jax_models.model_keywords(stored["model.name"]))
    of_weights = ["model.name", *_PINS, *(f"model.{key}" for key in sized)]
    with config.unlocked():
        config.model.init_from = place
        given = fields.flatten(config)
        for field in (*of_weights, *_FILLED, *_FILLED_SIZES):
            if given[field] in (None, AUTO) or (field in _FILLED_SIZES and not given[field]):
                value = stored[field]
                value = tuple(value) if isinstance(value, list) else value
                config.update_from_flattened_dict({field: value})
    return config


def changed(config: ConfigDict) -> list[str]:
    """A note where the weights that a run began with lie in their place no more, but others.

    Args:
      config: of the run, with what `recall` filled in.
    """
    source, then = config.model.init_from, config.model.init_sha256
    now = None if source is None else places.checksum(source)
    if now in (None, then):
        return []
    return [
        f"note: {readable(source)} holds other weights than when this run began (SHA-256 "
        f"{now[:_SHOWN]}…, then {then[:_SHOWN]}…): the run goes on with its own"
    ]


def check_place(config: ConfigDict) -> None:
    """Refuse to begin anew where the weights are gone; what they hold is not looked at.

    Raises:
      UserError: there is nothing in the place that `config.model.init_from` names.
    """
    source = config.model.init_from
    if source is not None and not places.is_there(places.located(source)):
        raise _refused(config, SourceError(f"{source}: there is no such folder or file any more."))


def read(config: ConfigDict, workdir: str | os.PathLike) -> Source | None:
    """Read the weights that a run starts from; None where it starts from none, or goes on.

    Args:
      config: as `recall` gives it, checked.
      workdir: the run folder; nothing is changed in it.

    Raises:
      UserError: there are no such weights, they cannot be read, are of another model than the
        config says, or have another checksum.
    """
    if config.model.init_from is None or _has_begun(Path(workdir)):
        return None
    config = config.copy_and_resolve_references()
    place = places.located(config.model.init_from)
    weights = _find(config, place)
    opened, found = weights.opened, weights.opened.description
    _check_pins(config, weights)
    full = jax_models.model_keywords(found.name) | found.settings
    _check_model(config, found, full)
    with config.unlocked():
        pins = {"init_revision": opened.revision, "init_sha256": weights.sha256}
        config.model.update(init_from=place, **pins)
        config.model.name = found.name if config.model.name == AUTO else config.model.name
        own = jax_models.model_keywords(config.model.name)
        for key in _sized(config, full):
            if config.model[key] is None and full[key] != own[key]:
                config.model[key] = full[key]
        _fill_images(config, found.preprocessing)
    return Source(config, weights)


def _find(config: ConfigDict, place: str) -> Found:
    """Open the weights in a place as those of the model that a config names."""
    model, name, settings = config.model, None, {}
    if os.path.isfile(place):
        if model.name == AUTO:
            cure = "Add --config.model.name=vit_base_patch16_224, for example."
            expected = f"the name of a model, because {place} is a file of weights"
            raise ranges.refusal("model.name", model.name, expected, cure)
        name, keywords = model.name, jax_models.model_keywords(model.name)
        settings = {k: model[k] for k in _sized(config, keywords) if model[k] is not None}
    try:
        return places.find(place, name, settings, model.init_revision)
    except (SourceError, UserError) as error:
        raise _refused(config, error) from None


def _refused(config: ConfigDict, error: ValueError) -> UserError:
    return ranges.refusal("model.init_from", config.model.init_from, "weights to load", str(error))


def _fill_images(config: ConfigDict, steps: Preprocessing) -> None:
    """Have images come as the weights expect, unless something else is given.

    Files are resized, and the middle cropped, as in the source; the images of other data sets are
    often of what is to be seen alone, and are resized to the model's side.
    """
    fields, augment = config.data, config.augment
    side = config.model.img_size or augment.crop_size or augment.resize or steps.size
    if not resizes(fields.name, fields.data_dir):
        augment.resize = augment.resize or side
    elif fields.image_size is None:
        whole = steps.at(side).resize
        fields.image_size = side
        if isinstance(whole, int) and whole > side and not augment.resize:
            fields.image_size, augment.crop_size = whole, side
    if fields.image_size and fields.interpolation is None:
        fields.interpolation = steps.interpolation
    if augment.interpolation is None and steps.interpolation in INTERPOLATIONS:
        augment.interpolation = steps.interpolation


def _has_begun(workdir: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _on_host(leaf: Any, wide: bool) -> np.ndarray:
    array = np.asarray(leaf)
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return array.astype(np.float64 if wide else np.float32, copy=False)


# What is given, and what the weights say


def _sized(config: ConfigDict, keywords: Iterable[str]) -> list[str]:
    """Fields of `config.model` that are keywords of a model and follow from its weights."""
    left_out = {*NO_KEYWORDS, *_OF_DATA, *RATES}
    return [key for key in config.model if key in keywords and key not in left_out]


def _check_pins(config: ConfigDict, found: Found) -> None:
    """Refuse another revision or other weights than were asked for."""
    model, opened, digest = config.model, found.opened, found.sha256
    if model.init_revision is not None and opened.revision is None:
        expected = f"None, because {opened.source} is not on the hub"
        raise ranges.refusal("model.init_revision", model.init_revision, expected)
    if model.init_sha256 not in (None, digest):
        cure = "Fetch them again; or leave the field unset, in a new --workdir, to take them as "
        expected = f"that of the weights of {opened.source}, {digest}"
        raise ranges.refusal("model.init_sha256", model.init_sha256, expected, f"{cure}they are.")


def _check_model(config: ConfigDict, found: Description, full: dict[str, Any]) -> None:
    """Refuse a name or sizes that are not those of the weights."""
    name, source = config.model.name, config.model.init_from
    free = f"leave it to the weights, --config.model.name={AUTO}."
    if name not in (AUTO, found.name):
        expected = f"{AUTO!r} or {found.name!r}, of which are the weights of {source}"
        own = jax_models.model_keywords(name)
        keys = [] if own.keys() != full.keys() else _sized(config, own)
        free_keys = [k for k in keys if config.model[k] is None]
        other = [k for k in free_keys if not _alike(found, full, {k: own[k]})]
        if jax_models.family(name) != jax_models.family(found.name) or other:
            told = [f"{key}={full[key]!r}, not {own[key]!r}" for key in other]
            expected += f" (with {', '.join(told[:3])})" if told else ""
            raise ranges.refusal("model.name", name, expected, f"Other weights, or {free}")
    for key in _sized(config, full):
        given = config.model[key]
        if given is None or _alike(found, full, {key: given}):
            continue
        expected = "None" if full[key] is None else f"None or {full[key]!r}"
        expected += f", as the weights of {source} have it"
        cure = "Leave it unset; where a recipe sets it for a model of its own, "
        raise ranges.refusal(f"model.{key}", given, expected, cure + free)


def _alike(found: Description, full: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether a model with a setting that is written otherwise is the same, such as a default."""
    if given.items() <= full.items():
        return True

    def abstract(settings):
        graphdef, state = nnx.split(registry.abstract_model(found.name, **settings))
        return graphdef, {path: (a.shape, a.dtype) for path, a in places.arrays(state).items()}

    try:
        return abstract(full) == abstract(full | given)
    except (ValueError, TypeError):
        return False
