"""What commands print: at most 80 columns wide, and on any terminal, pipe or file.

Everything printed goes through `say`. A stream that is closed, broken or of few signs is no reason
to stop, and nothing that a name holds may drive the terminal.
"""

import codecs
import contextlib
import logging
import math
import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path

WIDTH = 80  # columns of what is printed
_LEAST = 20  # columns that a paragraph takes, however narrow the terminal says it is
_SIGNS = "readable-signs"  # what happens to a sign that a stream cannot take
_INSTEAD = {"…": ".", "–": "-", "×": "x", "±": "~", "\N{NO-BREAK SPACE}": " ", "·": "."}
# What would drive the terminal, or turn the order of the line: all controls but tab and newline.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_WRITTEN = "\u3000\u200c\u200d"  # a space and joiners of scripts, of which isprintable says no


def _replace_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_INSTEAD.get(sign, "?") for sign in found), error.end


_told: set[str] = set()
codecs.register_error(_SIGNS, _replace_signs)


class _LogForPeople(logging.Handler):
    """What is logged as paragraphs on stderr, each once in a command."""

    def emit(self, record: logging.LogRecord) -> None:
        tell_once(self.format(record))


def prepare_streams() -> None:
    """Make a process's streams take whatever it prints, and what it logs go the same way.

    What is closed is opened to nowhere: the next file would get its number, and be printed into.
    """
    _told.clear()
    if not logging.root.handlers:  # nobody else listens
        logging.root.addHandler(_LogForPeople())
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            number = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            with contextlib.suppress(ValueError):  # closed by whoever called
                stream.reconfigure(errors=_SIGNS)


def settle_streams() -> None:
    """Write out what is held back; where that fails, leave nothing for Python to complain of."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            _silence(stream)


def say(text: str, *, error: bool = False) -> OSError | None:
    """Print a text of one or several lines, on stderr where `error`; never raises.

    Signs that the stream cannot take are replaced, and control characters spelled out.

    Returns:
      Why it could not be written; None where it was, or where there is no such stream.
    """
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = printable(text).encode(encoding, _SIGNS).decode(encoding)
    try:
        print(text, file=stream, flush=True)  # without a stream this does nothing
    except BrokenPipeError as broken:
        _silence(stream)
        return broken
    except OSError as failed:
        return failed
    except ValueError:  # closed by whoever called
        pass
    return None


def tell_once(text: str) -> None:
    """Print a paragraph on stderr, unless this command has told it before."""
    if text not in _told:
        _told.add(text)
        say(as_paragraph(text), error=True)


def _silence(stream) -> None:
    """Let a stream end nowhere: it would try again what it holds back, and fail at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def counted(number: int | None, what: str, many: str = "") -> str:
    """Such as '1 image', '1,293 images', '– images' and, with the plural given, '3 classes'."""
    return f"{figure(number, ',')} {what if number == 1 else many or f'{what}s'}"


def columns(text: str) -> int:
    """Columns that a line takes: signs of Chinese, Japanese and Korean take two, accents none."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def shorten(text: str, width: int) -> str:
    """Cut a text that takes more than `width` columns, and mark that by '…'."""
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def shorten_middle(text: str, width: int) -> str:
    """Cut a text of more than `width` columns, in its middle: names differ at their ends."""
    if columns(text) <= width:
        return text
    end = text
    while columns(end) > (width - 1) // 2:
        end = end[1:]
    return shorten(text[: len(text) - len(end)], width - columns(end)) + end


def pad(text: str, width: int) -> str:
    """Fill a text up with spaces to `width` columns."""
    return text + " " * (width - columns(text))


def on_terminal() -> bool:
    """Whether someone watches stderr, where progress is shown."""
    try:
        return sys.stderr.isatty()
    except (ValueError, AttributeError):  # closed, or none at all
        return False


def listing(names: Sequence[str], width: int) -> str:
    """The first of some names, at least one, that fit in `width` columns; … for the rest."""
    text = ""
    for place, name in enumerate(names):
        name = shorten(readable(name), min(24, width - 3))
        longer = f"{text}, {name}" if place else name
        rest = ", …" if place < len(names) - 1 else ""
        if place and columns(longer + rest) > width:
            return f"{text}, …"
        text = longer
    return text


def figure(value: float | None, form: str) -> str:
    """A number in a format such as '7.2%'; where there is none (None, nan, inf) a dash as wide."""
    if value is not None and math.isfinite(value):
        return format(value, form)
    return "–".rjust(int(re.split(r"\D", form)[0] or 0))


def significant(value: float, digits: int) -> str:
    """A number to so many digits, of a larger one all before the point: '0.99', '12', '1,234'."""
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def progress_bar(total: int, what: str, show: bool = True):
    """Return a tqdm bar on stderr that shows up after 2 s, and only on a terminal."""
    from tqdm import tqdm

    hidden = not (show and on_terminal())
    return tqdm(total=total, desc=what, unit=" images", delay=2, leave=False, disable=hidden)


def as_paragraph(text: str) -> str:
    """Wrap text to the terminal; paths and commands stay whole, so that they can be copied."""
    width = max(_LEAST, shutil.get_terminal_size().columns)
    lines = []
    for line in text.splitlines():
        if line.startswith("  "):
            lines.append(line)
        else:
            lines += textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def note(text: str) -> None:
    """Print a note for people on stderr."""
    say(as_paragraph(f"note: {text}"), error=True)


def readable(name: str | Path) -> str:
    """A name as text of one line; bytes and signs that cannot be printed are spelled out."""
    return "".join(
        c if c.isprintable() or c in _WRITTEN else c.encode("unicode_escape").decode()
        for c in _without_bytes(str(name))
    )


def _without_bytes(text: str) -> str:
    """Spell out the bytes that are no text, which Python carries along as surrogates."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a sign that no file system gave
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """A text of any lines in which all that would drive a terminal is spelled out."""
    return _CONTROLS.sub(
        lambda found: found[0].encode("unicode_escape").decode(), _without_bytes(text)
    )
