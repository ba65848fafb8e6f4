"""Classes of a data set among those of a model, by their names."""

import re
from collections.abc import Sequence

from jax_train.errors import UserError, close
from jax_train.printing import counted, listing

_WORDNET = re.compile(r"n\d{8}")  # ImageNet's folders; their order is that of its classes
_SHOWN = 60  # columns of names in a message


def find_classes(
    source: str, known: Sequence[str], data: str, wanted: Sequence[str]
) -> tuple[list[int], list[str]]:
    """Return the number that each class of a data set has in a model, and notes.

    A name is one of the model's, or one of several that the model gives a class with commas
    between, as ImageNet's have them, and gives no other. Case, `_` and `-` do not matter. As many
    classes as the model has are taken in their order where the model's source does not name its
    own, and where they are ImageNet's by WordNet's numbers.

    Args:
      source: of the model, for messages.
      known: names of its classes.
      data: name of the data set, for messages.
      wanted: names of its classes.

    Raises:
      UserError: a class is not among the model's, or two are one there.
    """
    if len(known) == len(wanted):
        if all(name == f"class {k}" for k, name in enumerate(known)):
            told = f"{source} does not name its classes: those of {data} are taken in their order"
            return list(range(len(wanted))), [told]
        if len(known) == 1000 and all(map(_WORDNET.fullmatch, wanted)):
            told = "the classes are ImageNet's by number: they are taken in their order"
            return list(range(len(wanted))), [told]
    numbers = _numbers(known)
    found = {name: numbers.get(_plain(name)) for name in wanted}
    unknown = [name for name, number in found.items() if number is None]
    if len(unknown) == len(wanted):
        raise UserError(
            f"No class of {data} is one of {source}: {listing(wanted, _SHOWN)} in the data, "
            f"{listing(known, _SHOWN)} in the model. Name the classes as the model does; for "
            "classes of your own train a model."
        )
    if unknown:
        near = close(_plain(unknown[0]), numbers)
        hint = f" Is {unknown[0]!r} its {known[numbers[near]]!r}?" if near else ""
        raise UserError(
            f"{source} does not know {len(unknown):,} of the "
            f"{counted(len(wanted), 'class', 'classes')} of {data}: {listing(unknown, _SHOWN)}."
            f"{hint} Name them as the model does, or leave them out."
        )
    first = {}
    for name, number in found.items():
        if (other := first.setdefault(number, name)) != name:
            raise UserError(
                f"{other!r} and {name!r} of {data} are one class of {source}, {known[number]!r}. "
                "Join them, or leave one out."
            )
    return list(found.values()), []


def _numbers(known: Sequence[str]) -> dict[str, int]:
    """The class of each name that only one class has; whole names come before parts."""
    whole, parts = {}, {}
    for number, name in enumerate(known):
        whole.setdefault(_plain(name), set()).add(number)
        for part in name.split(","):
            parts.setdefault(_plain(part), set()).add(number)
    return {name: min(numbers) for name, numbers in (parts | whole).items() if len(numbers) == 1}


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_-]", " ", name).casefold().split())
