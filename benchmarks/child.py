"""One process of a race: sets a task up, then runs it each time a line comes in.

Prints one JSON line when it is ready and one after each run. What is timed follows on an untimed
run, because a process that waited has lost its caches, and on some machines its program's pages.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Read what to do from the one argument, a JSON object."""
    job = json.loads(sys.argv[1])
    if job["side"] == "jax":
        _use_cache()
    training = _create(job)
    if job["task"] == "epoch" and job["side"] == "jax":
        _epochs(training)
        return
    run = getattr(
        training, {"train": "train_steps", "eval": "eval_steps", "epoch": "epochs"}[job["task"]]
    )
    for _ in range(3):
        begin = time.perf_counter()
        run(1)
        once = time.perf_counter() - begin
    count = max(1, round(job.get("seconds", 1.5) / once)) if job["task"] != "epoch" else 1
    _tell(ready=True)
    for _ in sys.stdin:
        if job.get("memory"):
            _forget_peak()
        else:
            run(-(-count // 4))
        begin = time.perf_counter()
        images = run(count)
        _tell(seconds=time.perf_counter() - begin, images=images, peak=_peak())


def _create(job):
    from benchmarks import tasks

    config = tasks.config_of(job["case"], **job.get("changes", {}))
    batches = job.get("batches", 10)
    data = tasks.random_images(config, batches * config.train.batch_size)
    if job["side"] == "torch":
        from benchmarks import torch_side

        return torch_side.Training(config, *data, **job.get("options", {}))
    from benchmarks import jax_side

    return jax_side.Training(config, *data)


def _use_cache():
    """Compiled programs are kept between races, as in training."""
    from jax_train.train import enable_compilation_cache

    enable_compilation_cache()


def _epochs(training):
    begin, warm = None, False

    def told(images):
        nonlocal begin, warm
        if warm:  # this was the untimed one
            warm, begin = False, time.perf_counter()
            return
        if begin is None:  # the first epoch compiles
            _tell(ready=True)
        else:
            _tell(seconds=time.perf_counter() - begin, images=images, peak=_peak())
        if not sys.stdin.readline():
            os._exit(0)
        warm = True

    training.pace_epochs(told)


def _tell(**facts):
    print(json.dumps(facts), file=sys.__stdout__, flush=True)


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
