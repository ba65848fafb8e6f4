"""The one exception that commands turn into a paragraph on stderr instead of a traceback."""

import difflib
from collections.abc import Callable, Iterable

from jax_train.printing import as_paragraph, prepare_streams, say, settle_streams

BROKEN_PIPE = 141  # as of a program that SIGPIPE ended: its reader wanted no more


class UserError(ValueError):
    """Something the user can put right.

    The message names the field or file, its value, what was expected, and what to do next.
    Further lines that are indented are printed as they are.
    """


class Incomplete(str):
    """What a command prints that could not do all it was asked: the exit code is 1."""


def run_command(command: Callable[[], str | None]) -> int:
    """Run a command, print what it returns, and return the exit code.

    It is 0; 1 where that is `Incomplete`; 2 after a UserError, or when the text cannot be written;
    130 when interrupted; 141 when whoever reads the output has left, as `head` does.
    """
    prepare_streams()
    try:
        text = command()
        failed = None if text is None else say(text)
        if failed and not isinstance(failed, BrokenPipeError):
            raise UserError(f"The output cannot be written: {failed.strerror or failed}.")
        return BROKEN_PIPE if failed else int(isinstance(text, Incomplete))
    except UserError as error:
        say(as_paragraph(f"error: {error}"), error=True)
        return 2
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        say("interrupted", error=True)
        return 130
    finally:
        settle_streams()


def close(word: str, known: Iterable[str]) -> str | None:
    """Return what a word is likely to be a slip of; None where all that is known is far from it.

    Near is a word of which a letter or two differ, or one that is the other's beginning. A wrong
    suggestion is worse than none.
    """
    ratios = {other: _likeness(word.lower(), other.lower()) for other in known}
    best = max(ratios, key=lambda other: ratios[other], default=None)
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
