"""Whether a device computes what it should: parity, layouts, and nothing beside the computation."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import jax_side, tasks
from benchmarks.accelerator.pieces import Job, State
from jax_train.data import Dataset
from jax_train.engine.state import Progress
from jax_train.printing import counted
from jax_train.runs.checkpoint import Checkpoints
from tests.layouts import compare, runs
from tests.layouts.runs import EPOCHS, Layout

# float32 as it is written, and not TF32 or several bfloat16.
_FULL = functools.partial(jax.default_matmul_precision, "highest")


# Parity


def parity(job: Job) -> dict[str, Callable]:
    """The ladder of every model in float32."""
    from tests.parity.cases import CASES

    return {name: functools.partial(_climb, name, job.short) for name in job.of(CASES)}


def _climb(name: str, short: bool) -> dict:
    import torch

    from tests.parity import ladder

    cases = ladder.CASES[name]
    how = {"cases": cases[-1:], "rungs": ("logits",)} if short else {"cases": cases}
    with _FULL(), torch.backends.mkldnn.flags(enabled=False):
        return ladder.climb(name, **how)


def text_of_parity(states: dict[str, State], device: dict) -> str:
    """The table, and what is above its bar."""
    from tests.parity.ladder import bar
    from tests.parity.measure import tables

    found = states["parity"].figures
    above = [
        f"`{name}`, {rung}: {error:.2g} (allowed {allowed:g})"
        for name, errors in found.items()
        for rung, error in errors.items()
        if (allowed := bar(name, rung, "float32")) is not None and error > allowed
    ]
    count = sum(map(len, found.values()))
    verdict = f"Above their bars: {'; '.join(above)}." if above else "All are below their bars."
    table = tables({"float32": {"errors": found}}).split("\n\n", 1)[1]
    return f"{count} figures of {counted(len(found), 'model')}. {verdict}\n\n{table}"


# Layouts


def layouts(job: Job) -> dict[str, Callable]:
    """Two models under every layout that these devices allow, beside one device."""
    return {
        f"{model}, {name}": functools.partial(_compare, model, name, job.short)
        for model in job.of(runs.MODELS)
        for name in _layouts()
    }


def _layouts() -> dict[str, Layout]:
    """Batches are of 24 images, which so many devices have to divide."""
    devices = max(n for n in (1, 2, 4, 8) if n <= jax.device_count())
    found = {
        "the same again": Layout(1),
        "an epoch in a call": Layout(1, {"train.steps_per_call": 100}),
        "resumed": Layout(1, resumes=True),
        "on the host's CPU": Layout(0),
        f"pmap, {devices}": Layout(devices, {"parallel": "pmap"}),
        "accumulate": Layout(1, {"train.accumulate_steps": 3}),
        "remat": Layout(1, {"model.remat": True}),
        "bfloat16": Layout(1, {"dtype": "bfloat16"}),
    }
    if devices > 1:
        found[f"jit, {devices}"] = Layout(devices)
        found[f"fsdp, {devices}"] = Layout(devices, {"mesh.fsdp": devices})
    return found


def _compare(model: str, name: str, short: bool) -> dict:
    layout = _layouts()[name]
    plain = _one_device(model, short)
    begin = time.perf_counter()
    ours = _train(model, layout, short)
    seconds = time.perf_counter() - begin
    if "train.steps_per_call" in layout.changes:  # there is one loss of an epoch
        plain = plain | {"losses": plain["losses"].reshape(EPOCHS, -1).mean(1)}
    same = all(np.array_equal(value, _end(plain[key], value)) for key, value in ours.items())
    return compare.differences(ours, plain) | {"same bits": same, "seconds": seconds}


def _end(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The last of some losses, as a resumed run has them; other arrays are as long."""
    return values[-len(like) :] if like.ndim else values


@functools.cache
def _one_device(model: str, short: bool) -> dict[str, np.ndarray]:
    return _train(model, Layout(1), short)


def _train(model: str, layout: Layout, short: bool) -> dict[str, np.ndarray]:
    """Two epochs: the losses, and what is in the model afterwards."""
    config = runs.make_config(model, not short, "float32")
    config.update_from_flattened_dict(layout.changes)
    devices = jax.devices()[: layout.devices] if layout.devices else jax.devices("cpu")[:1]
    split = _split(model, short)
    with _FULL():
        run = runs.Run(config, devices, split)
        if layout.resumes:
            with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as saved:
                run.epoch(0)
                saved.save(Progress(run.state, run.zero), run.per_epoch, {})
                saved.wait()
                run = runs.Run(config, devices, split)
                _, (run.state, _), _ = saved.restore_newest(run.like)
            losses = run.epoch(1)
        else:
            losses = [loss for epoch in range(EPOCHS) for loss in run.epoch(epoch)]
        return {"losses": np.array(losses), **run.whole(run.state.reported._asdict())}


def _split(model: str, short: bool) -> Dataset:
    """Of two steps of the small models in an epoch, if `short`."""
    return runs.random_split(runs.SMALL[model], 2 * 48) if short else runs.random_split()


def text_of_layouts(states: dict[str, State], device: dict) -> str:
    """The table."""
    lines = [
        "| run | first loss | losses | parameters | same bits | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in states["layouts"].figures.items():
        gaps = [found[key] for key in ("first loss", "losses", "parameters")]
        cells = [*(f"{gap:.0e}" for gap in gaps), "yes" if found["same bits"] else "no"]
        lines.append(f"| {name} | {' | '.join(cells)} | {found['seconds']:.0f} |")
    return "\n".join(lines)


# Nothing beside the computation

_compilations = []


def _count(name: str, seconds: float, **_) -> None:
    if name.endswith("backend_compile_duration"):
        _compilations.append(seconds)


jax.monitoring.register_event_duration_secs_listener(_count)
QUIET = ("vit", "simple_cnn", "airbench94")


def quiet(job: Job) -> dict[str, Callable]:
    """Epochs of the engine's loop in which no transfer is allowed but those that are asked for."""
    return {name: functools.partial(_guarded, name, job.short) for name in job.of(QUIET)}


def _guarded(case: str, short: bool) -> dict:
    config = tasks.config_of(case, **(tasks.short_changes(case) if short else {}))
    count = (2 if short else 64) * config.train.batch_size
    training = jax_side.Training(config, *tasks.random_images(config, count))
    program, progress = training.program, Progress(*training.carry)
    train_feed = jax_side.feed.Resident(training.splits.train, training.layout)
    compiled, seconds = [], []
    for epoch in range(4):
        before, begin = len(_compilations), time.perf_counter()
        with jax.transfer_guard("disallow"):
            for call in program.train_calls(train_feed, epoch, 0):
                progress = program.train(train_feed, call, progress, lambda line: None)
            jax.block_until_ready(progress)
        compiled.append(len(_compilations) - before)
        seconds.append(time.perf_counter() - begin)
    images = training.per_epoch * config.train.batch_size
    return {"compiled": compiled, "images_per_sec": images / min(seconds[1:])}


def text_of_quiet(states: dict[str, State], device: dict) -> str:
    """The table."""
    lines = ["| model | programs compiled, by epoch | images/s |", "|---|---|---|"]
    for name, found in states["quiet"].figures.items():
        compiled = ", ".join(map(str, found["compiled"]))
        lines.append(f"| `{name}` | {compiled} | {found['images_per_sec']:,.0f} |")
    return "\n".join(lines)
