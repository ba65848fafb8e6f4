"""The same config under several seeds: mean and deviation of what the runs reached."""

import os
import statistics
from collections.abc import Mapping
from pathlib import Path

from jax_train.files import csv_text, write_atomically
from jax_train.runs.results import write_results

SPLITS = ("val", "test")


def combine(results: Mapping[int, dict]) -> dict[str, object]:
    """What seeds.json holds of the results of finished runs, by seed.

    `mean` and `std`, the standard deviation of a sample (n - 1), are by split and figure, over the
    `n` runs whose figure is a number: None for none of them, and the deviation for one.
    """
    first = next(iter(results.values()))
    keys = ("reported_weights", "reported_epoch", "epochs", *SPLITS)
    runs = [{"seed": seed} | {key: of[key] for key in keys} for seed, of in results.items()]
    found = {"model": first["model"], "data": first["data"], "runs": runs}
    for name, combined in (("mean", _mean), ("std", _std), ("n", len)):
        found[name] = {
            split: {key: combined(_numbers(runs, split, key)) for key in first[split]}
            for split in SPLITS
            if first[split]
        }
    return found


def _numbers(runs: list[dict], split: str, key: str) -> list[float]:
    values = ((run[split] or {}).get(key) for run in runs)
    return [value for value in values if value is not None]


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _std(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def write(workdir: str | os.PathLike, found: dict) -> None:
    """Write seeds.json and seeds.csv: a row for each run, then mean, std and n.

    Raises:
      OSError: they cannot be written.
    """
    workdir = Path(workdir)
    columns = [(split, key) for split in SPLITS for key in found["mean"].get(split, ())]
    header = ["seed", "reported_epoch", *(f"{split}_{key}" for split, key in columns)]
    rows = [
        [run["seed"], run["reported_epoch"], *(_cell(run[split][key]) for split, key in columns)]
        for run in found["runs"]
    ]
    rows += [
        [name, "", *(_cell(found[name][split][key]) for split, key in columns)]
        for name in ("mean", "std", "n")
    ]
    write_atomically(workdir / "seeds.csv", csv_text([header, *rows]))
    write_results(workdir / "seeds.json", found)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
