"""Names in scripts that matplotlib's own font lacks."""

import io
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from jax_train.drawing import canvas, fonts, results
from jax_train.errors import run_command

NAMES = ["日本", "cat", "日"]


def write_font(path, signs):
    """A font whose signs are black squares."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"u{ord(sign):x}" for sign in signs)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(sign): f"u{ord(sign):x}" for sign in signs})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=1000, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


@pytest.fixture
def installed(monkeypatch):
    """The paths of fonts that are installed besides matplotlib's own."""
    manager, paths = font_manager.fontManager, []
    own = [font for font in manager.ttflist if font.name == "DejaVu Sans" or "Last" in font.name]
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    return paths


def draw():
    picture = results.confusion(np.diag([5, 7, 9]), NAMES, "None.")
    return fonts.render(picture.figure, dpi=50)


def test_signs_come_out_of_an_installed_font(installed, tmp_path, capsys):
    def black(png):
        return (np.asarray(Image.open(io.BytesIO(png)).convert("L")) < 40).sum()

    boxes = black(draw())
    write_font(tmp_path / "squares.ttf", "日本")
    installed.append(str(tmp_path / "squares.ttf"))
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        squares = black(draw())
    assert squares > boxes + 100
    assert capsys.readouterr().err == ""


def test_without_such_a_font_there_is_one_note(installed, capsys):
    def draw_twice():
        draw()
        draw()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # once in each command
            run_command(draw_twice)
            note = " ".join(capsys.readouterr().err.split())
            assert note.count("note: no installed font has some signs of names (日 本)") == 1


def test_laying_out_tells_nothing_of_its_own(installed, capsys):
    figure, axes = canvas.image_rows(1, 1, 1.0, "日本", "日")
    canvas.show_image(axes[0, 0], np.zeros((2, 2, 3)), "日", ["日"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        canvas.fit(figure, axes)
    assert capsys.readouterr().err == ""


def test_other_warnings_of_drawing_are_kept(installed):
    picture = results.confusion(np.diag([5, 7]), ["a", "b"], "None.")

    def warn(*_, **__):
        warnings.warn("something else", UserWarning, stacklevel=1)

    picture.figure.savefig = warn
    with pytest.warns(UserWarning, match="something else"):
        fonts.render(picture.figure)
