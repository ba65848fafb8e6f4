"""The one exception that commands turn into a paragraph on stderr instead of a traceback."""

import difflib
import sys
from collections.abc import Callable

from jax_train.printing import as_paragraph


class UserError(ValueError):
    """Something the user can put right.

    The message names the field or file, its value, what was expected, and what to do next.
    Further lines that are indented are printed as they are.
    """


class Incomplete(str):
    """What a command prints that could not do all it was asked: the exit code is 1."""


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code, or 2 after a UserError, 130 when interrupted."""
    try:
        code = command()
    except UserError as error:
        print(as_paragraph(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code or 0


def nearest(word: str, known) -> str:
    """Return ' (did you mean …?)' or, when nothing is near, the list of what is known."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if matches:
        return f" (did you mean {matches[0]}?)"
    return f" (there are: {', '.join(sorted(known))})"
