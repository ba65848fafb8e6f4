"""What the training loop costs beside the computation: models so small that little is computed."""

import contextlib
import time

import jax

from benchmarks import jax_side, tasks

CASES = {"1 block": 1, "12 blocks": 12}  # name in the table -> depth
_TINY = {"model.embed_dim": 8, "model.mlp_dim": 8, "model.num_heads": 1}
_TINY |= {"model.patch_size": 16, "model.dropout": 0.0}
_TINY |= {"augment.crop_padding": 0, "augment.flip": False}
_TINY |= {"train.batch_size": 1, "data.val_split": ""}


def table(rounds: int, quick: bool = False) -> str:
    """Milliseconds of a step in the engine's loop, and of the compiled step called by itself.

    Only of the smaller model, if `quick`.
    """
    steps, cases = (20, ["1 block"]) if quick else (2000, list(CASES))
    return as_table({name: measure(name, rounds, steps) for name in cases})


def measure(name: str, rounds: int, steps: int) -> dict[str, float]:
    """Milliseconds, the best of some rounds.

    Args:
      name: of `CASES`.
      rounds: of each figure.
      steps: of each round.

    Returns:
      "arrays" in the state; of a step "loop", in the engine's loop, "alone", where the compiled
      calls follow each other, and "single", the same with a step in each call.
    """
    depth = CASES[name]
    training = _training(depth, steps)
    alone = min(_alone(training, steps) for _ in range(rounds))
    single = alone
    if training.length > 1:
        one_by_one = _training(depth, steps, **{"train.steps_per_call": 1})
        single = min(_alone(one_by_one, steps) for _ in range(rounds))
    loop = min(_loop(_training(depth, steps)) for _ in range(rounds))
    arrays = len(jax.tree.leaves(training.carry[0]))
    return {"arrays": arrays, "loop": loop, "alone": alone, "single": single}


def as_table(figures: dict[str, dict[str, float]]) -> str:
    """What `measure` found, by name."""
    lines = [
        "| `vit` of width 8 | arrays in the state | loop, ms a step | step alone | loop's own |",
        "|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        loop, alone = found["loop"], found["alone"]
        cells = f"{found['arrays']} | {loop:.2f} | {alone:.2f} | {loop - alone:.2f}"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _training(depth, steps, **changes):
    config = tasks.config_of("vit", **_TINY, **{"model.depth": depth}, **changes)
    return jax_side.Training(config, *tasks.random_images(config, steps))


def _alone(training, steps: int) -> float:
    calls = -(-steps // training.length)
    training.train_steps(min(20, calls))
    begin = time.perf_counter()
    training.train_steps(calls)
    return (time.perf_counter() - begin) / (calls * training.length) * 1e3


def _loop(training) -> float:
    """Of the third epoch, with a row of metrics.csv every 50 steps."""
    times = []

    def told(_):
        times.append(time.perf_counter())
        if len(times) == 3:
            raise StopIteration

    with contextlib.suppress(StopIteration):
        training.pace_epochs(told, saved=False)
    return (times[2] - times[1]) / training.per_epoch * 1e3
