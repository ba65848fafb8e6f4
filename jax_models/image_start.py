"""Parts of models that start from training images in place of random numbers.

A family registers what makes them beside its models; who trains a model gives it the images.
"""

from collections.abc import Callable, Iterable

import numpy as np

from jax_models import registry

# Batches of images as the model takes them, float [B,H,W,C] -> arrays by the paths of parameters.
Start = Callable[[Iterable[np.ndarray]], dict[str, np.ndarray]]

_STARTS: dict[str, Start] = {}  # by family


def register(start: Start, *builds: Callable) -> None:
    """Register what makes parts of families, given by the functions that build them."""
    for build in builds:
        _STARTS[build.__name__] = start


def of_model(name: str) -> Start | None:
    """What makes parts of a model of images; None where all of it starts from random numbers.

    Raises:
      ValueError: no model has that name.
    """
    return _STARTS.get(registry.family(name))
