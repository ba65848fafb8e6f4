"""How fast a device trains, how well that uses it, and what the host adds."""

import functools
import statistics
from collections.abc import Callable
from contextlib import contextmanager

import jax

from benchmarks import host, jax_side, steady, tasks
from benchmarks.accelerator import flops
from benchmarks.accelerator.pieces import Job, State
from benchmarks.rows import JAX
from jax_train.engine import parallel
from jax_train.printing import significant

# Precision -> JAX's of products of float32 numbers, and the dtype of the recipe.
PRECISIONS = {
    "float32": ("highest", "float32"),
    "tf32": ("tensorfloat32", "float32"),
    "bfloat16": ("default", "bfloat16"),
}
# Of PyTorch: what is given to `torch_side.Training`.
_SIDES = {
    "eager": {"channels_last": False},
    "channels_last": {},
    "compiled": {"compiled": True},
    "CUDA graphs": {"compiled": "reduce-overhead"},
}


def _config(case: str, precision: str, short: bool):
    changes = tasks.short_changes(case) if short else {}
    return tasks.config_of(case, **changes, dtype=PRECISIONS[precision][1])


def _pace(run: Callable[[int], int], short: bool) -> float:
    """Images per second, by the median of steps."""
    pace = steady.Pace(run, seconds=2, limit=0 if short else 10)
    beats, images, _ = pace.sample()
    return images / statistics.median(beats)


# JAX


def train(job: Job) -> dict[str, Callable]:
    """The training step of every model in every precision."""
    return {
        f"{case}, {precision}": functools.partial(_train, case, precision, job.short)
        for case in job.of(tasks.CASES)
        for precision in PRECISIONS
    }


def _train(case: str, precision: str, short: bool) -> dict:
    config = _config(case, precision, short)
    with jax.default_matmul_precision(PRECISIONS[precision][0]):
        data = tasks.random_images(config, 10 * config.train.batch_size)
        training = jax_side.Training(config, *data)
        speed = _pace(training.train_steps, short)
        used = parallel.memory(training.compiled, training.carry[0], training.args[0])
        per_image = flops.of_training(training.program, data[0].shape[1:])
    return {
        "batch": config.train.batch_size,
        "images_per_sec": speed,
        "flops": per_image,
        "state_bytes": used.state,
        "step_bytes": used.step,
    }


# PyTorch


def pytorch(job: Job) -> dict[str, Callable]:
    """The same by the mirrors, where PyTorch sees the device."""
    if not job.device["torch"]:
        return {}
    from benchmarks import torch_side

    def sides(case):
        is_cnn = torch_side.is_cnn(tasks.config_of(case).model.name)
        return [side for side in _SIDES if is_cnn or side != "channels_last"]

    where = job.device["torch"]["device"]
    return {
        f"{case}, {precision}, {side}": functools.partial(
            _train_torch, case, precision, side, where, job.short
        )
        for case in job.of(tasks.CASES)
        for precision in PRECISIONS
        for side in (sides(case)[:1] if job.short else sides(case))  # compiling takes a minute
    }


def _train_torch(case: str, precision: str, side: str, where: str, short: bool) -> dict:
    from torch import cuda

    from benchmarks import torch_side

    config = _config(case, precision, short)
    with _torch_products(precision):
        data = tasks.random_images(config, 10 * config.train.batch_size)
        training = torch_side.Training(config, *data, device=where, **_SIDES[side])
        speed = _pace(training.train_steps, short)
        if where == "cpu":
            return {"images_per_sec": speed}
        cuda.reset_peak_memory_stats()
        data_bytes = sum(tensor.nbytes for tensor in (training.images, training.labels))
        training.train_steps(1)
        return {"images_per_sec": speed, "bytes": cuda.max_memory_allocated() - data_bytes}


@contextmanager
def _torch_products(precision: str):
    """How PyTorch multiplies float32 numbers."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        # Of several algorithms the fastest is chosen, as XLA does. `flags` leaves cuDNN off unless
        # it is told.
        how = {"enabled": True, "benchmark": True, "allow_tf32": precision == "tf32"}
        with torch.backends.cudnn.flags(**how):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def text_of_train(states: dict[str, State], device: dict) -> str:
    """The table of both: PyTorch's sides stand where they were measured."""
    state, theirs = states["train"], states["torch"]
    sides = [one for one in _SIDES if any(key.endswith(f", {one}") for key in theirs.figures)]
    names = ["model", "batch", "precision", f"{JAX}, images/s", "utilisation", "memory, MB"]
    names += [*sides, f"{JAX} / best", "best's memory, MB"] if sides else []
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, found in state.figures.items():
        case, precision = name.rsplit(", ", 1)
        cells = [f"`{case}`", str(found["batch"]), precision]
        cells += [f"**{found['images_per_sec']:,.0f}**", _utilisation(found, precision, device)]
        cells.append(f"{(found['state_bytes'] + found['step_bytes']) / 1e6:,.0f}")
        if sides:
            got = [theirs.figures.get(f"{name}, {side}") for side in sides]
            cells += [f"{one['images_per_sec']:,.0f}" if one else "–" for one in got]
            cells += _beside(found, [one for one in got if one])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _utilisation(found: dict, precision: str, device: dict) -> str:
    """The model's operations in a second, as a share of what the device can do."""
    peak = flops.peak(device["kind"], precision)
    done = found["images_per_sec"] * found["flops"]
    return f"{done / peak:.1%}" if peak else f"{significant(done / 1e12, 3)} TFLOP/s"


def _beside(found: dict, others: list[dict]) -> list[str]:
    """The ratio to the fastest of others, and its memory."""
    if not others:
        return ["–", "–"]
    best = max(others, key=lambda one: one["images_per_sec"])
    memory = f"{best['bytes'] / 1e6:,.0f}" if "bytes" in best else "–"
    return [f"**{found['images_per_sec'] / best['images_per_sec']:.2f}**", memory]


# The host


def host_time(job: Job) -> dict[str, Callable]:
    """What the training loop costs beside the computation."""
    rounds, steps = (1, 20) if job.short else (5, 2000)
    return {
        name: functools.partial(host.measure, name, rounds, steps) for name in job.of(host.CASES)
    }


def text_of_host(states: dict[str, State], device: dict) -> str:
    """The table, with the cost of a call for each step."""
    state = states["host"]
    single = "; ".join(f"{name} {found['single']:.2f} ms" for name, found in state.figures.items())
    return f"{host.as_table(state.figures)}\n\nWith a step in each call: {single}."
