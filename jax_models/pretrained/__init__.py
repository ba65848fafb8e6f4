"""Pretrained models: from local folders and files of weights, and from the Hugging Face hub.

    loaded = jax_models.load_pretrained("hf:google/vit-base-patch16-224")
    logits = loaded.model(loaded.preprocessing(["cat.jpg"]))
    loaded.class_names[logits[0].argmax()]

A source becomes a `Description` (`huggingface`, `timm`, `file`), the model is built from it without
memory, and the weights go in array by array. `open_pretrained` stops there; `Opened.at` then brings
the model to other sizes.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flax import nnx

from jax_models import registry, torch_weights
from jax_models.checks import check_sizes
from jax_models.pretrained import file, folder, hub, huggingface, timm
from jax_models.pretrained.adapt import adapt
from jax_models.pretrained.description import Description, Fields, read_fields
from jax_models.pretrained.errors import SourceError
from jax_models.pretrained.preprocessing import Preprocessing

__all__ = ["Opened", "Preprocessing", "Pretrained", "SourceError"]
__all__ += ["load_pretrained", "open_pretrained"]
_SHOWN = 3  # problems of weights in a message


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights, and what belongs to them.

    Attributes:
      model: evaluates; `model(images, train=True, rngs=…)` trains.
      preprocessing: of image files or uint8 images [B,H,W,C] to what the model takes.
      class_names: in the order of the logits; 'class 0', 'class 1', … where the source has none.
      source: as it was given.
      name: of the model, for `create_model`.
      settings: its keywords.
      notes: what a user should know of what was assumed or changed, a sentence each.
    """

    model: nnx.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    source: str
    name: str
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A pretrained model at the sizes that its source has.

    Attributes:
      source: as it was given.
      description: of the model in it.
      model: with the weights.
      files: that hold the weights; none of a source that is no file.
      revision: the commit, of a source on the hub.
    """

    source: str
    description: Description
    model: nnx.Module
    files: tuple[Path, ...] = ()
    revision: str | None = None

    def at(
        self,
        *,
        num_classes: int | None = None,
        img_size: int | None = None,
        in_channels: int | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Pretrained:
        """The model at the sizes asked for; arguments and errors as of `load_pretrained`."""
        found = replace(self.description, notes=list(self.description.notes))
        wanted = {"num_classes": num_classes, "img_size": img_size, "in_channels": in_channels}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        if "img_size" in wanted:  # a CNN takes any, and its preprocessing would take it as it is
            check_sizes(img_size=img_size)
        model = _changed(self.model, found, wanted, rngs)
        return Pretrained(
            model,
            found.preprocessing,
            _names(found),
            self.source,
            found.name,
            found.settings,
            tuple(found.notes),
        )


def load_pretrained(
    source: str | os.PathLike,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    img_size: int | None = None,
    in_channels: int | None = None,
    rngs: nnx.Rngs | None = None,
    **settings: Any,
) -> Pretrained:
    """Load a pretrained model.

    Args:
      source: a folder as transformers or timm save it; a file of weights (.safetensors, .pt, .pth,
        Google's .npz), with `name`; `hf:ORG/NAME` or `hf:ORG/NAME@REVISION` on the Hugging Face
        hub; `timm/NAME.TAG`, which is `hf:timm/NAME.TAG`. The hub needs huggingface_hub.
      name: of the model whose weights a file holds, one of `list_models()`.
      num_classes: of a new head, where it is another number than the weights'; 0: no head.
      img_size: side of the images in pixels; the positions of a ViT are resized by the rule of the
        library that the weights come from.
      in_channels: of the images; the first kernel is summed up or repeated as timm does.
      rngs: for the weights of a new head, which are those the model begins with; None: zeros.
      **settings: further keywords of the model of a file, which its name does not have.

    Raises:
      SourceError: a ValueError of one paragraph: there is no such source, it cannot be read, it is
        of an unknown model, or its weights do not fit its config.
      ValueError: the model cannot have the sizes asked for.
    """
    sizes = {"num_classes": num_classes, "img_size": img_size, "in_channels": in_channels}
    return open_pretrained(source, name=name, **settings).at(**sizes, rngs=rngs)


def open_pretrained(
    source: str | os.PathLike, *, name: str | None = None, **settings: Any
) -> Opened:
    """Load a pretrained model at its own sizes, which can then be changed.

    Arguments and errors are those of `load_pretrained`.
    """
    source = os.fspath(source)
    on_hub = hub.is_on_hub(source)
    path = hub.fetch(source, _config) if on_hub else Path(source)
    found, state, notes = _describe(path, source, name, settings)
    found.notes[:0] = notes
    for old, new in found.renamed.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    files = tuple(folder.weight_files(path)) if path.is_dir() else (path,)
    model = _loaded(source, found, state)
    return Opened(source, found, model, files, path.name if on_hub else None)


def _describe(path: Path, source: str, name: str | None, settings: dict[str, Any]):
    """(description, tensors by name, notes on reading them) of a folder or file."""
    if not os.path.exists(path):
        raise SourceError(
            f"{source}: there is no such folder or file. Check the path; a model on the Hugging "
            "Face hub is hf:ORG/NAME, one of timm's timm/NAME.TAG."
        )
    if not path.is_dir():
        if name is None:
            raise SourceError(
                f"{source} is a file of weights: say of which model, such as "
                'name="vit_base_patch16_224".'
            )
        state, notes = folder.open_file(path)
        return file.describe(path, name, settings, state), state, notes
    if name is not None or settings:
        given = ", ".join([*(["name"] if name else []), *settings])
        raise SourceError(f"{source} is a folder, whose config.json says the model: leave {given}.")
    config = _config(path)
    if "model_type" not in config:
        return timm.describe(config), *folder.open_weights(path)
    state, notes = folder.open_weights(path)
    given = path / folder.PREPROCESSOR
    preprocessor = read_fields(given) if given.is_file() else None
    return huggingface.describe(config, preprocessor, state), state, notes


def _config(path: Path) -> Fields:
    """The config.json of a folder, which is that of a model known here."""
    if not (path / folder.CONFIG).is_file():
        raise SourceError(
            f"{path} has no {folder.CONFIG}: it is no folder of transformers or timm. Of a file of "
            "weights give the path of the file, and name=."
        )
    config = read_fields(path / folder.CONFIG)
    if "model_type" in config:
        huggingface.check(config)
    elif "architecture" in config:
        timm.describe(config)
    else:
        raise SourceError(
            f"{config.path} has neither model_type (of transformers) nor architecture (of timm), "
            "so that it describes no model known here."
        )
    return config


def _loaded(source: str, found: Description, state: dict[str, Any]) -> nnx.Module:
    """The model with the weights, as its source describes it."""
    try:
        model = registry.abstract_model(found.name, **found.settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise SourceError(f"{source} describes a {found.name} that cannot be: {error}") from None
    try:
        with folder.noted(found.notes):
            torch_weights.load(model, state)
    except torch_weights.Misfit as misfit:
        problems = misfit.problems
        told = "; ".join(map(str, problems[:_SHOWN]))
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        sizes = ", ".join(f"{key}={value!r}" for key, value in found.settings.items())
        raise SourceError(
            f"The weights of {source} are not those of {found.name} with {sizes}: {told}{more}. "
            "Nothing was loaded: fetch it again, or put right what describes it."
        ) from None
    except ValueError as error:
        raise SourceError(f"{source}: {error}") from None
    return model


def _changed(model, found: Description, wanted: dict[str, Any], rngs) -> nnx.Module:
    """The model at the sizes that were asked for; the description follows."""
    keywords = registry.model_keywords(found.name)
    steps, own = found.preprocessing, found.settings.get("img_size")
    if own is not None and "img_size" not in wanted and steps.size != own:
        # The library does so on its way: DINOv2 learned at 518 pixels and is shown 224.
        if steps.size % found.settings.get("patch_size", keywords["patch_size"]):
            found.preprocessing = steps.at(own)
        else:
            wanted = wanted | {"img_size": steps.size}
    given = {key: found.settings.get(key, keywords.get(key)) for key in wanted}
    changes = {k: v for k, v in wanted.items() if k in keywords and v != given[k]}
    if changes:
        model = adapt(model, found, changes, rngs)
    if "num_classes" in changes:
        found.class_names = None
    steps = found.preprocessing
    if "img_size" in wanted and wanted["img_size"] != steps.size:
        steps = steps.at(wanted["img_size"])
    found.preprocessing = steps.with_channels(wanted.get("in_channels", steps.channels))
    return model


def _names(found: Description) -> tuple[str, ...]:
    keywords = registry.model_keywords(found.name)
    count = found.settings.get("num_classes", keywords.get("num_classes", 0))
    names = found.class_names
    if names is not None and len(names) == count:
        return names
    return tuple(f"class {k}" for k in range(count))
