"""Seconds before the work begins: imports, `--help`, and the first training step."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from tests.parity.measure import ROOT

COMMANDS = {"train_jax.py --help": ["train_jax.py", "--help"]}
for module in ("jax", "jax_models", "jax_train.train", "torch"):
    COMMANDS[f"import {module}"] = ["-c", f"import {module}"]
FIRST_STEP = """
import json, sys, time
begin = time.perf_counter()
from benchmarks import tasks
from jax_train.machine import runtime
runtime.prepare()
from benchmarks import jax_side
config = tasks.config_of(sys.argv[1], **json.loads(sys.argv[2]))
data = tasks.random_images(config, 10 * config.train.batch_size)
jax_side.Training(config, *data).train_steps(1)
print(time.perf_counter() - begin)
"""
MODELS = {  # name in the table -> case, changes to the recipe
    "`vit`": ("vit", {}),
    "`deep_vit`": ("deep_vit", {}),
    "`deep_vit`, `scan_layers`": ("deep_vit", {"model.scan_layers": True}),
    "`simple_cnn`": ("simple_cnn", {}),
}


def tables(rounds: int, quick: bool = False) -> str:
    """Both tables; of the smallest model, if `quick`."""
    lines = ["| command | seconds |", "|---|---|"]
    for name, command in COMMANDS.items():
        times = [_seconds([sys.executable, *command]) for _ in range(rounds)]
        lines.append(f"| `{name}` | {statistics.median(times):.2f} |")
    header = "| first step of | empty cache, s | from the compilation cache, s |"
    lines += ["", header, "|---|---|---|"]
    for name, recipe in ({"`mnist_cnn`": ("mnist_cnn", {})} if quick else MODELS).items():
        with tempfile.TemporaryDirectory() as cache:
            cold = _first_step(*recipe, cache)
            warm = statistics.median(_first_step(*recipe, cache) for _ in range(rounds))
        lines.append(f"| {name} | {cold:.1f} | {warm:.1f} |")
    return "\n".join(lines)


def _seconds(command) -> float:
    begin = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command)
    return time.perf_counter() - begin


def _first_step(case: str, changes: dict, cache: str) -> float:
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", FIRST_STEP, case, json.dumps(changes)]
    how = {"cwd": ROOT, "env": environment, "stderr": subprocess.DEVNULL}
    return float(subprocess.check_output(command, **how))
