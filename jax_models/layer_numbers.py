"""Where each parameter of a model stands between the images and the head, by its path.

Rates that fall from the head to the images (`config.optim.layer_decay`) follow from it, and what a
head is that trains alone. A family registers its table of regexes beside its models.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax_models import registry


class Layers(NamedTuple):
    """Regexes that a parameter's path, such as `blocks.0.mlp.fc1.bias`, begins with.

    What none matches, such as the last norm, belongs to the last layer, that of the head.

    Attributes:
      stem: parameters of the first layer.
      block: those of the layers between; its groups are the numbers that order them, and one that
        takes no part in the match counts as 0.
      head: what gives logits of features.
    """

    stem: str
    block: str
    head: str = r"head\."


_LAYERS: dict[str, Layers] = {}  # by family


def register(layers: Layers, *builds: Callable) -> None:
    """Register the table of families, given by the functions that build them."""
    for build in builds:
        _LAYERS[build.__name__] = layers


def of_family(name: str) -> Layers:
    """The table of a model.

    Raises:
      ValueError: no model has that name, or its family has no table.
    """
    family = registry.family(name)
    if family not in _LAYERS:
        raise ValueError(
            f"Nothing is known of the order of the layers of {name!r}: register a table beside it, "
            "see jax_models.layer_numbers."
        )
    return _LAYERS[family]


def numbers(name: str, paths: Sequence[str]) -> list[int]:
    """The number of the layer of each parameter: 0 for the stem, then 1, 2, …, the head last.

    Args:
      name: of the model.
      paths: of all its parameters.

    Raises:
      ValueError: as `of_family` does.
    """
    layers = of_family(name)
    first, last = (-1,), (float("inf"),)

    def place(path):
        if re.match(layers.stem, path):
            return first
        match = re.match(layers.block, path)
        return tuple(int(number or 0) for number in match.groups()) if match else last

    places = [place(path) for path in paths]
    between = sorted(set(places) - {first, last})
    known = {first: 0, last: len(between) + 1} | {each: i + 1 for i, each in enumerate(between)}
    return [known[each] for each in places]


def in_head(name: str, path: str) -> bool:
    """Whether a parameter is one of the head's.

    Raises:
      ValueError: as `of_family` does.
    """
    return bool(re.match(of_family(name).head, path))
