"""Several processes that take turns at the same work, so that noise hits all of them alike."""

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jax_train.errors import UserError
from jax_train.printing import say

# For both sides alike: keep freed memory, ask for huge pages, one arena. Page faults on large
# temporaries cost virtual machines dearly.
_TUNABLES = {"hugetlb": 1, "mmap_max": 0, "trim_threshold": 10**11, "top_pad": 2**28}
_TUNABLES |= {"arena_max": 1}
ALLOCATOR = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{k}={v}" for k, v in _TUNABLES.items())}
_DISTURBED = 0.1  # share of the machine that other processes may use during a sample
_TRIES = 4


@dataclass
class Samples:
    """What one racer did.

    Attributes:
      speeds: images per second of its steps, by sample.
      peaks: megabytes, by sample.
      disturbed: samples thrown away.
      kept_disturbed: samples kept although they were disturbed.
      unsettled: samples taken although the racer was slower than before it waited.
    """

    speeds: list[list[float]] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    disturbed: int = 0
    kept_disturbed: int = 0
    unsettled: int = 0

    @property
    def median(self) -> float:
        """Images per second: of all steps, so that a slow one among them counts for little."""
        return statistics.median(itertools.chain(*self.speeds))

    @property
    def spread(self) -> float | None:
        """Half the range of the samples' medians, as a share of the median; None of one sample."""
        medians = [statistics.median(sample) for sample in self.speeds]
        return (max(medians) - min(medians)) / 2 / self.median if len(medians) > 1 else None


def race(
    jobs: dict[str, dict], rounds: int, allocator: dict[str, str] = ALLOCATOR
) -> dict[str, Samples]:
    """Run every job once a round, one after the other.

    Args:
      jobs: name -> what `child.py` is told; a racer that cannot start is left out with a note.
      rounds: samples of each.
      allocator: environment of all racers.
    """
    [samples] = races(jobs, rounds, [{}], allocator)
    return samples


def races(
    jobs: dict[str, dict], rounds: int, changes: list[dict], allocator: dict[str, str] = ALLOCATOR
) -> Iterator[dict[str, Samples]]:
    """Several races of the same processes: as `race`, with changes to the jobs for each.

    Raises:
      UserError: the first side or all others did not start, or one ended; nothing is compared.
    """
    environment = os.environ | allocator
    ready = {}
    for name, job in jobs.items():  # one by one: threads of two would wait for each other's cores
        racer = _start(job | changes[0], environment)
        if racer.stdout.readline():
            ready[name] = racer
        else:
            racer.wait()
            say(f"{name} did not start", error=True)
    try:
        _check_started(jobs, ready)
        yield from _races(jobs, ready, rounds, changes)
    finally:
        for racer in ready.values():
            with contextlib.suppress(BrokenPipeError):  # it has ended
                racer.stdin.close()
            racer.wait()


def _check_started(jobs, ready):
    first = next(iter(jobs))
    if first in ready and len(ready) >= min(2, len(jobs)):
        return
    told = f"{first} alone started" if first in ready else f"{first} did not start"
    raise UserError(
        f"{told}, so that there is nothing to compare. BENCH_VERBOSE=1 before the command shows "
        "what the others said."
    )


def _races(jobs, ready, rounds, changes):
    for i, change in enumerate(changes):
        for racer in ready.values() if i else ():
            print(json.dumps(change), file=racer.stdin, flush=True)
            _answer(racer)
        samples = {name: Samples() for name in ready}
        for _ in range(rounds):
            for name, racer in ready.items():
                _sample(racer, samples[name], jobs[name].get("one_core"))
        yield samples


@contextlib.contextmanager
def left_out(row: str) -> Iterator[None]:
    """Tell of a row that cannot be measured; the others are to be."""
    try:
        yield
    except UserError as error:
        say(f"{row} is left out: {error}", error=True)


def _start(job, environment):
    quiet = None if os.environ.get("BENCH_VERBOSE") else subprocess.DEVNULL
    command = [job.get("python", sys.executable), "-m", "benchmarks.child", json.dumps(job)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": quiet}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def _answer(racer) -> dict:
    """What a racer says next; a UserError where it has ended."""
    if line := racer.stdout.readline():
        return json.loads(line)
    raise UserError(
        f"A side ended in the middle of the race, with code {racer.wait()}: {racer.args[-1]}\n"
        "BENCH_VERBOSE=1 before the command shows what it said; -9 is often a lack of memory."
    )


def _sample(racer, samples, one_core=False):
    for _ in range(_TRIES):
        before, begin = _busy(racer.pid), time.perf_counter()
        print("go", file=racer.stdin, flush=True)
        facts = _answer(racer)
        others = _busy(racer.pid) - before
        # Time on a core leaves out what other programs took of it.
        share = others / ((time.perf_counter() - begin) * os.cpu_count())
        disturbed = not one_core and share > _DISTURBED
        samples.disturbed += disturbed
        if not disturbed:
            break
    samples.kept_disturbed += disturbed
    samples.unsettled += not facts["settled"]
    samples.speeds.append([facts["images"] / seconds for seconds in facts["beats"]])
    samples.peaks.append(facts["peak"])


def _busy(pid: int) -> float:
    """Seconds of processor time that all other processes have used (Linux; elsewhere 0)."""
    try:
        total = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        user, nice, system, _, _, irq, softirq, *_ = map(int, total)
        own = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    ticks = user + nice + system + irq + softirq - int(own[11]) - int(own[12])
    return ticks / os.sysconf("SC_CLK_TCK")
