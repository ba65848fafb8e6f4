"""Hold this project's models against the libraries themselves, in both precisions.

python -m tests.world.measure        rewrites the table in docs/parity.md and the stored models of
                                     `references`; `make parity-world` does
"""

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.parity.measure import ROOT, environment_of, rewrite
from tests.world import references
from tests.world.bars import BARS, bar

_LIBRARIES = (*references.LIBRARIES, "peft", "jax", "flax")


def measure() -> dict[str, dict]:
    """Return {'float32': …, 'float64': …}, what `climb.main` writes in each precision."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for precision, x64 in {"float32": "0", "float64": "1"}.items():
            out = Path(folder) / f"{precision}.json"
            command = [sys.executable, "-m", "tests.world.climb", "--out", str(out)]
            environment = environment_of(x64, as_users=precision == "float32")
            environment |= {"HF_HUB_OFFLINE": "1"}
            more = ["--broken"] if precision == "float64" else []
            subprocess.run([*command, *more], cwd=ROOT, env=environment, check=True)
            found[precision] = json.loads(out.read_text())
        return found


def tables(measured: dict[str, dict]) -> str:
    """The errors as Markdown, a table for each precision; then the models broken on purpose."""
    with_versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    parts = [f"Measured with {with_versions}."]
    for precision, result in measured.items():
        rungs = [rung for rung in BARS if any(rung in row["errors"] for row in result["errors"])]
        lines = [f"### {precision}", "", f"| library | model | {' | '.join(rungs)} |"]
        lines.append("|---" * (len(rungs) + 2) + "|")
        for row in result["errors"]:
            cells = [_cell(row["errors"].get(rung)) for rung in rungs]
            lines.append(f"| {row['library']} | {row['name']} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    lines = ["### Broken on purpose, float64", "", "| broken | model | rung | error |"]
    lines.append("|---|---|---|---|")
    for name, row in measured["float64"]["broken"].items():
        lines.append(f"| {name} | {row['model']} | {row['rung']} | {row['error']:.0e} |")
    return "\n\n".join([*parts, "\n".join(lines)])


def _cell(error: float | None) -> str:
    return "–" if error is None else f"{error:.0e}" if error else "0"


def wrong(measured: dict[str, dict]) -> list[str]:
    """What exceeds its bar, and which broken model stays below it."""
    found = []
    for precision, result in measured.items():
        for row in result["errors"]:
            for rung, error in row["errors"].items():
                allowed = bar(rung, precision, row["in_float32"])
                if allowed is not None and not error <= allowed:
                    who = f"{precision}, {row['library']} {row['name']}"
                    found.append(f"{who}: {rung} {error:.1e}, allowed {allowed:.0e}")
    for name, row in measured["float64"]["broken"].items():
        if not row["error"] > bar(row["rung"], "float64"):
            found.append(f"broken on purpose and not noticed: {name}")
    return found


def main() -> None:
    """Measure, write what was found, and fail where a bar is exceeded."""
    measured = measure()
    rewrite("world", tables(measured))
    if found := wrong(measured):
        sys.exit("\n".join(found))
    references.write()


if __name__ == "__main__":
    main()
