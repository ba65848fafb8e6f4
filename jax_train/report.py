"""What a run leaves behind: metrics.csv, results.json, curves.png; and what it prints."""

import csv
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from jax_train import trackers

COLUMNS = (
    "step", "epoch", "split", "loss", "top1", "top5", "images_per_sec", "learning_rate", "seconds",
    "precision_macro", "recall_macro", "f1_macro",
)  # fmt: skip


class MetricsFile:
    """metrics.csv: one row for each log point and each evaluation.

    Args:
      path: of the file.
      resume_step: rows after this step are removed; they will be written again.
    """

    def __init__(self, path: Path, resume_step: int):
        rows = [row for row in read_metrics(path) if int(row["step"]) <= resume_step]
        rows = [row for row in rows if row["split"] != "test"]
        temporary = path.with_suffix(".part")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, path)
        self.seconds = float(rows[-1]["seconds"]) if rows else 0.0
        self._file = open(path, "a", newline="")  # noqa: SIM115 - closed by __exit__
        self._writer = csv.DictWriter(self._file, COLUMNS)

    def write(self, **row) -> None:
        """Append a row; figures are kept to six significant digits."""
        short = {k: f"{row[k]:.6g}" if isinstance(row[k], float) else row[k]
                 for k in COLUMNS if k in row}  # fmt: skip
        self._writer.writerow(short)
        self._file.flush()

    def to_disk(self) -> None:
        """Have the operating system write out what it holds back."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv; none when there is no file. A torn last line is left out."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]


class Console:
    """Progress for people: a bar on a terminal, else a plain line now and then.

    Args:
      total_steps: steps of the whole run.
      first_step: steps done before.
      bar: whether a progress bar is wanted.
    """

    def __init__(self, total_steps: int, first_step: int, *, bar: bool):
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            disable=not (bar and sys.stderr.isatty()),
            dynamic_ncols=True,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
        )
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
        text = (
            f"loss {figures['loss']:.3f}, top-1 {figures['top1']:.1%}, {images_per_sec:,.0f} img/s"
        )
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

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_) -> None:
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
        figures = {
            f"{split}/{name}": value for name, value in values.items() if isinstance(value, float)
        }
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

    def __exit__(self, *error) -> None:
        if self._csv:
            self._csv.__exit__(*error)
            self._console.__exit__(*error)
        for tracker in self._trackers:
            tracker.close()


def write_run(workdir: Path, results: dict, confusion, class_names: Sequence[str]) -> None:
    """Write the files of a finished run; results.json comes last and marks it as finished."""
    write_confusion(workdir / "confusion.csv", confusion, class_names)
    title = f"{results['model']} on {results['data']}: test top-1 {results['test']['top1']:.2%}"
    draw_curves(workdir / "metrics.csv", workdir / "curves.png", title)
    write_results(workdir / "results.json", results)


def versions() -> dict[str, str]:
    """Versions of the libraries a run's numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {package: version(package) for package in packages}


def environment() -> dict[str, object]:
    """Versions, device and git commit, for results.json."""
    import jax

    device, count = jax.local_devices()[0], jax.device_count()
    kind = "" if device.device_kind == device.platform else f" ({device.device_kind})"
    return {
        "versions": {"python": platform.python_version()} | versions(),
        "device": f"{device.platform}{kind}" + f" x {count}" * (count > 1),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is never seen half-written."""
    temporary = path.with_suffix(path.suffix + ".part")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def summary(results: dict, workdir: Path) -> str:
    """The results of a run for people, at most 80 columns wide."""
    test, val = results["test"], results["val"]
    lines = [
        f"{results['model']} on {results['data']}: {results['parameters']:,} parameters",
        f"  {results['epochs']} epoch{'s'[: results['epochs'] > 1]} in {results['seconds']:,.0f} s "
        f"({results['train_images_per_sec']:,.0f} images/s)",
    ]
    if val:
        lines.append(_line("validation", val, results["images"]["val"]))
    lines.append(_line("test", test, results["images"]["test"]))
    if results["reported_weights"] == "best":
        lines.append(f"  weights: epoch {results['reported_epoch']}, the best on validation")
    else:
        lines.append(f"  weights: epoch {results['reported_epoch']}, the last")
    lines += [f"  {note}" for note in results["notes"]]
    lines.append(f"  files: {workdir}/\n         curves.png, results.json, metrics.csv, …")
    return "\n".join(lines)


def _line(name: str, figures: dict[str, float], images: int) -> str:
    return (
        f"  {name + ':':12}top-1 {figures['top1']:7.2%}   top-5 {figures['top5']:7.2%}   "
        f"loss {figures['loss']:.4f}   {images:,} images"
    )


def write_results(path: Path, results: dict) -> None:
    """Write results.json."""
    write_atomically(path, json.dumps(results, indent=2) + "\n")


def write_confusion(path: Path, confusion, class_names: Sequence[str]) -> None:
    """Write a confusion matrix [true, predicted] as CSV, a row for each true class."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true / predicted", *class_names])
    for name, row in zip(class_names, confusion.tolist(), strict=True):
        writer.writerow([name, *row])
    write_atomically(path, text.getvalue())


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


_LABELS = {"train": "training (as trained)", "val": "validation", "test": "test (final)"}
