"""Name tables: where the tensors of a model stand in PyTorch state dicts, layout by layout."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
      converted: its `shape` has other values, which `after_load` and `before_save` see to.
    """

    name: str | tuple[str, ...]
    shape: Callable[[nnx.Module, tuple[int, ...]], tuple[int, ...]] | None = None
    per_slot: bool = False
    beside: bool = False
    hint: str = ""
    converted: bool = False


# A module's path, or a variable's, and what PyTorch calls it. A word in braces stands for any one
# there is, such as '{i}' for the number of a block; '{n}' is in PyTorch's name one more than '{i}'.
# '{root}' in PyTorch's name is the root of `register`.
Table = Mapping[str, str | TorchTensor]
# `f(model, state, root)` changes arrays by PyTorch's names, in place; see `register`.
Convert = Callable[[nnx.Module, dict[str, Any], str], None]


class Names(NamedTuple):
    """The names that one library gives to a family of models; the fields are those of `register`.

    Attributes:
      layout: its name.
      patterns: regex of a path, and PyTorch's name.
    """

    layout: str
    patterns: tuple[tuple[re.Pattern, TorchTensor], ...]
    root: str = ""
    left_out: Mapping[str, str] = {}
    writes: Callable[[nnx.Module], bool] | None = None
    in_memory: Callable[[nnx.Module], bool] | None = None
    after_load: Convert | None = None
    before_save: Convert | None = None

    def find(self, path: str, root: str) -> TorchTensor | None:
        """Where the path of a module or variable stands; None where the table has no other name."""
        for pattern, place in self.patterns:
            if match := pattern.fullmatch(path):
                words = {"n": int(match.groupdict().get("i", 0)) + 1, "root": root}
                words |= match.groupdict()
                if isinstance(place.name, str):
                    return place._replace(name=place.name.format(**words))
                return place._replace(name=tuple(name.format(**words) for name in place.name))
        return None

    def root_in(self, names: Mapping[str, Any]) -> str:
        """The root, if any of the names begins with it: a bare model is saved without."""
        return self.root if any(str(name).startswith(self.root) for name in names) else ""

    def left_out_because(self, name: str, root: str) -> str | None:
        """Why an entry is left out knowingly; None if it is not."""
        bare = str(name).removeprefix(root)
        return next((why for p, why in self.left_out.items() if re.fullmatch(p, bare)), None)


_NAMES: dict[str, list[Names]] = {}  # by family of models


def register(
    layout: str, tables: Mapping[str, Table], *, root: str = "",
    left_out: Mapping[str, str] | None = None,
    writes: Callable[[nnx.Module], bool] | None = None,
    in_memory: Callable[[nnx.Module], bool] | None = None,
    after_load: Convert | None = None, before_save: Convert | None = None,
) -> None:  # fmt: skip
    """Make the names of families of models known in a layout.

    A family's first layout is its own: that of its mirror, and what `export` writes by default.
    A layout may have several tables for a family, such as one for the names in memory: a state dict
    is read by the one that shares most names with it, and written by the first that can.

    Args:
      layout: its name, such as 'timm'.
      tables: by family (the name of the function that builds it), its table.
      root: what stands before the names of a bare model where it is part of a classifier, such as
        'vit.'; names of the table take it with '{root}'. It is written; read it may lack.
      left_out: regex of a whole name without the root -> why it is left out knowingly.
      writes: whether a model can be written so; None for always.
      in_memory: whether the library's modules of a model have these names, which are others than in
        its files; None for never.
      after_load: makes of checked arrays, in their shapes there, those of the model; for what one
        tensor alone does not tell. The tensors it gives another shape are marked `converted`.
      before_save: the reverse.
    """
    more: dict[str, Any] = {"root": root, "left_out": left_out or {}, "writes": writes}
    more |= {"in_memory": in_memory, "after_load": after_load, "before_save": before_save}
    for family, table in tables.items():
        patterns = tuple((_regex(path), _place(theirs)) for path, theirs in table.items())
        _NAMES.setdefault(family, []).append(Names(layout, patterns, **more))


def _regex(path: str) -> re.Pattern:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(path)))


def _place(theirs: str | TorchTensor) -> TorchTensor:
    return theirs if isinstance(theirs, TorchTensor) else TorchTensor(theirs)


def known(model: nnx.Module) -> list[Names]:
    """The names of a model in all layouts there are; its own layout first.

    Raises:
      ValueError: the model has none.
    """
    name = getattr(model, "model_name", None)
    kind = registry.family(name) if name in registry.list_models() else None
    if kind not in _NAMES:
        raise ValueError(
            f"No PyTorch names are known of the model {name!r}: build it with "
            "jax_models.create_model, and register a table of them beside it."
        )
    return _NAMES[kind]


def written(model: nnx.Module, layout: str | None) -> Names:
    """The names by which a model is written in a layout; None: its own.

    Raises:
      ValueError: the model has no names in that layout.
    """
    names = known(model)
    if layout is None:
        return names[0]
    fitting = [n for n in names if n.writes is None or n.writes(model)]
    for each in fitting:
        if layout == each.layout:
            return each
    there = ", ".join(dict.fromkeys(each.layout for each in fitting))
    name = getattr(model, "model_name", None)
    raise ValueError(
        f"layout={layout!r}: {name} as it was built has no names there. It has in: {there}."
    )


def in_memory(model: nnx.Module, layout: str | None) -> Names:
    """The names that a layout's library gives to the modules of a model; raises as `written`."""
    in_files = written(model, layout)
    kin = (names for names in known(model) if names.layout == in_files.layout)
    return next((n for n in kin if n.in_memory and n.in_memory(model)), in_files)
