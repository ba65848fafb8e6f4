"""Pictures of results: learning curves, confusion matrix, accuracy by class."""

import os
import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from jax_train.drawing import canvas
from jax_train.drawing.canvas import SMALL, Picture
from jax_train.printing import counted, printable, shorten_middle
from jax_train.runs.history import History, read_history

# Okabe and Ito's colours, told apart with any colour vision; and marks, for print in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = "osD^vPX"
_TRAIN, _VAL = "training (as trained)", "validation"
# By name of the figure: label, column of `History`, scale.
_FIGURES = {"loss": ("loss (nats)", 1, 1), "accuracy": ("top-1 accuracy (%)", 2, 100)}
MOST_NAMED = 30  # classes whose names and counts a picture has room for


def curves(histories: dict[str, History]) -> list[Picture]:
    """Loss and top-1 accuracy by epoch: of one run, or of several against one another.

    Args:
      histories: by name of the model. Of several, training loss and validation accuracy are
        drawn; of one, both in training and in validation.
    """
    if len(histories) == 1:
        (history,) = histories.values()
        losses = accuracies = {_TRAIN: history.even_train, _VAL: history.val}
        titles = "Loss by epoch", "Accuracy by epoch"
    else:
        losses = {name: history.even_train for name, history in histories.items()}
        accuracies = {name: history.val for name, history in histories.items()}
        titles = "Training loss by epoch", "Validation accuracy by epoch"
    pictures = []
    for name, title, lines in zip(_FIGURES, titles, (losses, accuracies), strict=True):
        figure = canvas.new_figure(3.6, title)
        facts = _draw(figure.subplots(), name, lines) or "No validation"
        pictures.append(Picture(name, figure, f"{title}, {_FIGURES[name][0]}. {facts}."))
    return pictures


def draw_curves(metrics: str | os.PathLike, png: str | os.PathLike, title: str) -> None:
    """Draw loss and top-1 accuracy of a metrics.csv by epoch, beside each other."""
    history = read_history(Path(metrics).parent)
    lines = {_TRAIN: history.even_train, _VAL: history.val, "test (final)": history.test}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(printable(title), parse_math=False)
    for axes, name in zip(figure.subplots(1, 2), _FIGURES, strict=True):
        _draw(axes, name, lines)
    canvas.save_figure(figure, png, 120)


def _draw(axes: Axes, name: str, lines: dict[str, np.ndarray]) -> str:
    """Draw a figure of rows as in `History` by epoch, a line for each name; say where they go."""
    label, column, scale = _FIGURES[name]
    facts = []
    looks = zip(lines.items(), _labels(lines, 40), _styles(len(lines)), strict=True)
    for (line, rows), listed, style in looks:
        if not len(rows):
            continue
        x, y = rows[:, 0], scale * rows[:, column]
        often = {"markersize": 4, "markevery": max(1, len(x) // 20)}
        axes.plot(x, y, "-", label=listed, **often, **style)
        best = f", best {y.max():.1f}" if scale == 100 else ""
        facts.append(f"{line}: from {y[0]:.3g} to {y[-1]:.3g}{best}")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    canvas.name_axes(axes, "epoch", label)
    axes.grid(alpha=0.3)
    if facts:
        _legend(axes)
    return "; ".join(facts)


def _styles(count: int) -> list[dict[str, str]]:
    """A colour and a mark for each of so many lines, or classes."""
    marks = [_MARKS[i % len(_MARKS)] for i in range(count)]
    colours: Sequence = COLOURS
    if count > len(COLOURS):
        colours = [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.05, 0.95, count))]
    return [{"color": colours[i], "marker": mark} for i, mark in enumerate(marks)]


def _labels(names: Collection[str], most: int) -> list[str]:
    """Labels of lines of at most so many columns, different ones, that a legend lists."""
    labels = [shorten_middle(name, most) for name in names]
    if len(set(labels)) < len(labels):
        labels = [textwrap.fill(name, most) for name in names]
    # It leaves out what begins with '_'.
    return [f" {label}" if label.startswith("_") else label for label in labels]


def _legend(axes: Axes, **place) -> None:
    for text in axes.legend(fontsize=SMALL, **place).get_texts():
        text.set_parse_math(False)


