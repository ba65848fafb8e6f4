"""What is wrong with a state dict, as data."""

import os
from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """What is wrong with one entry.

    Attributes:
      kind: 'missing', 'unexpected', 'twice', 'misshapen', 'no array', 'not numbers', 'not finite',
        'negative' or 'no counts'.
      name: of the entry.
      says: the rest of a sentence that begins with the name.
      expected: the shape that the model has, where there is one.
      found: the shape of the entry, where it is another.
    """

    kind: str
    name: str
    says: str = ""
    expected: tuple[int, ...] | None = None
    found: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.kind}: {shown(self.name)}{self.says}"


class Misfit(ValueError):
    """A state dict does not fit a model, and nothing was loaded.

    Args:
      problems: all of them.
      path: of the file it came from.
      layout: that it was taken for, where there are several.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        path: str | os.PathLike | None = None,
        layout: str | None = None,
    ):
        self.problems, self.layout = list(problems), layout
        begins = "" if path is None else f"{path}: "
        taken = "" if layout is None else f"; it was taken for one of layout {layout!r}"
        plural = "s" * (len(self.problems) != 1)
        many = f"({len(self.problems)} problem{plural}; nothing was loaded{taken}):"
        lines = [f"{begins}The state dict does not fit the model {many}", *self.problems]
        super().__init__("\n  ".join(map(str, lines)))


_LONGEST_NAME = 200  # characters of an unknown name in a message


def shown(name) -> str:
    """A name from a file, safe to print: on one line, and not without end."""
    text = name if isinstance(name, str) and name.isprintable() and name else repr(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"
