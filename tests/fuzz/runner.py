"""Try random inputs for some minutes: `python -m tests.fuzz --minutes 3`.

The inputs are tried in a process of their own, so that a crash or a hang is told with its seed
too. The first failure ends the run with exit code 1.
"""

import argparse
import faulthandler
import itertools
import multiprocessing
import random
import time
import traceback
from collections import Counter, defaultdict

import tests.conftest  # noqa: F401  JAX is set up as for the tests
from tests.fuzz import cases


def main() -> int:
    """Read the command line and fuzz; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--kind", choices=cases.CASES, help="only this kind of input")
    parser.add_argument("--seed", type=int, help="try this one input and show what happens")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--hang", type=float, default=60, help="seconds one input may take (default: 60)"
    )
    given = parser.parse_args()
    if given.seed is not None:
        kinds = [given.kind] if given.kind else list(cases.CASES)
        return max(replay(kind, given.seed) for kind in kinds)
    return fuzz(
        [given.kind] if given.kind else list(cases.CASES), given.start, given.minutes, given.hang
    )


def replay(kind: str, seed: int) -> int:
    """Try one input in this process; return 1 if it fails."""
    try:
        print(f"{kind}, seed {seed}: {cases.CASES[kind](random.Random(seed))}")
        return 0
    except Exception:
        print(told(kind, seed, traceback.format_exc()))
        return 1


def told(kind: str, seed: int, what: str) -> str:
    """Say what failed, and how to see it again."""
    return (
        f"FAILED: {kind}, seed {seed}\n{what.rstrip()}\n"
        f"Again: python -m tests.fuzz --kind '{kind}' --seed {seed}"
    )


def fuzz(kinds: list[str], start: int, minutes: float, hang: float) -> int:
    """Try inputs in turn until the time is over; print the counts and any failure."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(theirs, kinds, start), daemon=True)
    worker.start()
    theirs.close()
    counts, slowest = defaultdict(Counter), Counter()
    end, failure = time.monotonic() + 60 * minutes, ""
    kind, seed = kinds[0], start
    while not failure and time.monotonic() < end:
        try:
            if not ours.poll(hang):
                failure = told(kind, seed, f"no answer within {hang:g} s: it hangs")
                break
            message = ours.recv()
        except EOFError:
            worker.join()
            failure = told(kind, seed, f"the process died with exit code {worker.exitcode}")
            break
        if len(message) == 2:
            kind, seed = message
            continue
        outcome, seconds, failure = message
        counts[kind][outcome] += 1
        if seed >= start + 3:  # the first ones load libraries
            slowest[kind] = max(slowest[kind], seconds)
    worker.kill()
    print(table(counts, slowest))
    print(failure or f"No failure. Seeds {start} to {seed}.")
    return 1 if failure else 0


def work(pipe, kinds: list[str], start: int) -> None:
    """Try inputs for ever; say which one before, and what came of it afterwards."""
    faulthandler.enable()
    for seed, kind in ((seed, kind) for seed in itertools.count(start) for kind in kinds):
        pipe.send((kind, seed))
        began, failure = time.monotonic(), ""
        try:
            outcome = cases.CASES[kind](random.Random(seed))
        except BaseException:
            outcome, failure = "failed", told(kind, seed, traceback.format_exc())
        pipe.send((outcome, time.monotonic() - began, failure))


def table(counts: dict[str, Counter], slowest: Counter) -> str:
    """The counts of each kind, and of all."""
    lines = [f"{'input':<18}{'tried':>9}{'accepted':>10}{'refused':>9}{'failed':>8}{'slowest':>10}"]
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    for kind, count in rows:
        seconds = slowest[kind] if kind in slowest else max(slowest.values(), default=0)
        lines.append(
            f"{kind:<18}{count.total():>9,}{count[cases.ACCEPTED]:>10,}{count[cases.REFUSED]:>9,}"
            f"{count['failed']:>8,}{seconds:>8.2f} s"
        )
    return "\n".join(lines)