def embedding(
    points: np.ndarray, labels: np.ndarray | None, class_names: Sequence[str], facts: str
) -> Picture:
    """Images as points of the plane, coloured and named by class where they are known.

    Args:
      points: [N,2].
      labels: int [N]; None where they are not known.
      class_names: K names.
      facts: what the points are, for a note and the alternative text.
    """
    figure = canvas.new_figure(5.6, "What the model finds alike", facts)
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set_adjustable("datalim")
    size = float(np.clip(6000 / len(points), 3, 30))
    shown = [] if labels is None else np.unique(labels)
    if labels is None:
        axes.scatter(*points.T, size, COLOURS[0], alpha=0.7, linewidths=0)
    for label, style in zip(shown, _styles(len(shown)), strict=True):
        own = points[labels == label]
        name = canvas.short(class_names[label])
        axes.scatter(*own.T, size, alpha=0.7, linewidths=0, label=name, **style)
        if len(shown) <= MOST_NAMED:
            box = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1}
            axes.text(
                *np.median(own, axis=0), name, fontsize=SMALL, ha="center", va="center",
                bbox=box, parse_math=False,
            )  # fmt: skip
    classes = f" of {counted(len(shown), 'class', 'classes')}" if len(shown) else ""
    images = counted(len(points), "image")
    return Picture("embedding", figure, f"{images}{classes} as points of the plane. {facts}.")


def confusion(counts: np.ndarray, class_names: Sequence[str], facts: str) -> Picture:
    """The confusion matrix: shares of each true class, with counts where there is room.

    Args:
      counts: int [K,K] by true and predicted class.
      class_names: K names.
      facts: said in the alternative text.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = canvas.new_figure(5.2, "What each class was taken for")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    canvas.name_axes(axes, "predicted class", "true class")
    if len(class_names) <= MOST_NAMED:
        short = [canvas.short(name, 12) for name in class_names]
        places = np.arange(len(short))
        turned = 90 if max(map(len, short)) > 2 else 0
        axes.set_xticks(places, short, rotation=turned, parse_math=False)
        axes.set_yticks(places, short, parse_math=False)
    if len(class_names) <= 15:
        _write_counts(axes, counts, shares)
    canvas.colour_bar(figure, image, axes, "share of the true class (%)", shrink=0.75)
    classes = counted(len(class_names), "class", "classes")
    return Picture("confusion", figure, f"Confusion matrix of {classes}. {facts}")


def _write_counts(axes, counts, shares) -> None:
    size = SMALL if counts.max() < 1000 else SMALL - 2
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            style = {"color": "white" if shares[true, predicted] > 0.5 else "black"}
            axes.text(predicted, true, count, ha="center", va="center", fontsize=size, **style)


def accuracy_by_class(shares: dict[str, np.ndarray], class_names: Sequence[str]) -> Picture:
    """Accuracy of several models in each of K classes: by model's name, [K] in [0, 1] or nan."""
    places = np.arange(len(class_names))
    figure = canvas.new_figure(1.4 + 0.28 * len(places), "Accuracy by class")
    axes = figure.subplots()
    table = np.array(list(shares.values()))
    axes.hlines(places, 100 * table.min(axis=0), 100 * table.max(axis=0), color="0.75", zorder=1)
    apart = np.linspace(-0.14, 0.14, len(shares))  # equal values must not hide each other
    styles, labels = _styles(len(shares)), _labels(shares, 30)
    for values, label, style, aside in zip(shares.values(), labels, styles, apart, strict=True):
        axes.scatter(100 * values, places + aside, label=label, zorder=2, s=36, **style)
    axes.set_yticks(places, [canvas.short(name) for name in class_names], parse_math=False)
    axes.set_ylim(len(places) - 0.5, -0.5)  # also of classes that have no mark
    canvas.name_axes(axes, "images of the class that are classified right (%)")
    axes.grid(alpha=0.3, axis="x")
    _legend(axes, loc="upper left", bbox_to_anchor=(1, 1))
    mean = {name: 100 * np.nanmean(values) for name, values in shares.items()}
    means = ", ".join(f"{name} {value:.1f} %" for name, value in mean.items())
    alt = f"Accuracy in each of {counted(len(places), 'class', 'classes')}; mean: {means}."
    return Picture("accuracy_by_class", figure, alt)
