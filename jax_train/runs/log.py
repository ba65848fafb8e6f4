"""What a run leaves behind: metrics.csv, results.json, curves.png; and what it prints."""

import contextlib
import csv
import math
import os
import time
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from jax_train.files import csv_text, write_atomically
from jax_train.printing import figure, on_terminal, say
from jax_train.runs import trackers
from jax_train.runs.history import COLUMNS, read_metrics


class MetricsFile:
    """metrics.csv: one row for each log point and each evaluation.

    Args:
      path: of the file.
      resume_step: rows after this step are removed; they will be written again.
    """

    def __init__(self, path: str | os.PathLike, resume_step: int):
        path = Path(path)
        rows = [row for row in read_metrics(path) if int(row["step"]) <= resume_step]
        rows = [row for row in rows if row["split"] != "test"]
        kept = ([row.get(column, "") for column in COLUMNS] for row in rows)
        write_atomically(path, csv_text([COLUMNS, *kept]))
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self.file = open(path, "a", newline="")  # noqa: SIM115 - closed by RunLog
        self._writer = csv.DictWriter(self.file, COLUMNS, extrasaction="ignore")

    def write(self, **row) -> None:
        """Append a row; figures are kept to six significant digits, what is no number is empty."""
        floats = {k: v for k, v in row.items() if isinstance(v, float)}
        figures = {k: f"{v:.6g}" if math.isfinite(v) else "" for k, v in floats.items()}
        self._writer.writerow(row | figures)
        self.file.flush()


class RunLog:
    """What a run says while it goes on: to metrics.csv, to trackers, and on the console.

    There it is a progress bar on a terminal, else a plain line now and then.

    Args:
      config: the whole config; `log` is read.
      workdir: the run folder.
      step: steps done before.
      total_steps: of the whole run.
      active: False in all processes but the first: they say nothing.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: str | os.PathLike,
        step: int,
        total_steps: int,
        *,
        active: bool,
    ):
        workdir = Path(workdir)
        self._csv = MetricsFile(workdir / "metrics.csv", step) if active else None
        self.seconds = self._csv.seconds if self._csv else 0.0
        hidden = not (active and config.log.progress and on_terminal())
        look = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"
        how = {"bar_format": look, "dynamic_ncols": True, "leave": False, "disable": hidden}
        self._bar = tqdm(total=total_steps, initial=step, **how)
        self._moved, self._quiet_until = False, time.monotonic() + 10
        self._trackers = trackers.start(config, workdir, step) if active else []

    def row(self, *, step: int, split: str, **values) -> None:
        """Append a row to metrics.csv, and give its figures to the trackers."""
        if self._csv:
            self._csv.write(step=step, split=split, **values)
        numbers = {k: v for k, v in values.items() if isinstance(v, float) and math.isfinite(v)}
        figures = {f"{split}/{k}": v for k, v in numbers.items()}
        for tracker in self._trackers:
            tracker.log(step, figures)

    def advance(self, steps: int) -> None:
        """Move the progress bar on."""
        if not self._moved:
            self._bar.unpause()  # what compiling took says nothing of the time that is left
            self._moved = True
        self._bar.update(steps)

    def show(self, epoch: float, figures: dict[str, float], images_per_sec: float) -> None:
        """Show the latest training figures."""
        loss, top1 = figure(figures["loss"], ".3f"), figure(figures["top1"], ".1%")
        text = f"loss {loss}, top-1 {top1}, {figure(images_per_sec, ',.0f')} img/s"
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
        elif time.monotonic() > self._quiet_until:
            self.line(f"epoch {epoch:.1f}, {text}")

    def line(self, text: str) -> None:
        """Print a line, above the bar."""
        self._quiet_until = time.monotonic() + 10
        if not self._bar.disable:
            with self._bar.external_write_mode():
                say(text)
        elif self._csv:
            say(text)

    def to_disk(self) -> None:
        """Have the operating system write out the rows it holds back."""
        if self._csv:
            os.fsync(self._csv.file.fileno())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_) -> None:
        files = [self._csv.file] if self._csv else []
        with contextlib.ExitStack() as stack:  # one that cannot be written keeps none open
            for part in (*self._trackers, self._bar, *files):
                stack.callback(part.close)
