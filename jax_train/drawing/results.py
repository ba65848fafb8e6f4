"""Pictures of results: learning curves, confusion matrix, accuracy by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_train.drawing import canvas
from jax_train.drawing.canvas import NORMAL, SMALL, Picture
from jax_train.runs.history import History, read_metrics

_LABELS = {"train": "training (as trained)", "val": "validation", "test": "test (final)"}

# Okabe and Ito's colours, told apart with any colour vision; and marks, for print in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


_MARKS = "osD^vPX"


MOST_NAMED = 30  # classes whose names and counts a picture has room for


def curves(histories: dict[str, History]) -> list[Picture]:
    """Loss and top-1 accuracy by epoch: of one run, or of several against one another.

    Args:
      histories: by name of the model. Of several, training loss and validation accuracy are
        drawn; of one, both in training and in validation.
    """
    if len(histories) == 1:
        (history,) = histories.values()
        lines = {"training (as trained)": history.train, "validation": history.val}
        both = [(lines, lines), ("Loss by epoch", "Accuracy by epoch")]
    else:
        train = {name: history.train for name, history in histories.items()}
        val = {name: history.val for name, history in histories.items()}
        both = [(train, val), ("Training loss by epoch", "Validation accuracy by epoch")]
    (losses, accuracies), (first, second) = both
    return [
        _curves("loss", first, "loss (nats)", losses, 1, 1),
        _curves("accuracy", second, "top-1 accuracy (%)", accuracies, 2, 100),
    ]


def _curves(name, title, label, lines, column, scale) -> Picture:
    figure = canvas.new_figure(3.6, title)
    axes = figure.subplots()
    told = []
    for (line, rows), colour, mark in zip(
        lines.items(), _repeat(COLOURS, lines), _repeat(_MARKS, lines), strict=False
    ):
        if not len(rows):
            continue
        x, y = rows[:, 0], scale * rows[:, column]
        axes.plot(x, y, "-", color=colour, marker=mark, markersize=4, label=line,
                  markevery=max(1, len(x) // 20))  # fmt: skip
        best = f", best {y.max():.1f}" if scale == 100 else ""
        told.append(f"{line}: from {y[0]:.3g} to {y[-1]:.3g}{best}")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch", fontsize=NORMAL)
    axes.set_ylabel(label, fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3)
    if told:
        legend = axes.legend(fontsize=SMALL)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return Picture(name, figure, f"{title}, {label}. {'; '.join(told) or 'No validation'}.")


def _repeat(things, over):
    return [things[i % len(things)] for i in range(len(over))]


def confusion(counts: np.ndarray, class_names: Sequence[str], facts: str) -> Picture:
    """The confusion matrix: shares of each true class, with counts where there is room.

    Args:
      counts: int [K,K] by true and predicted class.
      class_names: K names.
      facts: said in the alternative text.
    """
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    named = len(class_names) <= MOST_NAMED
    figure = canvas.new_figure(5.2, "What each class was taken for")
    axes = figure.subplots()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.set_xlabel("predicted class", fontsize=NORMAL)
    axes.set_ylabel("true class", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    if named:
        short = [canvas.short(name, 12) for name in class_names]
        places = np.arange(len(short))
        turned = 90 if max(map(len, short)) > 2 else 0
        axes.set_xticks(places, short, rotation=turned, parse_math=False)
        axes.set_yticks(places, short, parse_math=False)
    if len(class_names) <= 15:
        _write_counts(axes, counts, shares)
    canvas.colour_bar(figure, image, axes, "share of the true class (%)", shrink=0.75)
    return Picture("confusion", figure, f"Confusion matrix of {len(class_names)} classes. {facts}")


def _write_counts(axes, counts, shares) -> None:
    for (true, predicted), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, str(count), ha="center", va="center", color=colour,
                      fontsize=SMALL if counts.max() < 1000 else SMALL - 2)  # fmt: skip


def accuracy_by_class(shares: dict[str, np.ndarray], class_names: Sequence[str]) -> Picture:
    """Accuracy of several models in each class.

    Args:
      shares: by name of the model, [K] in [0, 1].
      class_names: K names.
    """
    places = np.arange(len(class_names))
    figure = canvas.new_figure(1.4 + 0.28 * len(places), "Accuracy by class")
    axes = figure.subplots()
    table = np.array(list(shares.values()))
    axes.hlines(places, 100 * table.min(axis=0), 100 * table.max(axis=0), color="0.75", zorder=1)
    apart = np.linspace(-0.14, 0.14, len(shares))  # equal values must not hide each other
    for (name, values), colour, mark, aside in zip(
        shares.items(), _repeat(COLOURS, shares), _repeat(_MARKS, shares), apart, strict=True
    ):
        axes.scatter(
            100 * values, places + aside, color=colour, marker=mark, label=name, zorder=2, s=36
        )
    axes.set_yticks(places, [canvas.short(name) for name in class_names], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("images of the class that are classified right (%)", fontsize=NORMAL)
    axes.tick_params(labelsize=SMALL)
    axes.grid(alpha=0.3, axis="x")
    legend = axes.legend(fontsize=SMALL, loc="upper left", bbox_to_anchor=(1, 1))
    for text in legend.get_texts():
        text.set_parse_math(False)
    means = ", ".join(f"{name} {100 * values.mean():.1f} %" for name, values in shares.items())
    return Picture(
        "accuracy_by_class", figure, f"Accuracy in each of {len(places)} classes; mean: {means}."
    )


def draw_curves(metrics: Path, png: Path, title: str) -> None:
    """Draw loss and top-1 accuracy against the epoch, for training and validation."""
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(title)
    for axes, column, label in zip(
        figure.subplots(1, 2), ("loss", "top1"), ("loss (nats)", "top-1 accuracy (%)"), strict=True
    ):
        scale = 100 if column == "top1" else 1
        for split, style in {"train": "-", "val": "-", "test": "D"}.items():
            points = [(float(r["epoch"]), scale * float(r[column])) for r in rows
                      if r["split"] == split]  # fmt: skip
            if points:
                # A line of one point cannot be seen.
                mark = "o" if style == "-" and len(points) == 1 else style
                axes.plot(*zip(*points, strict=True), mark, label=_LABELS[split], markersize=5)
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(png, dpi=120)
