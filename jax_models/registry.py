"""Models by name: decorators that register them, and the calls that find them again."""

import difflib
import fnmatch
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from jax_models import low_rank
from jax_models.rngs import InitRngs

# Keywords of `create_model` that any model takes, beside those of its own.
OF_ANY_MODEL = ("remat", "scan_layers", "lora_rank", "lora_alpha", "lora_targets")
_MODELS: dict[str, Callable[..., Any]] = {}
_FAMILIES: dict[str, str] = {}  # model -> name of the function that builds it
_NOT_SETTINGS = ("rngs", "remat", "scan_layers")  # how a model begins and runs, not what it is


def register(build: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
    """Register a function `build(*, rngs, remat, **settings)` under its own name.

    One whose model can run its blocks in a loop takes `scan_layers` too (see `create_model`). The
    model's PyTorch names are registered likewise: `torch_weights.tables.register`.

    Raises:
      ValueError: another model has that name.
    """
    return register_as({build.__name__: {}})(build)


def register_as(names: Mapping[str, Mapping[str, object]]) -> Callable[[Callable], Callable]:
    """Register a function, as `register` does, under several names.

    Args:
      names: each name and the defaults of keywords that differ from the function's own.

    Raises:
      ValueError: another model has one of the names.
    """

    def add(build):
        for name, settings in names.items():
            if name in _MODELS:
                raise ValueError(f"A model named {name!r} is registered already.")
            _MODELS[name] = functools.partial(build, **settings)
            _FAMILIES[name] = build.__name__
        return build

    return add


def family(name: str) -> str:
    """Return the name of the function that builds a model: that of its kind, whatever its size.

    Raises:
      ValueError: as `model_keywords` does.
    """
    _find(name)
    return _FAMILIES[name]


def list_families() -> dict[str, list[str]]:
    """Return the sorted names of the models of each family."""
    families: dict[str, list[str]] = {}
    for name in sorted(_MODELS):
        families.setdefault(_FAMILIES[name], []).append(name)
    return families


def list_models(pattern: str = "*") -> list[str]:
    """Return the sorted names of the registered models that match a shell-style pattern."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_keywords(name: str) -> dict[str, Any]:
    """Return the constructor keywords of a model and their defaults.

    Raises:
      ValueError: no model has that name; the message lists those there are.
    """
    parameters = inspect.signature(_find(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in _NOT_SETTINGS}


def can_scan(name: str) -> bool:
    """Whether a model takes `scan_layers=True`: its blocks are alike.

    Raises:
      ValueError: as `model_keywords` does.
    """
    return "scan_layers" in inspect.signature(_find(name)).parameters


def create_model(
    name: str, *, rngs: nnx.Rngs | InitRngs, remat: bool = False, scan_layers: bool = False,
    lora_rank: int | None = None, lora_alpha: float | None = None,
    lora_targets: Sequence[str] | None = None, **settings,
) -> nnx.Module:  # fmt: skip
    """Build a registered model.

    Args:
      name: one of `list_models()`.
      rngs: random streams; the initial weights are drawn from `rngs.params`.
      remat: in training, work blocks and stages out again for the gradient instead of keeping
        their inside: less memory, about a third more computation, the same results.
      scan_layers: run the blocks of a ViT in a loop whose inside is compiled once: a smaller
        program, which on CPUs does not compile faster (docs/performance.md); slower steps.
      lora_rank, lora_alpha, lora_targets: adapters, see `low_rank.add_adapters`; None for none.
      **settings: constructor keywords of the model, see `model_keywords(name)`.

    Returns:
      The model. Wrap the call in `nnx.eval_shape` to get shapes without allocating weights.

    Raises:
      ValueError: unknown name or keyword, or a value the model cannot be built with.
    """
    build, known = _find(name), model_keywords(name)
    for key in settings:
        if key not in known:
            hint = f"{_nearest(key, known)}. It takes: {', '.join(known)}."
            raise ValueError(f"Model {name!r} has no keyword {key!r}{hint}")
    if can_scan(name):
        settings["scan_layers"] = scan_layers
    elif scan_layers:
        raise ValueError(
            f"scan_layers=True needs blocks that are alike, which {name!r} has not: leave it "
            "out, or choose a ViT."
        )
    model = build(rngs=rngs, remat=remat, **settings)
    model.model_name = name  # by which `torch_weights` finds its names
    adapters: dict[str, Any] = {"lora_alpha": lora_alpha, "lora_targets": lora_targets}
    if lora_rank is not None:
        low_rank.add_adapters(model, rngs, lora_rank=lora_rank, **adapters)
    elif given := [key for key, value in adapters.items() if value is not None]:
        raise ValueError(f"{given[0]}={adapters[given[0]]!r}: expected lora_rank beside it.")
    return model


def abstract_model(name: str, **settings) -> nnx.Module:
    """A model as `create_model` builds it, with shapes in place of values; nothing is drawn."""
    rngs = InitRngs(jax.random.key(0))
    return nnx.eval_shape(lambda: create_model(name, rngs=rngs, **settings))


def _find(name: str) -> Callable[..., Any]:
    if name not in _MODELS:
        known = f"{_nearest(name, _MODELS)}. Known: {', '.join(list_models())}."
        raise ValueError(f"Unknown model {name!r}{known}")
    return _MODELS[name]


def _nearest(word, known) -> str:
    matches = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
