"""Models by name: a decorator to register one, and the two calls that find them again."""

import difflib
import fnmatch
import inspect
from collections.abc import Callable

from flax import nnx

_MODELS: dict[str, Callable[..., nnx.Module]] = {}


def register(build: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
    """Register a function `build(*, rngs, **settings)` under its own name.

    Raises:
      ValueError: another model has that name.
    """
    if build.__name__ in _MODELS:
        raise ValueError(f"A model named {build.__name__!r} is registered already.")
    _MODELS[build.__name__] = build
    return build


def list_models(pattern: str = "*") -> list[str]:
    """Return the sorted names of the registered models that match a shell-style pattern."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_keywords(name: str) -> dict[str, object]:
    """Return the constructor keywords of a model and their defaults.

    Raises:
      ValueError: no model has that name; the message lists those there are.
    """
    parameters = inspect.signature(_find(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "rngs"}


def create_model(
    name: str, *, rngs: nnx.Rngs, remat: bool = False, scan_layers: bool = False, **settings
) -> nnx.Module:
    """Build a registered model.

    Args:
      name: one of `list_models()`.
      rngs: random streams; the initial weights are drawn from `rngs.params`.
      remat: in training, work blocks and stages out again for the gradient instead of keeping
        their inside: less memory, about a third more computation, the same results.
      scan_layers: run the blocks of a ViT in a loop whose inside is compiled once: a smaller
        program, which on CPUs does not compile faster (docs/performance.md); slower steps.
      **settings: constructor keywords of the model, see `model_keywords(name)`.

    Returns:
      The model. Wrap the call in `nnx.eval_shape` to get shapes without allocating weights.

    Raises:
      ValueError: unknown name or keyword, or a value the model cannot be built with.
    """
    build, known = _find(name), model_keywords(name)
    for key in settings:
        if key not in known:
            raise ValueError(
                f"Model {name!r} has no keyword {key!r}{_nearest(key, known)}. "
                f"It takes: {', '.join(known)}."
            )
    model = build(rngs=rngs, **settings)
    if remat:
        model.remat = True
    if scan_layers:
        if not hasattr(model, "scan_layers"):
            raise ValueError(
                f"scan_layers=True needs blocks that are alike, which {name!r} has not: leave it "
                "out, or choose a ViT."
            )
        model.scan_layers = True
    return model


def _find(name: str) -> Callable[..., nnx.Module]:
    if name not in _MODELS:
        raise ValueError(
            f"Unknown model {name!r}{_nearest(name, _MODELS)}. Known: {', '.join(list_models())}."
        )
    return _MODELS[name]


def _nearest(word, known) -> str:
    matches = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
