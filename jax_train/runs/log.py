"""What a run leaves behind: metrics.csv, results.json, curves.png; and what it prints."""

import csv
import os
import sys
import time
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from jax_train.files import csv_text, write_atomically
from jax_train.runs import trackers
from jax_train.runs.history import COLUMNS, read_metrics


class MetricsFile:
    """metrics.csv: one row for each log point and each evaluation.

    Args:
      path: of the file.
      resume_step: rows after this step are removed; they will be written again.
    """

    def __init__(self, path: Path, resume_step: int):
        rows = [row for row in read_metrics(path) if int(row["step"]) <= resume_step]
        rows = [row for row in rows if row["split"] != "test"]
        kept = ([row.get(column, "") for column in COLUMNS] for row in rows)
        write_atomically(path, csv_text([COLUMNS, *kept]))
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self._file = open(path, "a", newline="")  # noqa: SIM115 - closed by close()
        self._writer = csv.DictWriter(self._file, COLUMNS, extrasaction="ignore")

    def write(self, **row) -> None:
        """Append a row; figures are kept to six significant digits."""
        figures = {k: f"{v:.6g}" for k, v in row.items() if isinstance(v, float)}
        self._writer.writerow(row | figures)
        self._file.flush()

    def to_disk(self) -> None:
        """Have the operating system write out what it holds back."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Console:
    """Progress for people: a bar on a terminal, else a plain line now and then.

    Args:
      total_steps: steps of the whole run.
      first_step: steps done before.
      bar: whether a progress bar is wanted.
    """

    def __init__(self, total_steps: int, first_step: int, *, bar: bool):
        hidden = not (bar and sys.stderr.isatty())
        look = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"
        how = {"bar_format": look, "dynamic_ncols": True, "leave": False, "disable": hidden}
        self._bar = tqdm(total=total_steps, initial=first_step, **how)
        self._moved = False
        self._quiet_until = time.monotonic() + 10

    def advance(self, steps: int) -> None:
        """Move the bar on."""
        if not self._moved:
            self._bar.unpause()  # what compiling took says nothing of the time that is left
            self._moved = True
        self._bar.update(steps)

    def show(self, epoch: float, figures: dict[str, float], images_per_sec: float) -> None:
        """Show the latest training figures."""
        loss, top1 = figures["loss"], figures["top1"]
        text = f"loss {loss:.3f}, top-1 {top1:.1%}, {images_per_sec:,.0f} img/s"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
        elif time.monotonic() > self._quiet_until:
            self.line(f"epoch {epoch:.1f}, {text}")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._quiet_until = time.monotonic() + 10
        if self._bar.disable:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class RunLog:
    """What a run says while it goes on: to metrics.csv, to trackers, and on the console.

    Args:
      config: the whole config; `log` is read.
      workdir: the run folder.
      step: steps done before.
      total_steps: of the whole run.
      active: False in all processes but the first: they say nothing.
    """

    def __init__(
        self, config: ConfigDict, workdir: Path, step: int, total_steps: int, *, active: bool
    ):
        self._csv = MetricsFile(workdir / "metrics.csv", step) if active else None
        self._console = Console(total_steps, step, bar=config.log.progress) if active else None
        self._trackers = trackers.start(config, workdir, step) if active else []
        self.seconds = self._csv.seconds if active else 0.0

    def row(self, *, step: int, split: str, **values) -> None:
        """Append a row to metrics.csv, and give its figures to the trackers."""
        if self._csv:
            self._csv.write(step=step, split=split, **values)
        figures = {f"{split}/{k}": v for k, v in values.items() if isinstance(v, float)}
        for tracker in self._trackers:
            tracker.log(step, figures)

    def advance(self, steps: int) -> None:
        """Move the progress bar on."""
        if self._console:
            self._console.advance(steps)

    def show(self, epoch: float, figures: dict[str, float], images_per_sec: float) -> None:
        """Show the latest training figures."""
        if self._console:
            self._console.show(epoch, figures, images_per_sec)

    def line(self, text: str) -> None:
        """Print a line."""
        if self._console:
            self._console.line(text)

    def to_disk(self) -> None:
        """Have the operating system write out the rows it holds back."""
        if self._csv:
            self._csv.to_disk()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        for part in filter(None, (self._csv, self._console, *self._trackers)):
            part.close()
