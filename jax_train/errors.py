"""The one exception that commands turn into a paragraph on stderr instead of a traceback."""

import difflib
import sys
from collections.abc import Callable, Iterable

from jax_train.printing import as_paragraph


class UserError(ValueError):
    """Something the user can put right.

    The message names the field or file, its value, what was expected, and what to do next.
    Further lines that are indented are printed as they are.
    """


def run_command(command: Callable[[], None]) -> int:
    """Run a command and return its exit code: 0; 2 after a UserError; 130 when interrupted."""
    try:
        command()
    except UserError as error:
        print(as_paragraph(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def close(word: str, known: Iterable[str]) -> str | None:
    """Return what a word is likely to be a slip of; None where all that is known is far from it.

    Near is a word of which a letter or two differ, or one that is the other's beginning. A wrong
    suggestion is worse than none.
    """
    ratios = {other: _likeness(word.lower(), other.lower()) for other in known}
    best = max(ratios, key=ratios.get, default=None)
    return best if best is not None and ratios[best] else None


def _likeness(word: str, other: str) -> float:
    """From 0, for words that are not near each other, to 1."""
    short, long = sorted((word, other), key=len)
    ratio = difflib.SequenceMatcher(None, word, other).ratio()
    if short[:1] != long[:1] or len(short) < 3:
        return float(short == long)
    begins = len(short) >= 4 and long.startswith(short)
    return ratio if begins or ratio >= (0.66 if len(long) <= 4 else 0.8) else 0.0


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean …?)' or, when nothing is near, the list of what is known."""
    if match := close(word, known):
        return f" (did you mean {match}?)"
    return f" (there are: {', '.join(sorted(known))})"
