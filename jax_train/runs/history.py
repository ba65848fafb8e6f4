"""metrics.csv read back: how a run learned."""

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_OF_ALL = ("step", "epoch", "split", "loss", "top1", "top5", "images_per_sec")
COLUMNS = (*_OF_ALL, "learning_rate", "seconds", "precision_macro", "recall_macro", "f1_macro")


@dataclass(frozen=True)
class History:
    """How a run learned, by epoch.

    Attributes:
      train: rows (epoch, mean loss in nats, top-1 in [0, 1]) of the log points [n,3].
      val: rows of the same of the validations [m,3]; m may be 0.
      test: the same of the final test [1,3]; empty before.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @property
    def even_train(self) -> np.ndarray:
        """Rows [k,3] as of `train`, each a mean over about as many steps.

        A log point soon after the end of an epoch, or an end soon after a log point, is a mean of
        few steps and strays; such rows are joined until they span as much as the widest.
        """
        spans = np.maximum(np.diff(self.train[:, 0], prepend=0), 1e-9)
        sums = np.column_stack([spans, spans[:, None] * self.train[:, 1:]])
        least = 0.9 * spans.max(initial=0)
        joined: list[tuple[float, np.ndarray]] = []  # epoch, sums of its rows
        for epoch, row in zip(self.train[:, 0], sums, strict=True):
            if joined and joined[-1][1][0] < least:
                row = joined.pop()[1] + row
            joined.append((epoch, row))
        if len(joined) > 1 and joined[-1][1][0] < least / 5:
            epoch, row = joined.pop()
            joined.append((epoch, joined.pop()[1] + row))
        rows = [(epoch, *row[1:] / row[0]) for epoch, row in joined]
        return np.array(rows, float).reshape(-1, 3)

    @property
    def last_train_loss(self) -> float:
        """Mean training loss of the log points in the last epoch, in nats; nan without any."""
        if not len(self.train):
            return math.nan
        epochs, losses, _ = self.train.T
        begin = np.ceil(epochs[-1] - 1e-6) - 1
        of_last = epochs > begin + 1e-6
        shares = np.diff(epochs[of_last], prepend=begin)  # a row is a mean since the one before
        return float(np.average(losses[of_last], weights=shares))

    @property
    def best_val(self) -> tuple[float, float]:
        """Top-1 in [0, 1] and epoch of the best validation; of equal ones the last, whose
        weights are kept.
        """
        row = self.val[::-1][self.val[::-1, 2].argmax()]
        return float(row[2]), float(row[0])


def read_history(folder: str | os.PathLike) -> History:
    """Read how the run in a folder learned, from its metrics.csv."""
    rows = read_metrics(Path(folder) / "metrics.csv")

    def of(split):
        table = [
            [float(row[column] or "nan") for column in ("epoch", "loss", "top1")]
            for row in rows
            if row["split"] == split
        ]
        table = np.array(table).reshape(-1, 3)
        return table[np.isfinite(table).all(axis=1)]  # a row without figures says nothing

    return History(of("train"), of("val"), of("test"))


def read_metrics(path: str | os.PathLike) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none when there is no file. A torn last line is left out."""
    if not Path(path).exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
