"""Seconds before the work begins: imports, `--help`, and the first training step."""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from tests.parity.measure import ROOT

COMMANDS = {
    "`train_jax.py --help`": ["train_jax.py", "--help"],
    "`import jax`": ["-c", "import jax"],
    "`import jax_models`": ["-c", "import jax_models"],
    "`import jax_train.train`": ["-c", "import jax_train.train"],
    "`import torch`": ["-c", "import torch"],
}
FIRST_STEP = """
import sys, time
begin = time.perf_counter()
from benchmarks import tasks
from jax_train.train import enable_compilation_cache
enable_compilation_cache()
from benchmarks import jax_side
config = tasks.config_of(sys.argv[1])
data = tasks.random_images(config, 10 * config.train.batch_size)
jax_side.Training(config, *data).train_steps(1)
print(time.perf_counter() - begin)
"""
MODELS = ("vit", "deep_vit", "simple_cnn")


def tables(rounds: int) -> str:
    """Both tables."""
    lines = ["| command | seconds |", "|---|---|"]
    for name, command in COMMANDS.items():
        times = [_seconds([sys.executable, *command]) for _ in range(rounds)]
        lines.append(f"| {name} | {statistics.median(times):.2f} |")
    lines += [
        "", "| first step of | empty cache, s | from the compilation cache, s |", "|---|---|---|"
    ]  # fmt: skip
    for model in MODELS:
        with tempfile.TemporaryDirectory() as cache:
            cold = _first_step(model, cache)
            warm = statistics.median(_first_step(model, cache) for _ in range(3))
        lines.append(f"| `{model}` | {cold:.1f} | {warm:.1f} |")
    return "\n".join(lines)


def _seconds(command) -> float:
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _first_step(model: str, cache: str) -> float:
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, model], cwd=ROOT, env=environment, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return float(done.stdout)
