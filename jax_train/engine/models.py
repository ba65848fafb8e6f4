"""The models that a config names: which they are, their keywords, and whether they can be built."""

from collections.abc import Iterable

from ml_collections import ConfigDict

import jax_models
from jax_models.registry import OF_ANY_MODEL
from jax_train.config import ranges
from jax_train.data.split import AUTO
from jax_train.engine import trainable
from jax_train.engine.checks import group_configs
from jax_train.engine.recipe import NO_KEYWORDS, abstract_weights
from jax_train.engine.state import leaf_paths

_OF_ANY_MODEL = frozenset({*NO_KEYWORDS, *OF_ANY_MODEL})


def check(config: ConfigDict) -> None:
    """Check that the models there are can be built as `config.model` says, as far as is known.

    Raises:
      UserError: a model is unknown or named twice, none takes a field that is set, one cannot be
        built that way, a pattern of `config.optim.decay_exclude` matches none of its parameters, or
        nothing would train (see `trainable.plan`). Nothing is checked of a model that is still to
        be found in `config.model.init_from`.
    """
    if config.model.name == AUTO:
        return
    names = (config.model.name, *config.compare)
    for place, name in enumerate(names):
        field, value = ("compare", config.compare) if place else ("model.name", name)
        ranges.check_value(field, name, ranges.one_of(jax_models.list_models()))
        if name in names[:place]:
            raise ranges.refusal(field, value, f"each model once, and {name} is named before")
    configs = model_configs(config).values()
    for field, value in config.model.items():
        if _is_set(value) and not any(_is_set(own.model[field]) for own in configs):
            expected = f"no value, because {', '.join(names)} has no such keyword"
            raise ranges.refusal(f"model.{field}", value, expected, "Leave it unset.")
    for own in configs:
        paths = leaf_paths(abstract_weights(_with_a_size(own)).params)
        if any(one.optim.weight_decay > 0 for one in (own, *group_configs(own))):
            trainable.check_patterns("optim.decay_exclude", config.optim.decay_exclude, paths)
        trainable.plan(own, paths)


def _is_set(value) -> bool:
    return value is not None and value is not False


def leave_out_sizes(config: ConfigDict, given: Iterable[str]) -> None:
    """Unset, in place, what a recipe says of its own model where another was named by hand.

    Args:
      config: as it is after the command line.
      given: the fields of the command line. Those of `config.model` stay, to be checked.
    """
    given, names = set(given), {config.model.name, *config.compare} - {AUTO}
    if "model.name" not in given or not names <= set(jax_models.list_models()):
        return
    known = _OF_ANY_MODEL.union(*map(jax_models.model_keywords, names))
    with config.unlocked():
        for field in set(config.model) - known:
            if f"model.{field}" not in given:
                config.model[field] = None


def model_configs(config: ConfigDict) -> dict[str, ConfigDict]:
    """One config for each model: `config.model.name`, then those of `config.compare`.

    Each keeps those fields of `config.model` that its model has, and differs in nothing else.

    Returns:
      Configs by name of the model, with an empty `compare`.
    """
    return {name: _of_model(config, name) for name in (config.model.name, *config.compare)}


def _of_model(config: ConfigDict, name: str) -> ConfigDict:
    known = _OF_ANY_MODEL.union(jax_models.model_keywords(name))
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.compare = ()
        own.model.name = name
        for field in own.model:
            if field not in known:
                own.model[field] = None
        own.model.scan_layers &= jax_models.can_scan(name)
    return own


def _with_a_size(config: ConfigDict) -> ConfigDict:
    """Set the size of the images, if that is left to the data, to one that the patches tile."""
    model, default = config.model, jax_models.model_keywords(config.model.name).get("img_size")
    if model.img_size is None and default is not None:
        patch = model.patch_size or 1
        known = config.augment.crop_size or config.augment.resize or config.data.image_size
        model.img_size = known or -(-default // patch) * patch
    config.dtype = "float32"  # float64 is not switched on yet, and shapes are all that counts
    return config
