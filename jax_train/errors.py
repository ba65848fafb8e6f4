"""The one exception that commands turn into a paragraph on stderr instead of a traceback."""

import difflib
from collections.abc import Callable

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


def nearest(word: str, known) -> str:
    """Return ' (did you mean …?)' or, when nothing is near, the list of what is known."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if matches:
        return f" (did you mean {matches[0]}?)"
    return f" (there are: {', '.join(sorted(known))})"
