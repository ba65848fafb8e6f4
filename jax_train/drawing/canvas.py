"""What every picture of a model is drawn with: one width, sizes of text, colours, mosaics.

Pictures are 6 inches wide with text of 9 points or more, so that they can be read on a phone. Small
images are enlarged without smoothing: a pixel of a picture is a pixel, or a value, of the model.
"""

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_train.drawing import fonts
from jax_train.errors import UserError
from jax_train.files import write_atomically
from jax_train.printing import columns as columns_of
from jax_train.printing import printable, readable, shorten

WIDTH = 6.0  # inches
DPI = 200
SMALL, NORMAL = 9, 10.5  # points
AMOUNT = "viridis"  # both read well with any colour vision, and in grey
SIGNED = "RdBu_r"
BRIGHT = 4  # times even attention are drawn in full colour: what is nearly even looks dull
_LINE = 80  # characters of the note that fit in a line
_TILE = 16  # values along the longer side of a mosaic's tiles, at least


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
      name: of its file, without ending.
      figure: to be saved, or put into a page.
      alt: what it shows, in a sentence or two, for those who cannot see it.
    """

    name: str
    figure: Figure
    alt: str

    def named(self, end: str) -> "Picture":
        """The same picture with a longer name."""
        return replace(self, name=self.name + end)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write NAME.png into a folder, which is made if missing; return its path.

        Raises:
          UserError: the folder cannot be written.
        """
        return self.save_as(Path(folder) / f"{self.name}.png")

    def save_as(self, path: Path) -> Path:
        """Write a PNG file, whose folder is made if missing; return its path.

        Raises:
          UserError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_figure(self.figure, path, DPI, {"Description": printable(self.alt)})
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}. Choose another place.") from error
        return path


def save_figure(figure: Figure, path: Path, dpi: int, facts: dict[str, str] | None = None) -> None:
    """Write a figure as a PNG file with facts about it; raises OSError."""
    write_atomically(path, fonts.render(figure, dpi=dpi, metadata=facts))


@dataclass(frozen=True)
class Example:
    """An image and what the model says of it.

    Attributes:
      name: for people, such as 'test 3' or 'cat.jpg'.
      pixels: [H,W,C] in [0, 1].
      predicted: name of the likeliest class.
      probability: of that class.
      truth: name of the true class, where it is known.
    """

    name: str
    pixels: np.ndarray
    predicted: str
    probability: float
    truth: str | None = None

    @property
    def verdict(self) -> str:
        """Such as '7 (99 %), right' or '7 (61 %), truly 1'."""
        return f"{short(self.predicted)} ({self._percent})" + self._judged(" ", 18)

    @property
    def verdict_lines(self) -> str:
        """The verdict in lines of at most 15 characters."""
        return f"{short(self.predicted, 15)}\n{self._percent}" + self._judged("\n", 15)

    @property
    def _percent(self) -> str:
        return f"{100 * self.probability:.0f} %"

    def _judged(self, gap: str, most: int) -> str:
        if self.truth is None:
            return ""
        right = self.truth == self.predicted
        return ", right" if right else f", truly{gap}{short(self.truth, most)}"


def short(text: str, most: int = 18) -> str:
    """One line of at most so many columns."""
    return shorten(readable(" ".join(str(text).split())), most)


def short_name(name: str, most: int = 18) -> str:
    """The end of a name, of at most so many columns: there files of one folder differ."""
    name = whole = " ".join(name.split())
    while columns_of(name) > most - (name != whole):
        name = name[1:]
    return name if name == whole else f"…{name}"


def new_figure(height: float, title: str, note: str = "") -> Figure:
    """A figure of the common width with a title and, below, a smaller note; both are wrapped.

    The height, in inches, is without what the note takes. A line break in it starts a new line.
    """
    note = "\n".join(textwrap.fill(printable(line), _LINE) for line in note.split("\n"))
    height += 0.17 * (note.count("\n") + bool(note))
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05)
    title = textwrap.fill(printable(title), 50)
    # Names of classes and files may hold dollar signs, which are no formulas.
    figure.suptitle(title, fontsize=NORMAL + 1, fontweight="bold", parse_math=False)
    if note:
        figure.supxlabel(note, fontsize=SMALL, parse_math=False)
    return figure


def image_rows(
    rows: int, columns: int, tall: float, title: str, note: str
) -> tuple[Figure, np.ndarray]:
    """A figure with a row of axes [rows,columns] for each image; `tall` is height by width."""
    height = 1.2 + rows * (0.92 * tall * WIDTH / columns + 0.6)
    figure = new_figure(height, title, note)
    return figure, figure.subplots(rows, columns, squeeze=False)


def fit(figure: Figure, axes: np.ndarray) -> None:
    """Make a figure as high as images in rows of axes [rows,columns] need to fill the width."""
    for _ in range(2):  # the layout follows the height
        with fonts.missing_signs():  # told when it is saved
            figure.draw_without_rendering()
        lacking = np.vectorize(_lacking_height, otypes=[float])(axes)
        figure.set_figheight(figure.get_figheight() + lacking.max(axis=1).sum())


def _lacking_height(axes: Axes) -> float:
    """Inches that an image lacks to be as wide as its place; less than 0 where some are empty."""
    if not axes.images:
        return -np.inf
    size = axes.figure.get_size_inches()
    given, taken = (axes.get_position(original=place).size * size for place in (True, False))
    return given[0] * taken[1] / taken[0] - given[1]


def label(axes: Axes, title: str = "", below: str = "") -> None:
    """Take the ticks off and write a title above, a line below."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=SMALL, parse_math=False)
    axes.set_xlabel(below, fontsize=SMALL, parse_math=False)


