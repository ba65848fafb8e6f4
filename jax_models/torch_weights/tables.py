"""Name tables: where the tensors of a model stand in PyTorch state dicts, layout by layout."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from flax import nnx

from jax_models import registry

SOURCE = "source"  # the layout of the checkpoints of a model's source, which is the mirror's


class TorchTensor(NamedTuple):
    """Where one variable of a model stands in a PyTorch state dict.

    Attributes:
      name: in the state dict; several names for tensors that are stacked along the first axis.
      shape: `f(model, shape)` gives the shape there, where it is another than the layout rule's.
      per_slot: the source keeps one per place in the batch, [batch, …]; the first one counts.
      beside: the source keeps it in its checkpoint, but outside the state dict.
      hint: what to do when it is missing.
    """

    name: str | tuple[str, ...]
    shape: Callable[[nnx.Module, tuple[int, ...]], tuple[int, ...]] | None = None
    per_slot: bool = False
    beside: bool = False
    hint: str = ""


# A module's path, or a variable's, and what PyTorch calls it. A word in braces stands for any one
# there is, such as '{i}' for the number of a block; '{n}' is in PyTorch's name one more than '{i}'.
Table = Mapping[str, str | TorchTensor]
_TABLES: dict[str, dict[str, Table]] = {}  # layout -> family of models -> its table


def register(layout: str, tables: Mapping[str, Table]) -> None:
    """Make the name tables of families, by their names, known in a layout."""
    _TABLES.setdefault(layout, {}).update(tables)


def finder(model: nnx.Module, layout: str = SOURCE) -> Callable[[str], TorchTensor | None]:
    """Return a function that finds a path of the model in its name table.

    Raises:
      ValueError: the model has no table in that layout.
    """
    name = getattr(model, "model_name", None)
    kind = registry.family(name) if name in registry.list_models() else None
    if kind not in _TABLES[layout]:
        raise ValueError(
            f"No PyTorch names are known of the model {name!r}: build it with "
            "jax_models.create_model, and register a table of them beside it."
        )
    table = [
        (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(ours))), theirs)
        for ours, theirs in _TABLES[layout][kind].items()
    ]

    def find(path):
        for pattern, theirs in table:
            if match := pattern.fullmatch(path):
                place = theirs if isinstance(theirs, TorchTensor) else TorchTensor(theirs)
                words = {"n": int(match.groupdict().get("i", 0)) + 1, **match.groupdict()}
                if isinstance(place.name, str):
                    return place._replace(name=place.name.format(**words))
                return place._replace(name=tuple(name.format(**words) for name in place.name))
        return None

    return find
