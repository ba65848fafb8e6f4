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
    lines = [
        "| `vit` of width 8 | arrays in the state | loop, ms a step | step alone | loop's own |",
        "|---|---|---|---|---|",
    ]
    for name in cases:
        training = _training(CASES[name], steps)
        leaves = len(jax.tree.leaves(training.carry[0]))
        alone = min(_alone(training, steps) for _ in range(rounds))
        loop = min(_loop(_training(CASES[name], steps)) for _ in range(rounds))
        lines.append(f"| {name} | {leaves} | {loop:.2f} | {alone:.2f} | {loop - alone:.2f} |")
    return "\n".join(lines)


def _training(depth, steps):
    config = tasks.config_of("vit", **_TINY, **{"model.depth": depth})
    return jax_side.Training(config, *tasks.random_images(config, steps))


def _alone(training, count: int) -> float:
    training.train_steps(20)
    begin = time.perf_counter()
    training.train_steps(count)
    return (time.perf_counter() - begin) / count * 1e3


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