def name_axes(axes: Axes, x: str, y: str = "", size: float = NORMAL) -> None:
    """Write what the axes measure."""
    axes.set_xlabel(x, fontsize=size)
    axes.set_ylabel(y, fontsize=size)
    axes.tick_params(labelsize=SMALL)


def show_image(axes: Axes, pixels: np.ndarray, title: str = "", below: str = "") -> None:
    """Draw an image [H,W,C] in [0, 1]: grey for one channel, colours for three, else the mean."""
    if pixels.shape[2] == 3:
        axes.imshow(pixels, interpolation="nearest")
    else:
        show_grey(axes, pixels.mean(axis=2))
    label(axes, title, below)


def show_grey(axes: Axes, values: np.ndarray) -> None:
    """Draw [H,W] in [0, 1] in grey."""
    axes.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def show_overlay(
    axes: Axes, grey: np.ndarray, values: np.ndarray, extent=None, even: float = 0.0
) -> None:
    """Lay a map over an image: from nothing at 0 to full colour at its largest value.

    Args:
      axes: drawn on.
      grey: the image, [H,W] in [0, 1].
      values: the map, at least 0, of any size; the last image of the axes holds it unchanged.
      extent: left, right, bottom, top of the map in pixels of the image; None: all of it.
      even: what all values of an even map would be; full colour is at least `BRIGHT` times that.
    """
    show_grey(axes, 0.3 + 0.5 * grey)  # black and white behind it would change the colours
    whole = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    colours = {"cmap": AMOUNT, "vmin": 0, "vmax": full_colour(values, even), "alpha": 0.65}
    axes.imshow(values, extent=extent or whole, interpolation="nearest", **colours)
    axes.axis(whole)


def full_colour(values: np.ndarray, even: float = 0.0) -> float:
    """The value of a map that has full colour; see `show_overlay`."""
    return max(float(values.max()), BRIGHT * even) or 1.0


def map_colours(values: np.ndarray, even: float = 0.0) -> np.ndarray:
    """The colours that `show_overlay` gives a map [h,w], uint8 [h,w,3]."""
    colours = colormaps[AMOUNT](values / full_colour(values, even), bytes=True)
    return colours[..., :3]


