"""The weights that a run starts from, where `config.model.init_from` names some.

They are read once, when the run begins. What follows from them goes into the run's config, and the
weights into its first checkpoint, so that the run never needs its source again.
"""

import hashlib
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
from jax_models.pretrained import Opened, Preprocessing, SourceError
from jax_models.pretrained.description import Description
from jax_models.pretrained.hub import is_on_hub
from jax_train.config import fields, ranges
from jax_train.data.sources.by_name import scheme_of
from jax_train.data.split import AUTO
from jax_train.engine.recipe import NO_KEYWORDS
from jax_train.engine.state import Weights, split
from jax_train.errors import UserError
from jax_train.files import expand
from jax_train.machine import processes
from jax_train.printing import listing, readable
from jax_train.runs import pretrained, trained

# Keywords that weights say nothing of: what the data say, and rates of training.
_OF_DATA = ("img_size", "in_channels", "num_classes")
_RATES = ("dropout", "drop_path", "head_dropout")
_FILLED = ("data.image_size", "augment.resize")  # besides those of the model
_SHOWN = 12  # digits of a checksum
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Source:
    """Weights that were read, and what follows from them.

    Attributes:
      config: that was asked for, with what follows from the weights filled in.
      opened: the model that they are of.
      notes: what has to be told, besides the model's own notes.
    """

    config: ConfigDict
    opened: Opened
    notes: tuple[str, ...] = ()

    def statistics(self, channels: int) -> dict[str, tuple[float, ...]]:
        """`mean` and `std` of pixels scaled to [0, 1] that the weights expect."""
        steps = self.opened.description.preprocessing.with_channels(channels)
        unit = 255 * steps.scale  # what the largest level becomes
        return {key: tuple(x / unit for x in getattr(steps, key)) for key in ("mean", "std")}

    def weights(self, config: ConfigDict, class_names: Iterable[str]) -> tuple[Weights, list[str]]:
        """What a run starts from, on the host, and lines for people.

        Args:
          config: `self.config`, resolved.
          class_names: of the run's data.

        Raises:
          UserError: the model cannot have those sizes.
        """
        try:
            loaded = self.opened.at(**{key: config.model[key] for key in _OF_DATA})
        except ValueError as error:
            raise _refused(config, error) from None
        weights = split(loaded.model)[1]
        kept = _arrays(nnx.state(self.opened.model)).items()
        new = _arrays(nnx.state(loaded.model))
        found = sum(path in new and new[path].shape == array.shape for path, array in kept)
        lines = [self._title(), f"{found} of {len(new)} arrays are loaded as they are"]
        lines += [note.rstrip(".") for note in (*loaded.notes, *self.notes)]
        lines += self._other_classes(tuple(class_names))
        wide = config.dtype == "float64"
        return jax.tree.map(lambda leaf: _on_host(leaf, wide), weights), lines

    def _title(self) -> str:
        model = self.config.model
        commit = f", commit {model.init_revision[:_SHOWN]}" if model.init_revision else ""
        digest = model.init_sha256[:_SHOWN]
        return f"weights: {readable(model.init_from)}{commit}, SHA-256 {digest}…"

    def _other_classes(self, names: tuple[str, ...]) -> list[str]:
        """A line where the head is kept for classes of other names."""
        known = self.opened.description.class_names
        if known is None or len(known) != len(names) or tuple(known) == names:
            return []
        there = listing(known, 40)
        return [f"the head is kept, because it has as many classes; there they were {there}"]


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
    config = config.copy_and_resolve_references()
    place, then = _located(asked), stored["model.init_from"]
    if place != then and then is not None and _checksum(place) == stored["model.init_sha256"]:
        place = then  # moved, or called otherwise
    with config.unlocked():
        config.model.init_from = place
        given = fields.flatten(config)
        of_weights = [f for f in given if f.startswith("model.") and f[6:] not in _OF_DATA + _RATES]
        for field in (*of_weights, *_FILLED):
            if given[field] in (None, AUTO) or (field == "augment.resize" and not given[field]):
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
    now = None if source is None else _checksum(source)
    if now in (None, then):
        return []
    return [
        f"note: {readable(source)} holds other weights than when this run began (SHA-256 "
        f"{now[:_SHOWN]}…, then {then[:_SHOWN]}…): the run goes on with its own"
    ]


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
    place = _located(config.model.init_from)
    opened, digest, notes = _opened(config, place)
    found = opened.description
    _check_pins(config, opened, digest)
    full = jax_models.model_keywords(found.name) | found.settings
    _check_model(config, found, full)
    with config.unlocked():
        config.model.update(init_from=place, init_revision=opened.revision, init_sha256=digest)
        config.model.name = found.name if config.model.name == AUTO else config.model.name
        own = jax_models.model_keywords(config.model.name)
        for key in _sized(config, full):
            if config.model[key] is None and full[key] != own[key]:
                config.model[key] = full[key]
        _fill_images(config, found.preprocessing)
    return Source(config, opened, tuple(notes))


def _fill_images(config: ConfigDict, steps: Preprocessing) -> None:
    """Have images come at the side that the weights expect, unless another one is given."""
    side = config.model.img_size or config.augment.resize or steps.size
    if not scheme_of(config.data.name).resizes:
        config.augment.resize = side
    elif config.data.image_size is None:
        config.data.image_size = side


def _has_begun(workdir: Path) -> bool:
    """Whether a run folder holds a checkpoint."""
    folder = workdir / "checkpoints"
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def _located(source: str) -> str:
    """The source's name, understood in every working folder."""
    return source if is_on_hub(source) else os.path.abspath(expand(source))


