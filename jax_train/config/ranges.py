"""What a field of a config may hold, in words and as a predicate, and the voice of refusals.

A room keeps a table beside the code that it guards: CHECKS = {"optim.learning_rate": above(0), …},
an entry for each field. `jax_train.checks` puts the tables together.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeGuard

from ml_collections import ConfigDict

from jax_train.config.fields import flatten
from jax_train.errors import UserError, close, nearest


class Check(NamedTuple):
    """What a field may hold.

    Attributes:
      expected: the words for it, after 'expected'.
      holds: whether a value, of any type, will do.
      cure: what to do, where there is more to say than to change the field.
      names: those there are, of which the nearest is told.
    """

    expected: str
    holds: Callable[[object], bool]
    cure: str = ""
    names: tuple[str, ...] = ()


def refusal(field: str, value: object, expected: str, cure: str = "") -> UserError:
    """Return the error `config.FIELD=VALUE: expected EXPECTED. CURE`."""
    cure = cure or f"Change it in the config file or with --config.{field}=…"
    return UserError(f"config.{field}={value!r}: expected {expected}. {cure}")


def whole(least: int, most: int | None = None, what: str = "a whole number") -> Check:
    """A whole number from `least` up, or to `most`."""
    span = f"of at least {least}" if most is None else f"from {least} to {most}"

    def holds(value):
        return type(value) is int and value >= least and (most is None or value <= most)

    return Check(f"{what} {span}", holds)


def _number(expected: str, holds: Callable[[float], bool], cure: str = "") -> Check:
    return Check(expected, lambda value: _is_finite(value) and holds(value), cure)


def _is_finite(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number; nan and inf pass through many comparisons."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number above all floats
        return False


def above(low: float) -> Check:
    """A number above `low`."""
    return _number(f"a number above {low}", lambda x: x > low)


def at_least(low: float, what: str = "a number") -> Check:
    """A number of at least `low`."""
    return _number(f"{what} of at least {low}", lambda x: x >= low)


def between(low: float, high: float, what: str = "a number") -> Check:
    """A number from `low` to `high`, both included."""
    return _number(f"{what} from {low} to {high}", lambda x: low <= x <= high)


share = between(0, 1)
share_above_0 = _number("a number above 0 up to 1", lambda x: 0 < x <= 1)
rate = _number("a number from 0 up to but not including 1", lambda x: 0 <= x < 1)
switch = Check("true or false", lambda value: isinstance(value, bool))
text = Check("text", lambda value: isinstance(value, str))


def one_of(names: Iterable[str]) -> Check:
    """One of some names."""
    names = tuple(names)
    return Check(f"one of {', '.join(names)}", lambda value: value in names, names=names)


def each(check: Check, expected: str, cure: str = "") -> Check:
    """A tuple of which each element fits a check."""
    return Check(
        expected,
        lambda value: isinstance(value, tuple) and all(check.holds(element) for element in value),
        cure,
    )


def optional(check: Check) -> Check:
    """None, or what fits a check."""
    return check._replace(
        expected=f"{check.expected}, or None",
        holds=lambda value: value is None or check.holds(value),
    )


def check_value(field: str, value: object, check: Check) -> None:
    """Raise a UserError that names the field unless its value fits the check."""
    if not check.holds(value):
        near = close(str(value), check.names)
        cure = f"Did you mean {near}?" if near else check.cure
        raise refusal(field, value, check.expected, cure)


def check_fields(config: ConfigDict, table: Mapping[str, Check]) -> None:
    """Check that a config has exactly the fields of a table, and that each holds what it may.

    Raises:
      UserError: names the field, its value, and what was expected.
    """
    found = flatten(config)
    for field, value in found.items():
        if field not in table:
            inside = [name for name in table if name.startswith(f"{field}.")]
            if inside:
                cure = f"Set them one by one, as in --config.{inside[0]}=…"
                raise refusal(field, value, "a group of fields", cure)
            raise UserError(f"config.{field} is no field{nearest(field, table)}.")
    for field, check in table.items():
        if field not in found:
            group = f"config.{field}".rpartition(".")[0]
            raise UserError(
                f"config.{field} is missing: {group} was replaced as a whole. Set its fields one "
                f"by one instead, as in --config.{field}=…"
            )
        check_value(field, found[field], check)
