"""Signs that matplotlib's own font lacks, such as Chinese ones, out of the fonts that are there."""

import contextlib
import io
import re
import warnings
from collections.abc import Collection, Iterator

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from jax_train.printing import tell_once

_MISSING = re.compile(r"Glyph (\d+) ")
_BOXES = "Last Resort"  # a font that comes with matplotlib and has a box for every sign
_SHOWN = 10  # signs in the note


def render(figure: Figure, **how) -> bytes:
    """A figure as PNG, with signs of any script where an installed font has them, else with a note.

    Args:
      figure: to be saved.
      **how: to `Figure.savefig`.
    """
    png, missing = _render(figure, **how)
    if missing and (families := _families_with(missing)):
        families = [*matplotlib.rcParams["font.family"], *families]
        for text in figure.findobj(Text):
            text.set_fontfamily(families)
        with matplotlib.rc_context({"font.family": families}):
            png, missing = _render(figure, **how)
    if missing:
        some = " ".join(sorted(missing)[:_SHOWN]) + " …" * (len(missing) > _SHOWN)
        tell_once(
            f"note: no installed font has some signs of names ({some}), which are boxes in "
            "pictures. A font such as Noto Sans CJK has them."
        )
    return png


def _render(figure: Figure, **how) -> tuple[bytes, set[str]]:
    """The figure as PNG, and the signs that are missing in it."""
    file = io.BytesIO()
    with missing_signs() as missing:
        figure.savefig(file, format="png", **how)
    return file.getvalue(), missing


@contextlib.contextmanager
def missing_signs() -> Iterator[set[str]]:
    """Collect the signs that no font has instead of warning of each; other warnings go through."""
    missing = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield missing
    for warning in caught:
        if glyph := _MISSING.match(str(warning.message)):
            missing.add(chr(int(glyph[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _families_with(signs: Collection[str]) -> list[str]:
    """Families of installed fonts that have as many of the signs as possible, few of them."""
    left, families = set(signs), []
    for family, path in _installed():
        if not left:
            break
        with contextlib.suppress(OSError, RuntimeError):  # a file that is no font after all
            has = {sign for sign in left if FT2Font(path).get_char_index(ord(sign))}
            families += [family] * bool(has)
            left -= has
    return families


def _installed() -> Iterator[tuple[str, str]]:
    """Family and file of the fonts there are; those that matplotlib does not know yet come last."""
    fonts = font_manager.fontManager
    known = list(fonts.ttflist)
    yield from ((f.name, f.fname) for f in known if not f.name.startswith(_BOXES))
    for path in sorted(set(font_manager.findSystemFonts()) - {f.fname for f in known}):
        with contextlib.suppress(Exception):  # of many kinds: a font it cannot use
            fonts.addfont(path)
            yield fonts.ttflist[-1].name, path