# Reading


def _opened(config: ConfigDict, place: str) -> tuple[Opened, str, list[str]]:
    """The model in a source, the checksum of its weights, and notes."""
    model = config.model
    if _is_run(place):
        try:
            return _open_run(place)
        except UserError as error:
            raise _refused(config, error) from None
    name, settings = None, {}
    if os.path.isfile(place):
        if model.name == AUTO:
            cure = "Add --config.model.name=vit_base_patch16_224, for example."
            expected = f"the name of a model, because {place} is a file of weights"
            raise ranges.refusal("model.name", model.name, expected, cure)
        keywords = jax_models.model_keywords(model.name)
        name = model.name
        settings = {k: model[k] for k in _sized(config, keywords) if model[k] is not None}
    revision = model.init_revision
    if is_on_hub(place) and revision is not None:
        place = f"{place.partition('@')[0]}@{revision}"
    try:
        if is_on_hub(place) and jax.process_count() > 1:  # the others find it in the cache
            processes.on_main(lambda: jax_models.open_pretrained(place) and None)
        opened = jax_models.open_pretrained(place, name=name, **settings)
    except SourceError as error:
        raise _refused(config, error) from None
    return opened, _of_files(opened.files), []


def _refused(config: ConfigDict, error: ValueError) -> UserError:
    return ranges.refusal("model.init_from", config.model.init_from, "weights to load", str(error))


def _is_run(place: str) -> bool:
    is_folder = not is_on_hub(place) and os.path.isfile(os.path.join(place, "config.json"))
    return is_folder and not pretrained.is_source(place)


def _open_run(place: str) -> tuple[Opened, str, list[str]]:
    """The model that a run reports, the checksum of its arrays, and notes."""
    wide = jax.config.jax_enable_x64
    try:
        run = trained.open_run(place)
        weights = jax.device_get(Weights(run.params, run.stats))
    finally:
        jax.config.update("jax_enable_x64", wide)
    config = run.config
    keywords = jax_models.model_keywords(config.model.name)
    settings = {k: v for k, v in config.model.items() if k in keywords and v is not None}
    settings = {k: v for k, v in settings.items() if k not in _RATES}
    side, mean, std = settings.get("img_size"), config.data.mean, config.data.std
    side = side or config.augment.resize or trained.image_shape(run)[0]
    steps = Preprocessing(side, side, "bilinear", tuple(mean), tuple(std))
    names = tuple(run.record.class_names) if run.record else None
    found = Description(config.model.name, settings, steps, names)
    model = nnx.merge(run.recipe.graphdef, *weights)
    notes = [] if run.results else [f"{place} is not finished: its weights after step {run.step}"]
    return Opened(place, found, model), _of_arrays(_arrays(nnx.state(model))), notes


def _checksum(place: str) -> str | None:
    """SHA-256 of the weights in a local source; None where they are not to be had."""
    try:
        if is_on_hub(place):
            return None
        if _is_run(place):
            return _open_run(place)[1]
        path = Path(place)
        files = jax_models.pretrained.folder.weight_files(path) if path.is_dir() else [path]
        return _of_files(files)
    except (OSError, UserError, SourceError):
        return None


def _of_files(files: Iterable[Path]) -> str:
    """SHA-256 of a file; of several files that of the lines that `sha256sum` writes."""
    digests = {}
    for path in files:
        with open(path, "rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _of_arrays(arrays: dict[str, Any]) -> str:
    """SHA-256 of a run's arrays, each with its name, dtype and shape."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def _arrays(state: nnx.State) -> dict[str, Any]:
    return {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def _on_host(leaf: Any, wide: bool) -> np.ndarray:
    array = np.asarray(leaf)
    if not np.issubdtype(array.dtype, np.floating):
        return array
    return array.astype(np.float64 if wide else np.float32)


# What is given, and what the weights say


def _sized(config: ConfigDict, keywords: Iterable[str]) -> list[str]:
    """Fields of `config.model` that are keywords of a model and follow from its weights."""
    left_out = {*NO_KEYWORDS, *_OF_DATA, *_RATES}
    return [key for key in config.model if key in keywords and key not in left_out]


def _check_pins(config: ConfigDict, opened: Opened, digest: str) -> None:
    """Refuse another revision or other weights than were asked for."""
    model = config.model
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
        other = [k for k in keys if config.model[k] is None and own[k] != full[k]]
        if jax_models.family(name) != jax_models.family(found.name) or other:
            told = [f"{key}={full[key]!r}, not {own[key]!r}" for key in other]
            expected += f" (with {', '.join(told[:3])})" if told else ""
            raise ranges.refusal("model.name", name, expected, f"Other weights, or {free}")
    for key in _sized(config, full):
        given = config.model[key]
        if given in (None, full[key]) or _alike(found, full, {key: given}):
            continue
        expected = "None" if full[key] is None else f"None or {full[key]!r}"
        expected += f", as the weights of {source} have it"
        cure = "Leave it unset; where a recipe sets it for a model of its own, "
        raise ranges.refusal(f"model.{key}", given, expected, cure + free)


def _alike(found: Description, full: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether a model with a setting that is written otherwise is the same, such as a default."""

    def abstract(settings):
        graphdef, state = nnx.split(registry.abstract_model(found.name, **settings))
        return graphdef, {path: (a.shape, a.dtype) for path, a in _arrays(state).items()}

    try:
        return abstract(full) == abstract(full | given)
    except (ValueError, TypeError):
        return False
