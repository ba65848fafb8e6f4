"""Recipes of the sources, trained to their end through `results/`, some minutes at a time."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.accelerator.pieces import Job, State, Unfinished
from jax_train.printing import significant
from jax_train.runs.history import read_metrics
from results import recipes, runs

TO_94 = ("airbench94_cifar10", "airbench94_muon_cifar10")
_LONG = tuple(name for name in recipes.RECIPES if name not in TO_94)
_SHORT = {"train.epochs": 1, "train.batch_size": 32, "schedule.warmup_epochs": 0}
_SHORT |= {"data.train_split": "train[:64]", "data.val_split": ""}
_TO_END = 20  # seconds in which a run that is asked to stop has saved all


def airbench94(job: Job) -> dict[str, Callable]:
    """To 94 %, by both optimizers."""
    return _all(TO_94, job)


def long(job: Job) -> dict[str, Callable]:
    """All other recipes of docs/results.md."""
    return _all(_LONG, job)


def _all(names: tuple[str, ...], job: Job) -> dict[str, Callable]:
    chosen = job.of(names)
    if job.short:  # what needs no data and is quick
        chosen = [name for name in chosen if name.endswith("_digits")]
    return {name: functools.partial(_train, name, job) for name in chosen}


def _train(name: str, job: Job) -> dict:
    """Go on with a run; its figures, once it is finished."""
    recipe = recipes.RECIPES[name]
    run = recipes.run_of(name, recipe, 0, job.data_dir, _SHORT if job.short else {})
    folder = job.folder / "runs"
    try:
        runs.carry_out([run], folder, seconds=max(1, job.left - _TO_END))
    except runs.Stopped:
        raise Unfinished(_progress(folder / run.name)) from None
    return recipes.figures(folder / run.name, recipe.tta)


def _progress(folder: Path) -> str:
    """How far a run is, by its files."""
    metrics = folder / "metrics.csv"
    rows = read_metrics(metrics) if metrics.exists() else []
    if not rows:
        return "begun"
    epochs = json.loads((folder / "config.json").read_text())["train"]["epochs"]
    return f"epoch {float(rows[-1]['epoch']):.4g} of {epochs}"


def text(name: str, states: dict[str, State], device: dict) -> str:
    """What the runs of a piece reached, and how far those are that are under way."""
    state = states[name]
    lines = [
        "| recipe | epochs | its source | here | seconds | PFLOP | TFLOP/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in state.figures.items():
        work = found["train_flops"]
        cells = [f"`{name}`", str(found["epochs"]), recipes.RECIPES[name].source]
        cells += [f"**{found['top1']:.2%}**", f"{found['seconds']:,.0f}"]
        cells += [significant(work / many, 3) for many in (1e15, 1e12 * found["seconds"])]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| `{name}` | {far} | | | | | |" for name, far in state.paused.items()]
    return "\n".join(lines)
