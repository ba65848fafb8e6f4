"""Name tables: where the tensors of a model stand in a PyTorch state dict."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from flax import nnx

SOURCE = "source"  # the layout of the checkpoints of a model's source, which is the mirror's


class TorchTensor(NamedTuple):
    """Where one variable of a model stands in a PyTorch state dict.

    Attributes:
      name: in the state dict; several names for tensors that are stacked along the first axis.
      shape: in the state dict, where it is another than the layout rule gives.
      per_slot: the source keeps one per place in the batch, [batch, …]; the first one counts.
      beside: the source keeps it in its checkpoint, but outside the state dict.
      hint: what to do when it is missing.
    """

    name: str | tuple[str, ...]
    shape: tuple[int, ...] | None = None
    per_slot: bool = False
    beside: bool = False
    hint: str = ""

    def numbered(self, i: str | int) -> "TorchTensor":
        """The same with '{i}' in its names as a number and '{n}' as one more."""
        if isinstance(self.name, str):
            return self._replace(name=self.name.format(i=i, n=int(i) + 1))
        return self._replace(name=tuple(name.format(i=i, n=int(i) + 1) for name in self.name))


# A module's path, or a variable's, and what PyTorch calls it; '{i}' stands for any number.
Table = Mapping[str, str | TorchTensor]
_TABLES: dict[str, dict[str, Callable[[nnx.Module], Table]]] = {}  # model -> layout -> its table


def register(model_name: str, layout: str = SOURCE) -> Callable:
    """Decorate a function that gives, of a built model, its name table in a layout."""

    def add(table):
        _TABLES.setdefault(model_name, {})[layout] = table
        return table

    return add


def finder(model: nnx.Module, layout: str = SOURCE) -> Callable[[str], TorchTensor | None]:
    """Return a function that finds a path of the model in its name table.

    Raises:
      ValueError: the model has no table in that layout.
    """
    name = getattr(model, "model_name", None)
    if layout not in _TABLES.get(name, {}):
        raise ValueError(
            f"No PyTorch names ({layout}) are known of the model {name!r}: build it with "
            "jax_models.create_model, and register a table of them beside it."
        )
    patterns = [
        (re.compile(re.escape(ours).replace(r"\{i\}", r"(\d+)")), theirs)
        for ours, theirs in _TABLES[name][layout](model).items()
    ]

    def find(path):
        for pattern, theirs in patterns:
            if match := pattern.fullmatch(path):
                place = theirs if isinstance(theirs, TorchTensor) else TorchTensor(theirs)
                return place.numbered(*(match.groups() or "0"))
        return None

    return find
