"""One process of a race: sets a task up, then runs it each time a line comes in.

Prints one JSON line when it is ready and one after each run. Short runs follow on an untimed one,
because a process that waited has lost its caches, and on some machines its program's pages.
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
    if job.get("one_core"):
        os.environ["OMP_NUM_THREADS"] = "1"
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if job["task"] != "epoch":
        _answer(job, *_repeated(job))
    elif job["side"] == "jax":
        _follow(_create(job))
    else:
        training = _create(job)
        training.epoch()  # what is compiled is compiled now
        _answer(job, training.epoch)


def _repeated(job):
    """A function that runs a sample, and one that makes ready for it."""
    training = _create(job)
    run = training.train_steps if job["task"] == "train" else training.eval_steps
    for _ in range(job.get("warm", 3)):
        begin = time.perf_counter()
        run(1)
        once = time.perf_counter() - begin
    count = max(1, round(job.get("seconds", 1.5) / once))
    before = _forget_peak if job.get("memory") else lambda: run(-(-count // 2))
    return lambda: run(count), before


def _answer(job, run, before=lambda: None):
    """Run once for each line that comes in, `before` it untimed; a JSON object changes the job."""
    clock = time.process_time if job.get("one_core") else time.perf_counter
    _tell(ready=True)
    for line in sys.stdin:
        if line.startswith("{"):
            run, before = _repeated(job | json.loads(line))
            _tell(ready=True)
            continue
        before()
        begin = clock()
        images = run()
        _tell(seconds=clock() - begin, images=images, peak=_peak())


def _follow(training):
    """The same for the epochs of the engine's own loop, the first of which compiles."""
    begin = None

    def told(images):
        nonlocal begin
        if begin is None:
            _tell(ready=True)
        else:
            _tell(seconds=time.perf_counter() - begin, images=images, peak=_peak())
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
