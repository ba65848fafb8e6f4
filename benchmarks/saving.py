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

from benchmarks import jax_side, tasks
from jax_train.engine.state import Progress
from jax_train.printing import say
from jax_train.runs.checkpoint import Checkpoints

MODELS = ("vit", "simple_cnn")


def measure(name: str, every: int, steps: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step without saves, with saves, and of the call that starts one."""
    config = tasks.config_of(name, **{"train.steps_per_call": 1})
    training = jax_side.Training(config, *tasks.random_images(config, 1280))
    step, carry, args = training.compiled, training.carry, training.args
    carry = step(*carry, *args)
    times, calls = {False: [], True: []}, []
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
    plain, saving, call = (1e3 * statistics.median(t) for t in (times[False], times[True], calls))
    megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(carry)) / 1e6
    return {"megabytes": megabytes, "plain": plain, "saving": saving, "call": call}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=10, help="steps between saves")
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    saves = f"with a save every {args.every} steps, ms"
    say(f"| model | state, MB | step, ms | {saves} | more | a save stalls the step, ms |")
    say("|---|---|---|---|---|---|")
    for name in MODELS:
        got = measure(name, args.every, args.steps, args.rounds)
        times = f"{got['plain']:.0f} | {got['saving']:.0f}"
        more, call = f"{got['saving'] / got['plain'] - 1:.1%}", f"{got['call']:.0f}"
        say(f"| `{name}` | {got['megabytes']:.0f} | {times} | {more} | {call} |")


if __name__ == "__main__":
    main()