def mosaic(tiles: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Lay tiles [rows,columns,h,w] out in one array, with NaN between them.

    Small tiles are repeated, value by value, so that the gaps can be narrow.

    Returns:
      (array, (middles of the rows, middles of the columns)).
    """
    scale = -(-_TILE // max(tiles.shape[2:]))
    tiles = tiles.repeat(scale, axis=2).repeat(scale, axis=3)
    rows, columns, h, w = tiles.shape
    gap = round(max(h, w) / 8)
    spaced = np.pad(tiles.astype(float), [(0, 0)] * 2 + [(0, gap)] * 2, constant_values=np.nan)
    array = spaced.swapaxes(1, 2).reshape(rows * (h + gap), -1)[:-gap, :-gap]
    middles = [np.arange(n) * (s + gap) + (s - 1) / 2 for n, s in ((rows, h), (columns, w))]
    return array, tuple(middles)


def in_grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Break a row of tiles [n,h,w] into [rows,columns,h,w], the rest filled with NaN."""
    tiles = np.asarray(tiles, float)
    empty = np.full((-len(tiles) % columns, *tiles.shape[1:]), np.nan)
    return np.concatenate([tiles, empty]).reshape(-1, columns, *tiles.shape[1:])


def show_mosaic(
    axes: Axes, tiles: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = (), **style
):
    """Draw tiles [rows,columns,h,w] as one image with names at the sides; return the image."""
    array, (row_middles, column_middles) = mosaic(tiles)
    image = axes.imshow(array, interpolation="nearest", **style)
    label(axes)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=SMALL)
    if rows:
        axes.set_yticks(row_middles, rows)
    if columns:
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.set_xticks(column_middles, columns)
    return image


def colour_bar(figure: Figure, image, axes, text: str, **options):
    """A colour bar with its unit, which is returned."""
    bar = figure.colorbar(image, ax=axes, **options)
    bar.set_label(text, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return bar


def even_note(even: float) -> str:
    """What the colours of a map of attention weights are to be read by."""
    return (
        f"Even attention is {100 * even:.3g} % everywhere; full colour is at the largest value, or "
        f"at {100 * BRIGHT * even:.3g} % where that is more."
    )


def below_map(values: np.ndarray) -> str:
    """What stands below a map of attention weights whose colours have their own scale."""
    return f"max {100 * values.max():.3g} %"


def show_filters(filters: np.ndarray, title: str, text: str = "") -> Figure:
    """Draw filters [k,h,w,C]: in colours where C is 3, each channel on its own otherwise."""
    count, h, w, channels = filters.shape
    columns = min(8, count)
    if channels == 3:
        # Every filter to its own largest value, around grey.
        scaled = filters / np.maximum(np.abs(filters).max(axis=(1, 2, 3), keepdims=True), 1e-12)
        tiles = [in_grid(channel, columns) for channel in np.moveaxis(0.5 + 0.5 * scaled, -1, 0)]
        text += " Grey: weight 0; each filter to its own largest weight."
        figure = new_figure(mosaic_height(tiles[0]) + 1, title, text.strip())
        show_colour_mosaic(figure.subplots(), tiles)
        return figure
    tiles = in_grid(filters.transpose(0, 3, 1, 2).reshape(count, channels * h, w), columns)
    if channels > 1:
        text += f" In each filter {channels} channels, one below the other."
    figure = new_figure(mosaic_height(tiles) + 1.5, title, text.strip())
    axes = figure.subplots()
    most = np.abs(filters).max()
    image = show_mosaic(axes, tiles, cmap=SIGNED, vmin=-most, vmax=most)
    colour_bar(figure, image, axes, "weight", location="bottom", shrink=0.8, aspect=30)
    return figure


def show_colour_mosaic(axes: Axes, channels: Sequence[np.ndarray]) -> None:
    """Draw tiles of red, green and blue, each [rows,columns,h,w] in [0, 1]; nothing between."""
    array = np.stack([mosaic(tiles)[0] for tiles in channels], axis=-1)
    shown = np.concatenate([np.nan_to_num(array), ~np.isnan(array[..., :1])], axis=-1)
    axes.imshow(shown, interpolation="nearest")
    label(axes)
    axes.spines[:].set_visible(False)


def mosaic_height(tiles: np.ndarray) -> float:
    """Inches of a mosaic as wide as a picture."""
    height, width = mosaic(tiles)[0].shape
    return 0.95 * WIDTH * height / width
