"""Run the ladder in both precisions, each in a process of its own.

python -m tests.parity.measure        rewrites the table in docs/parity.md
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import xla

ROOT = Path(__file__).resolve().parents[2]


def environment_of(x64: str, *, as_users: bool) -> dict[str, str]:
    """Of a process that measures; compiled as users do where rounding matters, else quickly."""
    return os.environ | {
        "JAX_ENABLE_X64": x64,
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "" if as_users else xla.QUICK_FLAGS,
    }


def measure(full: bool = False, plain: bool = False) -> dict[str, dict]:
    """Return {'float32': …, 'float64': …}, what `ladder.main` writes in each precision.

    Args:
      full: measure the published depths, and no mutations.
      plain: compute as on GPUs and TPUs (`jax_models.cpu.using(False)`), and no mutations.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = {}
        for precision, x64 in {"float32": "0", "float64": "1"}.items():
            out = Path(folder) / f"{precision}.json"
            command = [sys.executable, "-m", "tests.parity.ladder", "--out", str(out)]
            environment = environment_of(x64, as_users=full or plain or precision == "float32")
            if full or plain:
                command += ["--full"] * full + ["--plain"] * plain
            elif precision == "float64":
                command.append("--mutations")
            processes[precision] = out, subprocess.Popen(command, cwd=ROOT, env=environment)
        for precision, (_, process) in processes.items():
            if process.wait():
                raise RuntimeError(f"The {precision} ladder ended with code {process.returncode}.")
        return {precision: json.loads(out.read_text()) for precision, (out, _) in processes.items()}


def tables(measured: dict[str, dict]) -> str:
    """The errors as Markdown, a table for each precision: a row for each rung, models across."""
    from tests.parity.ladder import BARS, bar

    parts = []
    for precision, result in measured.items():
        models = sorted(result["errors"])
        lines = [f"### {precision}", "", f"| rung | allowed | {' | '.join(models)} |"]
        lines.append("|---" * (len(models) + 2) + "|")
        for rung, bars in BARS.items():
            allowed = bars[precision == "float64"]
            if allowed is None:
                continue
            cells = [_cell(result["errors"][m].get(rung), bar(m, rung, precision)) for m in models]
            lines.append(f"| {rung} | {allowed:.0e} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(error: float | None, allowed: float | None) -> str:
    if error is None:
        return "–"
    return f"{error:.0e}" if allowed else f"({error:.0e})"


def rewrite(part: str, text: str, page: Path = ROOT / "docs" / "parity.md") -> None:
    """Put text between the two marks of a part of a page."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    print(f"rewrote the part {part!r} of {page}")


def main() -> None:
    """Measure, and rewrite the tables in docs/parity.md."""
    rewrite("measured", tables(measure(full=True)))


if __name__ == "__main__":
    main()
