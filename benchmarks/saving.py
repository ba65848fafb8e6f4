"""What checkpoints cost: training with a save every few steps against training without.

  python -m benchmarks.saving [--every 10]

Takes turns between the two, and prints medians; the saves write to a temporary folder.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import jax_side, tasks
from jax_train.engine.state import Progress
from jax_train.runs.checkpoint import Checkpoints

MODELS = ("vit", "simple_cnn")


def measure(name: str, every: int, steps: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step without saves, with saves, and of the call that starts one."""
    config = tasks.config_of(name)
    training = jax_side.Training(config, *tasks.random_images(config, 1280))
    step, carry, args = training.compiled, training.carry, training.args
    carry = step(*carry, *args)
    times = {False: [], True: []}
    calls = []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder) / "c") as checkpoints:
        for round_ in range(rounds):
            for saving in (False, True):
                begin = time.perf_counter()
                for i in range(steps):
                    carry = step(*carry, *args)
                    if saving and (i + 1) % every == 0:
                        jax.block_until_ready(carry)
                        start = time.perf_counter()
                        number = round_ * steps + i
                        checkpoints.save(Progress(*carry), number, {"since_eval": []})
                        calls.append(time.perf_counter() - start)
                jax.block_until_ready(carry)
                times[saving].append((time.perf_counter() - begin) / steps)
                checkpoints.wait()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(carry))
    return {
        "megabytes": size / 1e6,
        "plain": 1e3 * statistics.median(times[False]),
        "saving": 1e3 * statistics.median(times[True]),
        "call": 1e3 * float(np.median(calls)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=10, help="steps between saves")
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| model | state, MB | step, ms | with a save every "
          f"{args.every} steps, ms | more | a save stalls the step, ms |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        got = measure(name, args.every, args.steps, args.rounds)
        print(
            f"| `{name}` | {got['megabytes']:.0f} | {got['plain']:.0f} | {got['saving']:.0f} "
            f"| {got['saving'] / got['plain'] - 1:.1%} | {got['call']:.0f} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
