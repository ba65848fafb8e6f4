"""Start the runs of every layout in processes of their own, and write what differs.

python -m tests.layouts.measure        full size; rewrites the tables in docs/distributed.md
"""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import xla
from tests.layouts import compare
from tests.layouts.runs import LAYOUTS, MODELS
from tests.parity.measure import ROOT, rewrite

PROCESSES = [name for name in LAYOUTS if name.endswith("processes")]
SINGLE = [name for name in LAYOUTS if name not in PROCESSES]


def run_all(folder: Path, layouts=SINGLE, processes=PROCESSES, **options) -> None:
    """Run layouts of 8 devices in one process, then those of several, with 8 devices together.

    Args:
      folder: takes the results.
      layouts: names, in the order they run in; resumed ones after "jit8".
      processes: names.
      options: `full`, `dtype`, `models` of `runs.py`.
    """
    _finish([_start(folder, layouts, 8, options)])
    if processes:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        count = 4 if options.get("full") else 2
        together = {"coordinator": coordinator, "num_processes": count}
        own = [options | together | {"process_id": i} for i in range(count)]
        _finish([_start(folder, processes, 8 // count, of_one) for of_one in own])


def _start(folder, layouts, devices, options):
    command = [sys.executable, "-m", "tests.layouts.runs", "--out", str(folder)]
    command += ["--layouts", *layouts]
    for name, value in options.items():
        if value is True:
            command.append(f"--{name}")
        elif value:
            command += [f"--{name}", *([value] if isinstance(value, (str, int)) else value)]
        elif value == 0:
            command += [f"--{name}", "0"]
    quick = "" if options.get("full") else xla.EVEN_FLAGS
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "XLA_FLAGS": f"{quick} --xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _finish(started) -> None:
    outputs = [process.communicate()[0] for process in started]
    for process, output in zip(started, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{' '.join(process.args)} failed:\n{output[-3000:]}")


def tables(folder: Path) -> str:
    """Differences from one device, communication and memory, as Markdown."""
    lines = []
    for model in MODELS:
        plain, _ = compare.load(folder, model, "one")
        size = sum(value.nbytes for name, value in plain.items() if name.startswith("params"))
        lines += [
            f"### `{model}`, {size / 1e6:.1f} MB of parameters in float64",
            "",
            "| layout | first loss | losses | parameters | sent in a step | state / step, MB |",
            "|---|---|---|---|---|---|",
        ]
        for name in LAYOUTS:
            arrays, program = compare.load(folder, model, name)
            gaps = compare.differences(arrays, plain)
            sent = compare.by_kind(program["hlo"])
            what = ", ".join(f"{kind} {size / 1e6:.3g} MB" for kind, size in sent.items()) or "–"
            memory = " / ".join(f"{size / 1e6:.0f}" for size in program["memory"].values())
            cells = " | ".join(f"{gap:.0e}" for gap in gaps.values())
            row = name.replace("processes", "4 processes")
            lines.append(f"| {row} | {cells} | {what} | {memory} |")
        lines.append("")
    return "\n".join(lines).strip()


def main() -> None:
    """See the module's docstring."""
    with tempfile.TemporaryDirectory() as folder:
        run_all(Path(folder), full=True)
        text = tables(Path(folder))
    rewrite("layouts", text, ROOT / "docs" / "distributed.md")


if __name__ == "__main__":
    main()
