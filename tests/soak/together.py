"""Two runs on one folder."""

import random
import signal
import time
from pathlib import Path

from tests.soak.runs import VARIANTS, Child, expect
from tests.soak.soak import Soak, Try
from tests.soak.watch import Shot, Watch

REFUSED = 2


def all_pairs(soak: Soak, number: int = 3) -> None:
    """Each way of meeting that many times."""
    ways = {
        "second run while one trains": second_refused,
        "second run, then the first killed": first_killed,
        "two runs started together": started_together,
    }
    for i in range(number * len(ways)):
        kind = list(ways)[i % len(ways)]
        name = list(VARIANTS)[i % len(VARIANTS)]

        def try_(rng, folder, kind=kind, name=name):
            soak.reference(name)  # made now, so that its time does not count
            begin = time.monotonic()
            ways[kind](soak, name, rng, folder)
            soak.check(name, folder / "run")
            soak.say(f"together/{folder.name}: {name}: {kind}: equal")
            return [Try(kind, time.monotonic() - begin, told=True)]

        soak.attempt(f"together/{i}", kind, try_)


def _check_refusal(child: Child, holder: Child) -> None:
    expect(child, (REFUSED,), lines=1)
    text = child.complaints()[0]
    assert f"in use by process {holder.pid} " in text, f"does not name process {holder.pid}: {text}"


def _start_two(name: str, rng: random.Random, folder: Path) -> Child:
    """A run in the middle of training that has seen a second one refused."""
    first = Child(VARIANTS[name], folder / "run", folder / "logs")
    watch = Watch(folder / "run", first)
    assert watch.wait_for(Shot("", "step", rng.randint(1, 20), 0)), "the run ended by itself"
    first.send(signal.SIGSTOP)  # or it might be finished before the second one asks
    _check_refusal(Child(VARIANTS[name], folder / "run", folder / "logs"), first)
    return first


def second_refused(soak: Soak, name: str, rng: random.Random, folder: Path) -> None:
    """The second is refused and the first ends as if nothing had happened."""
    del soak
    first = _start_two(name, rng, folder)
    first.send(signal.SIGCONT)
    expect(first)


def first_killed(soak: Soak, name: str, rng: random.Random, folder: Path) -> None:
    """The lock dies with its holder."""
    del soak
    first = _start_two(name, rng, folder)
    first.send(signal.SIGKILL)
    first.wait()
    expect(Child(VARIANTS[name], folder / "run", folder / "logs"))


def started_together(soak: Soak, name: str, rng: random.Random, folder: Path) -> None:
    """Exactly one of two is refused, whichever it is."""
    children = []
    for delay in (0, rng.uniform(0, soak.startup_seconds(name) / 2)):
        time.sleep(delay)
        children.append(Child(VARIANTS[name], folder / "run", folder / "logs"))
    codes = [child.wait() for child in children]
    assert sorted(codes) == [0, REFUSED], f"exit codes {codes}"
    refused = codes.index(REFUSED)
    _check_refusal(children[refused], children[1 - refused])
    expect(children[1 - refused])
