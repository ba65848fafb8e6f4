"""Whether two finished runs are equal: weights, rows, matrices and figures, all bit for bit."""

import csv
import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

TIMES = ("seconds", "images_per_sec", "train_images_per_sec")
_NOT_OF_THE_RUN = (*TIMES, "git_commit")


@dataclass(frozen=True)
class Outcome:
    """What a finished run left.

    Args:
      rows: of metrics.csv, without the times.
      texts: confusion.csv, config.json and curves.png, by name.
      figures: of results.json, without the times.
      weights: of the last checkpoint, by path of the leaf: type, shape and bytes.
    """

    rows: list[dict[str, str]]
    texts: dict[str, bytes]
    figures: dict[str, object]
    weights: dict[str, tuple[str, tuple[int, ...], bytes]]


def load(workdir: Path) -> Outcome:
    """Read a finished run."""
    results = json.loads((workdir / "results.json").read_text())
    return Outcome(
        rows=read_rows(workdir / "metrics.csv"),
        texts={
            name: (workdir / name).read_bytes()
            for name in ("confusion.csv", "config.json", "curves.png")
        },
        figures={key: value for key, value in results.items() if key not in _NOT_OF_THE_RUN},
        weights=last_weights(workdir / "checkpoints"),
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv without the times, exactly as they stand."""
    with open(path, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def steps_saved(checkpoints: Path) -> list[int]:
    """Steps of the complete checkpoints, in order."""
    return sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())


def last_weights(checkpoints: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every leaf of the newest checkpoint, read by Orbax alone."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    step = steps_saved(checkpoints)[-1]
    with ocp.StandardCheckpointer() as reader:
        tree = reader.restore((checkpoints / str(step) / "state").absolute())
    leaves = {f"step {step}": ("", (), b"")}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        leaves[jax.tree_util.keystr(path)] = str(array.dtype), array.shape, array.tobytes()
    return leaves


def differences(found: Outcome, expected: Outcome) -> list[str]:
    """Say what differs, a line for each kind."""
    lines = []
    steps = Counter((row["step"], row["split"]) for row in found.rows)
    wanted = Counter((row["step"], row["split"]) for row in expected.rows)
    for what, rows in {"extra": steps - wanted, "missing": wanted - steps}.items():
        if rows:
            lines.append(f"metrics.csv: {what} rows {sorted(rows.elements())}")
    if steps == wanted and found.rows != expected.rows:
        pairs = zip(found.rows, expected.rows, strict=True)
        a, b = next((a, b) for a, b in pairs if a != b)
        lines.append(f"metrics.csv: {a} instead of {b}")
    for name, text in expected.texts.items():
        if found.texts[name] != text:
            lines.append(f"{name} differs")
    for key in expected.figures | found.figures:
        a, b = found.figures.get(key), expected.figures.get(key)
        if a != b:
            lines.append(f"results.json: {key} is {a} instead of {b}")
    leaves = found.weights.keys() | expected.weights.keys()
    wrong = [k for k in sorted(leaves) if found.weights.get(k) != expected.weights.get(k)]
    if wrong:
        lines.append(f"{len(wrong)} of {len(leaves)} leaves of the last checkpoint: {wrong[0]} …")
    return lines
