"""What differs between two layouts' runs, and what their compiled steps send around."""

import json
import math
import re
from pathlib import Path

import numpy as np

_COLLECTIVE = re.compile(
    r"= (?P<shapes>\(?[^=]*?\)?) "
    r"(?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"(?P<type>[a-z]+\d+)\[(?P<sizes>[\d,]*)\]")


def load(folder: Path, model: str, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays, and HLO text and memory, of a run."""
    with np.load(folder / f"{model}, {name}.npz") as arrays:
        arrays = dict(arrays)
    return arrays, json.loads((folder / f"{model}, {name}.json").read_text())


def differences(ours: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> dict[str, float]:
    """Relative differences of losses and of all parameters and statistics together.

    A resumed run has the last losses only.
    """
    losses = np.abs(ours["losses"] / plain["losses"][-len(ours["losses"]) :] - 1)
    gap = total = 0.0
    for name, value in plain.items():
        if name.startswith(("params", "stats")):
            gap += np.square(np.asarray(ours[name] - value, np.float64)).sum()
            total += np.square(np.asarray(value, np.float64)).sum()
    return {
        "first loss": float(losses[0]),
        "losses": float(losses.max()),
        "parameters": float(math.sqrt(gap / total)),
    }


def collectives(hlo: str) -> list[tuple[str, int]]:
    """(kind, bytes of the result) of every communication in a compiled step's HLO text."""
    found = []
    for line in re.sub(r"/\*.*?\*/", "", hlo).splitlines():
        match = _COLLECTIVE.search(line)
        if match:
            size = 0
            for shape in _SHAPE.finditer(match["shapes"]):
                width = int(re.search(r"\d+", shape["type"])[0]) // 8
                size += width * math.prod(int(n) for n in shape["sizes"].split(",") if n)
            found.append((match["kind"], size))
    return found


def by_kind(hlo: str) -> dict[str, int]:
    """Bytes of each kind of communication in a compiled step."""
    sizes = {}
    for kind, size in collectives(hlo):
        sizes[kind] = sizes.get(kind, 0) + size
    return sizes
