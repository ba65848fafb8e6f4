"""Pictures of convolutional networks: feature maps, first filters, Grad-CAM, attention of queries.

See `explain` for the arrays and the letters of their shapes.
"""

from collections.abc import Sequence

import numpy as np

from jax_train.drawing import canvas
from jax_train.drawing.canvas import SMALL, WIDTH, Example, Picture
from jax_train.printing import counted

_SHOWN = 6  # channels of a stage
_MARKS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#009e73")  # Okabe and Ito's colours


def feature_maps(
    example: Example, features: Sequence[np.ndarray], channels: Sequence[np.ndarray]
) -> Picture:
    """The strongest channels of each stage, the image above.

    Args:
      example: the image.
      features: per stage [H',W',C'].
      channels: per stage those to show, int [n], see `explain.strongest_channels`.
    """
    tall = [maps.shape[0] / maps.shape[1] for maps in features]
    cell = 0.68 * WIDTH / _SHOWN
    heights = [1.3, *(cell * t + 0.35 for t in tall)]
    note = "Each stage has its own scale of colours. Numbers: channels, strongest first."
    figure = canvas.new_figure(0.9 + sum(heights), "What each stage answers to", note)
    top, *places = figure.subplots(len(features) + 1, 1, height_ratios=heights)
    canvas.show_image(top, example.pixels, f"{canvas.short_name(example.name)}: {example.verdict}")
    rows = zip(places, features, channels, strict=True)
    for number, (axes, maps, chosen) in enumerate(rows, start=1):
        shown, (h, w) = maps[..., chosen].transpose(2, 0, 1), maps.shape[:2]
        row = f"stage {number}\n{h}×{w}"
        columns = [str(i) for i in chosen] + [""] * (_SHOWN - len(chosen))
        scale = {"cmap": canvas.AMOUNT, "vmin": min(0.0, float(shown.min()))}
        tiles = canvas.in_grid(shown, _SHOWN)
        image = canvas.show_mosaic(axes, tiles, [row], columns, **scale)
        canvas.colour_bar(figure, image, axes, "activation", aspect=8)
    alt = (
        f"Feature maps for image {example.name}: the {_SHOWN} channels of largest mean size of "
        f"each of {counted(len(features), 'stage')}, of "
        f"{features[0].shape[0]}×{features[0].shape[1]} values in the first and "
        f"{features[-1].shape[0]}×{features[-1].shape[1]} in the last."
    )
    return Picture("feature_maps", figure, alt)


def grad_cams(
    examples: Sequence[Example],
    maps: Sequence[np.ndarray],
    stages: Sequence[int],
    places: Sequence[tuple[int, int]],
) -> Picture:
    """Grad-CAM of the predicted class laid over each image, a column for each stage.

    Args:
      examples: B images.
      maps: per stage shown [B,H',W'], see `explain.grad_cam`.
      stages: their numbers, from 0.
      places: per stage shown (first pixel, pixels per value), see `ConvNet.stage_pixels`.
    """
    height, width = examples[0].pixels.shape[:2]
    note = (
        "Brightest: speaks most for the predicted class; the scale of each map is its own. "
        "Dark all over: nothing of that stage speaks for the class."
    )
    columns = max(len(maps) + 1, 3)
    title = "What speaks for the predicted class (Grad-CAM)"
    figure, axes = canvas.image_rows(len(examples), columns, height / width, title, note)
    for row, example in enumerate(examples):
        name = canvas.short_name(example.name, 14)
        canvas.show_image(axes[row, 0], example.pixels, name, example.verdict_lines)
        for column in range(1, columns):
            if column > len(maps):
                axes[row, column].set_axis_off()
                continue
            values, (first, step) = maps[column - 1][row], places[column - 1]
            place = axes[row, column]
            extent = _extent(values, first, step)
            canvas.show_overlay(place, example.pixels.mean(axis=2), values, extent)
            h, w = values.shape
            size = "1 value: no place" if h * w == 1 else f"{h}×{w} values"
            canvas.label(place, f"stage {stages[column - 1] + 1}", size)
    canvas.fit(figure, axes)
    alt = (
        f"Grad-CAM of the predicted class for {counted(len(examples), 'image')} at stage "
        f"{', '.join(str(s + 1) for s in stages)}, laid over the images."
    )
    return Picture("grad_cam", figure, alt)


def _extent(values: np.ndarray, first: float, step: float) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a map in pixels, whose middles are whole numbers."""
    h, w = values.shape
    return first - 0.5, first + w * step - 0.5, first + h * step - 0.5, first - 0.5


def query_attention(
    example: Example, maps: np.ndarray, queries: Sequence[tuple[int, int]], stages: Sequence[int]
) -> Picture:
    """Where chosen positions of the feature maps look, in each stage with attention.

    Args:
      example: the image.
      maps: [stages,queries,H'//2,W'//2], see `explain.query_attention`.
      queries: (row, column) of each in pixels of the image.
      stages: their numbers, from 0.
    """
    (height, width), rows, columns = example.pixels.shape[:2], len(stages), len(queries)
    even = 1 / maps[0, 0].size
    note = f"The cross is the asking position. {canvas.even_note(even)} The largest stands below. "
    note += "A value stands for 2×2 positions."
    inches = 2.8 + rows * (0.9 * WIDTH / columns * height / width + 0.45)
    figure = canvas.new_figure(inches, "Where positions look", note)
    head, body = figure.subfigures(2, 1, height_ratios=(1.5, rows * 1.6))
    top = head.subplots()
    canvas.show_image(top, example.pixels, f"{canvas.short_name(example.name)}: {example.verdict}")
    axes = body.subplots(rows, columns, squeeze=False)
    grey = example.pixels.mean(axis=2)
    for c, (y, x) in enumerate(queries):
        colour = _MARKS[c % len(_MARKS)]
        _cross(top, x, y, colour)
        for r, stage in enumerate(stages):
            values, place = maps[r, c], axes[r, c]
            even = 1 / values.size
            canvas.show_overlay(place, grey, values, _extent(values, 0, 2), even)
            _cross(place, x, y, colour)
            canvas.label(place, "", canvas.below_map(values))
            if c == 0:
                place.set_ylabel(f"stage {stage + 1}", fontsize=SMALL)
    alt = (
        f"Attention of {columns} positions of image {example.name} in {rows} stages: where each "
        f"looks. Even attention would be {100 / maps[0, 0].size:.2g} % on each value."
    )
    return Picture("queries", figure, alt)


def _cross(axes, x: float, y: float, colour: str) -> None:
    axes.plot(x, y, "x", color="black", markersize=9, markeredgewidth=4)
    axes.plot(x, y, "x", color=colour, markersize=8, markeredgewidth=2)
