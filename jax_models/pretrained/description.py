"""What a source says of its model, in this package's words, and how its files are asked."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax_models import registry
from jax_models.pretrained.errors import SourceError
from jax_models.pretrained.preprocessing import Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_MOST = 1_000_000  # of anything that a config counts: more is a slip, and would take for ever
_MOST_BLOCKS = 1_000
_LEAST_SHARE = 0.001  # of an image


@dataclass
class Description:
    """A model in files.

    Attributes:
      name: of the model, for `create_model`.
      settings: its keywords, as the weights have them.
      preprocessing: of the weights.
      class_names: of the classes; None where the source does not say.
      rule: by which the library of the weights resizes positions, a key of `positions.RULES`.
      renamed: words in the names of the tensors -> what the model of here calls them.
      notes: what a user should know, a sentence each.
    """

    name: str
    settings: dict[str, Any]
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...] | None = None
    rule: str = "timm"
    renamed: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Fields:
    """The fields of a JSON file, each checked when it is asked for.

    Args:
      path: of the file, for messages.
      values: what it holds.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path, self._values = path, values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> Collection[Any]:
        """What all fields hold."""
        return self._values.values()

    def get(self, name: str, default: Any = None) -> Any:
        """A field; `default` where it is absent or null."""
        return self._values[name] if name in self else default

    def part(self, name: str) -> "Fields":
        """The fields of a field that is an object; none where it is absent."""
        return Fields(self.path, self._of(name, {}, dict, "an object"))

    def text(self, name: str, default: str | None = None) -> str:
        """A field that is a string."""
        return self._of(name, default, str, "a string")

    def flag(self, name: str, default: bool | None = None) -> bool:
        """A field that is true or false."""
        return self._of(name, default, bool, "true or false")

    def number(self, name: str, default: float | None = None) -> float:
        """A field that is a number from 0; what is reckoned of it stays finite."""
        value = self._of(name, default, int | float, "a number")
        if isinstance(value, bool) or not 0 <= value <= _MOST:
            self.refuse(name, value, f"a number from 0 to {_MOST:,}")
        return float(value)

    def share(self, name: str, default: float) -> float:
        """A field that is the share of an image that is seen; more than 1 has a border."""
        value = self.number(name, default)
        if not _LEAST_SHARE <= value <= 2:
            self.refuse(name, value, "the share of the image that is seen, such as 0.875")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A field that is a whole number from 1; one that stands twice in a list is one too."""
        value = self.get(name, default)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        return self._checked_count(name, value)

    def depth(self, name: str, default: int | None = None) -> int:
        """A `count` of blocks, which are built one by one."""
        value = self.count(name, default)
        if value > _MOST_BLOCKS:
            self.refuse(name, value, f"up to {_MOST_BLOCKS:,} blocks")
        return value

    def counts(self, name: str, default: list[int] | None = None) -> tuple[int, ...]:
        """A field that is a list of whole numbers from 1."""
        values = self._of(name, default, list, "a list of whole numbers")
        if not values or len(values) > 100:
            self.refuse(name, values, "a list of whole numbers, such as one for each stage")
        return tuple(self._checked_count(name, value) for value in values)

    def depths(self, name: str, default: list[int] | None = None) -> tuple[int, ...]:
        """`counts` of blocks, which are built one by one."""
        values = self.counts(name, default)
        if sum(values) > _MOST_BLOCKS:
            self.refuse(name, list(values), f"up to {_MOST_BLOCKS:,} blocks")
        return values

    def numbers(self, name: str, default: Any = None) -> tuple[float, ...]:
        """A field that is a list of numbers."""
        values = self.get(name, default)
        if not isinstance(values, list | tuple) or not all(
            isinstance(value, int | float) and abs(value) <= _MOST for value in values
        ):
            self.refuse(name, values, "a list of numbers")
        return tuple(map(float, values))

    def mean_and_std(
        self, mean: str, std: str, default: Mapping[str, Any]
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Two fields of these names, lists of a number for each channel; `default` has both."""
        means, stds = self.numbers(mean, default["mean"]), self.numbers(std, default["std"])
        if not stds or len(means) != len(stds) or min(stds) <= 0:
            self.refuse(std, list(stds), f"a number above 0 for each channel, as {mean} has")
        return means, stds

    def expect(self, name: str, *known: Any) -> None:
        """Raise a SourceError where a field is there and none of what is known."""
        if name in self and self._values[name] not in known:
            told = " or ".join(map(repr, known))
            self.refuse(name, self._values[name], f"{told}; the models here know nothing else")

    def refuse(self, name: str, value: Any, expected: str) -> None:
        """Raise a SourceError of one field."""
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        what = f"has no {name}" if value is None else f"says {name}={shown}"
        raise SourceError(
            f"{self.path} {what}; expected {expected}. Fetch the file again, or put it right."
        )

    def _of(self, name: str, default: Any, kind: Any, expected: str) -> Any:
        value = self.get(name, default)
        if not isinstance(value, kind):
            self.refuse(name, value, expected)
        return value

    def _checked_count(self, name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _MOST:
            self.refuse(name, value, f"a whole number from 1 to {_MOST:,}")
        return value


def read_fields(path: Path) -> Fields:
    """Read a JSON file that holds an object.

    Raises:
      SourceError: there is none, or it holds something else.
    """
    try:
        values = json.loads(path.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SourceError(f"{path} cannot be read as JSON ({reason}). Fetch it again.") from None
    if not isinstance(values, dict):
        raise SourceError(f"{path} holds no JSON object but {type(values).__name__}. Check it.")
    return Fields(path, values)


def nearest_name(pattern: str, settings: Mapping[str, Any], default: str) -> str:
    """The registered name whose own keywords agree with the most of the settings."""

    def agreement(name: str) -> tuple[int, bool]:
        own = registry.model_keywords(name)
        return sum(own.get(key) == value for key, value in settings.items()), name == default

    return max(registry.list_models(pattern), key=agreement, default=default)
