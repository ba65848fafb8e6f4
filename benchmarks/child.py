"""One process of a race: sets a task up, then runs it each time a line comes in.

Prints one JSON line when it is ready and one after each run. Short runs begin when the side is as
fast as it was before it waited (see `steady.py`).
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

from benchmarks import steady


def main() -> None:
    """Read what to do from the one argument, a JSON object."""
    job = json.loads(sys.argv[1])
    if job.get("one_core"):
        os.environ["OMP_NUM_THREADS"] = "1"
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if job["task"] != "epoch":
        _answer(job, _repeated(job))
    elif job["side"] == "jax":
        _follow(_create(job))
    else:
        training = _create(job)
        training.epoch()  # what is compiled is compiled now
        _answer(job, lambda: _whole(training.epoch))


def _repeated(job):
    """A function that takes a sample of steps."""
    training = _create(job)
    clock = time.process_time if job.get("one_core") else time.perf_counter
    run = training.train_steps if job["task"] == "train" else training.eval_steps
    pace = steady.Pace(run, job.get("seconds", 1.5), job.get("limit", 10), clock)
    if job.get("memory"):
        return lambda: _forget_peak() or pace.sample()
    return pace.sample


def _whole(epoch):
    begin = time.perf_counter()
    images = epoch()
    return steady.Sample([time.perf_counter() - begin], images, True)


def _answer(job, sample):
    """Take a sample for each line that comes in; a JSON object changes the job."""
    _tell(ready=True)
    for line in sys.stdin:
        if line.startswith("{"):
            sample = _repeated(job | json.loads(line))
            _tell(ready=True)
        else:
            _tell_sample(sample())


def _follow(training):
    """The same for the epochs of the engine's own loop, the first of which compiles."""
    begin = None

    def told(images):
        nonlocal begin
        if begin is None:
            _tell(ready=True)
        else:
            _tell_sample(steady.Sample([time.perf_counter() - begin], images, True))
        if not sys.stdin.readline():
            os._exit(0)
        begin = time.perf_counter()

    training.pace_epochs(told)


def _create(job):
    from benchmarks import tasks

    make = tasks.published_config if job.get("published") else tasks.config_of
    config = make(job["case"], **job.get("changes", {}))
    batches = 10
    if job["task"] == "epoch":  # validation sets are large, so the last batch of it matters little
        batches = tasks.CASES[job["case"]].epoch
        config.eval.batch_size = config.train.batch_size
    batches = job.get("batches", batches)
    count = max(batches * config.train.batch_size, config.eval.batch_size)
    data = tasks.random_images(config, count)
    if job["side"] == "torch":
        from benchmarks import torch_side

        return torch_side.Training(config, *data, **job.get("options", {}))
    from benchmarks import jax_side
    from jax_train.machine import runtime

    runtime.prepare()  # compiled programs are kept between races, as in training
    return jax_side.Training(config, *data)


def _tell(**facts):
    print(json.dumps(facts), file=sys.__stdout__, flush=True)


def _tell_sample(sample):
    _tell(**sample._asdict(), peak=_peak())


def _forget_peak():
    """Give free memory back, and let Linux count the peak anew."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """Largest resident memory since then, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


if __name__ == "__main__":
    main()
