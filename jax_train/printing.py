"""What commands print, at most 80 columns wide, and the CSV files they write."""

import math
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path

WIDTH = 80  # columns of what is printed


def shorten(text: str, width: int) -> str:
    """Cut a text that is longer than `width` characters, and mark that by '…'."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def figure(value: float | None, form: str) -> str:
    """A number in a format such as '7.2%'; where there is none (None, nan, inf) a dash as wide."""
    if value is not None and math.isfinite(value):
        return format(value, form)
    return "–".rjust(int(re.match(r"\d*", form)[0] or 0))


def progress_bar(total: int, what: str, show: bool = True):
    """Return a tqdm bar on stderr that shows up after 2 s, and only on a terminal."""
    from tqdm import tqdm

    disable = None if show else True  # None is tqdm's way to say: unless stderr is a terminal
    return tqdm(total=total, desc=what, unit=" images", delay=2, leave=False, disable=disable)


def as_paragraph(text: str) -> str:
    """Wrap text to the terminal; paths and commands stay whole, so that they can be copied."""
    width = shutil.get_terminal_size().columns
    lines = []
    for line in text.splitlines():
        if line.startswith("  "):
            lines.append(line)
        else:
            lines += textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def note(text: str) -> None:
    """Print a note for people on stderr."""
    print(as_paragraph(f"note: {text}"), file=sys.stderr)


def readable(path: Path) -> str:
    """A path as text of one line; bytes and signs that cannot be printed are spelled out."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
