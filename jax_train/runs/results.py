"""results.json and confusion.csv: what a run reached, with what, and its summary for people."""

import os
import platform
import subprocess
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from jax_train.files import csv_text, json_text, write_atomically
from jax_train.printing import WIDTH, counted, figure


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
    """That of this repository; None of an installed package, which may lie inside another one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def summary(results: dict, workdir: str | os.PathLike) -> str:
    """The results of a run for people, at most 80 columns wide."""
    parameters, seconds, speed = (
        figure(results[key], ",.0f") for key in ("parameters", "seconds", "train_images_per_sec")
    )
    lines = [
        f"{results['model']} on {results['data']}: {parameters} parameters",
        f"  {counted(results['epochs'], 'epoch')} in {seconds} s ({speed} images/s)",
    ]
    for name, split in (("validation", "val"), ("test", "test")):
        if results[split]:
            lines.append(_line(name, results[split], results, split))
    which = "the best on validation" if results["reported_weights"] == "best" else "the last"
    lines.append(f"  weights: epoch {results['reported_epoch']}, {which}")
    if results["began_with"]:
        lines += _wrapped(f"began with {results['began_with']}")
    if (ended := results["ended"]) and ended["epoch"] < ended["of"]:
        lines.append(f"  ended at epoch {ended['epoch']} of {ended['of']}: {ended['why']}")
    lines += [f"  {note}" for note in results["notes"]]
    lines.append(f"  files: {workdir}/\n         curves.png, results.json, metrics.csv, …")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    """Lines of at most 80 columns, where words allow it."""
    how = textwrap.TextWrapper(WIDTH, "  ", "    ", break_long_words=False, break_on_hyphens=False)
    return how.wrap(text)


def epochs_of(results: dict) -> str:
    """How many epochs were trained: '20' or, of a run that ended early, '7 of 20'."""
    ended = results["ended"]
    early = ended and ended["epoch"] < ended["of"]
    return f"{ended['epoch']} of {ended['of']}" if early else str(results["epochs"])


def _line(name: str, figures: dict[str, float | None], results: dict, split: str) -> str:
    parts = [f"{top.replace('p', 'p-')} {figure(figures[top], '7.2%')}" for top in ("top1", "top5")]
    if 0 < len(results.get("class_names", ())) <= 5:  # the second would be 100 %
        parts.pop()
    images = counted(results["images"].get(split), "image")
    parts += [f"loss {figure(figures['loss'], '.4f')}", images]
    return f"  {name + ':':12}" + "   ".join(parts)


def write_results(path: str | os.PathLike, results: dict) -> None:
    """Write results.json."""
    write_atomically(Path(path), json_text(results, indent=2) + "\n")


def write_confusion(path: str | os.PathLike, confusion, class_names: Sequence[str]) -> None:
    """Write a confusion matrix [true, predicted] as CSV, a row for each true class."""
    rows = ([name, *row] for name, row in zip(class_names, confusion.tolist(), strict=True))
    write_atomically(Path(path), csv_text([["true / predicted", *class_names], *rows]))
