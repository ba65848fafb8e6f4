"""Run the ladder in both precisions, each in a process of its own.

python -m tests.parity.measure        rewrites the table in docs/parity.md
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measure() -> dict[str, dict]:
    """Return {'float32': …, 'float64': …}, what `ladder.main` writes in each precision."""
    with tempfile.TemporaryDirectory() as folder:
        processes = {}
        for precision, x64 in {"float32": "0", "float64": "1"}.items():
            out = Path(folder) / f"{precision}.json"
            command = [sys.executable, "-m", "tests.parity.ladder", "--out", str(out)]
            environment = os.environ | {
                "JAX_ENABLE_X64": x64, "JAX_DEFAULT_MATMUL_PRECISION": "highest",
                "JAX_PLATFORMS": "cpu",
            }  # fmt: skip
            if precision == "float64":
                command.append("--mutations")
            processes[precision] = out, subprocess.Popen(command, cwd=ROOT, env=environment)
        for precision, (_, process) in processes.items():
            if process.wait():
                raise RuntimeError(f"The {precision} ladder ended with code {process.returncode}.")
        return {precision: json.loads(out.read_text()) for precision, (out, _) in processes.items()}


def table(measured: dict[str, dict]) -> str:
    """The errors as a Markdown table, a row for each model and rung."""
    from tests.parity.ladder import BARS

    lines = [
        "| model | rung | float32 | allowed | float64 | allowed |",
        "|---|---|---|---|---|---|",
    ]
    for model, errors in measured["float32"]["errors"].items():
        for rung, (bar32, bar64) in BARS.items():
            if rung in errors:
                of64 = measured["float64"]["errors"][model][rung]
                allowed = f"{bar32:.0e}" if bar32 else "reported only"
                lines.append(
                    f"| `{model}` | {rung} | {errors[rung]:.1e} | {allowed} "
                    f"| {of64:.1e} | {bar64:.0e} |"
                )
    return "\n".join(lines)


def main() -> None:
    """Measure, and rewrite the table between the two marks in docs/parity.md."""
    page = ROOT / "docs" / "parity.md"
    before, rest = page.read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    page.write_text(f"{before}{_BEGIN}\n{table(measure())}\n{_END}{after}")
    print(f"rewrote the table in {page}")


if __name__ == "__main__":
    main()
