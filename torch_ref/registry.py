"""Models by name."""

from collections.abc import Callable

from torch import nn

_MODELS: dict[str, type[nn.Module]] = {}


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register the class below, called with a model's settings, under its name."""

    def add(model):
        _MODELS[name] = model
        return model

    return add


def list_models() -> list[str]:
    """Return the sorted names of the registered models."""
    return sorted(_MODELS)


def create_model(name: str, **settings) -> nn.Module:
    """Build a model with the constructor keywords of the Flax model of that name.

    Raises:
      ValueError: no model has that name.
      TypeError: the model has no such keyword.
    """
    if name not in _MODELS:
        raise ValueError(f"Unknown model {name!r}. Known: {', '.join(list_models())}.")
    return _MODELS[name](**settings)
