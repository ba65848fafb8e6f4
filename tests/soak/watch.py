"""Where a run is, seen from outside: by its files and what it prints."""

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from tests.soak.runs import EVAL_STEPS, TOTAL, Child

PLACES = ("start-up", "step", "save", "evaluation", "finish")
SIGNALS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
}
_POLL_SECONDS = 0.002
_LONGEST_DELAY = {"step": 0.05, "save": 0.08, "evaluation": 0.02, "finish": 0.6}


@dataclass(frozen=True)
class Shot:
    """One signal to one start of the run.

    Args:
      signal: a key of `SIGNALS`.
      place: where to hit; one of `PLACES`.
      count: steps to let pass, or the how-manieth save to hit.
      delay: seconds to wait then; in start-up since the start.
      gap: seconds between two signals.
    """

    signal: str
    place: str
    count: int
    delay: float
    gap: float = 0.0


def draw_shots(rng: random.Random, number: int, startup_seconds: float) -> list[Shot]:
    """Draw signals and moments of one run; those at its finish come last."""
    shots = []
    for _ in range(number):
        place = rng.choices(PLACES, (2, 4, 4, 2, 1))[0]
        kind = rng.choices(list(SIGNALS), (64, 14, 14, 8))[0]
        longest = _LONGEST_DELAY.get(place, startup_seconds)
        steps = max(1, min(2 * TOTAL // number, TOTAL // 2))
        count = rng.randint(1, 3 if place == "save" else steps)
        shots.append(Shot(kind, place, count, rng.uniform(0, longest), rng.uniform(0.1, 0.15)))
    return sorted(shots, key=lambda shot: shot.place == "finish")


class Watch:
    """A run folder and the process that works in it.

    Args:
      workdir: the run folder.
      child: started a moment ago, or about to be.
    """

    def __init__(self, workdir: Path, child: Child):
        self.workdir, self.child = workdir, child
        self._left_over = self._unfinished()

    def _unfinished(self) -> set[tuple[str, int]]:
        """Saves that have begun; the inode tells a new folder from an old one of that name."""
        try:
            folders = list((self.workdir / "checkpoints").iterdir())
            return {(p.name, p.stat().st_ino) for p in folders if "checkpoint-tmp" in p.name}
        except FileNotFoundError:  # none yet, or renamed in between
            return set()

    def saves(self) -> set[tuple[str, int]]:
        """Saves of this process that are not complete."""
        return self._unfinished() - self._left_over

    def newest_row(self) -> tuple[int, str]:
        """Step and split of the last whole row of metrics.csv; (0, '') without rows."""
        try:
            text = (self.workdir / "metrics.csv").read_bytes()
        except FileNotFoundError:
            return 0, ""
        last = text[: text.rfind(b"\n") + 1].splitlines()[-1:]
        step, _, split, *_ = (*last[0].decode().split(","), "", "") if last else ("", "", "")
        return (int(step), split) if step.isdigit() else (0, "")

    def place(self) -> str:
        """Where the run is now, one of `PLACES`."""
        printed = self.child.printed()
        compiled = any(line.startswith("memory on each device") for line in printed)
        resumed = any(line.startswith("going on after") for line in printed)
        step, split = self.newest_row()
        if (compiled or resumed) and step == TOTAL and split in ("val", "test"):
            return "finish"
        if self.saves():
            return "save"
        if not compiled:
            return "start-up"
        return "evaluation" if step and step % EVAL_STEPS == 0 and split == "train" else "step"

    def wait_for(self, shot: Shot) -> bool:
        """Wait for a shot's moment; False when the process ended before."""
        reached = getattr(self, f"_reach_{shot.place.replace('-', '')}")(shot)
        if reached and shot.place not in ("start-up", "step"):
            time.sleep(shot.delay)
        return reached and self.child.running()

    def _until(self, condition) -> bool:
        while self.child.running():
            if condition():
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _reach_startup(self, shot):
        return self._until(lambda: time.monotonic() > self.child.began + shot.delay)

    def _reach_step(self, shot):
        # Rows of steps that are to be done again are gone only when the first step is compiled.
        if not self._until(lambda: self.place() not in ("start-up", "save")):
            return False
        target = self.newest_row()[0] + shot.count
        if not self._until(lambda: self.newest_row()[0] >= target):
            return False
        time.sleep(shot.delay)
        return self._until(lambda: self.place() == "step")

    def _reach_save(self, shot):
        seen = set()

        def enough():
            seen.update(self.saves())
            return len(seen) >= shot.count and bool(self.saves())

        return self._until(enough)

    def _reach_evaluation(self, shot):
        del shot
        return self._until(lambda: self.place() == "evaluation")

    def _reach_finish(self, shot):
        del shot
        return self._until(lambda: self.place() == "finish")


def fire(watch: Watch, shot: Shot) -> tuple[str, int]:
    """Send a shot's signals; return where they hit and the exit code."""
    place = watch.place()
    for i, number in enumerate(SIGNALS[shot.signal]):
        time.sleep(shot.gap if i else 0)
        watch.child.send(number)
    code = watch.child.wait()
    if shot.signal == "SIGKILL":  # the files are as it left them, which is more exact
        place = watch.place()
    return place, code
