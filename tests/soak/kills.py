"""Runs that are killed or stopped again and again, and finish all the same."""

import random
import time
from pathlib import Path

from tests.soak import compare
from tests.soak.runs import VARIANTS, Child, expect
from tests.soak.soak import Soak, Try, told_with
from tests.soak.watch import SIGNALS, Shot, Watch, draw_shots, fire

SHOTS_OF_A_ROUND = (4, 9)  # fewest and most
STOPPED = 75
_ANYHOW = (0, STOPPED, 130, 143, -2, -15)  # where nothing is to be saved, or all is saved


def all_rounds(soak: Soak, kills: int) -> None:
    """Runs of every variant in turn until there were that many kills."""
    count = number = 0
    while count < kills:
        name = list(VARIANTS)[number % len(VARIANTS)]
        wanted = min(kills - count, random.Random(f"{soak.seed}/{number}").randint(*_bounds()))

        def round_(rng, folder, name=name, wanted=wanted):
            shots = draw_shots(rng, wanted, soak.reference(name).startup_seconds)
            return kill_round(soak, name, folder, shots)

        soak.attempt(f"kills/{number}", f"killed: {name}", round_)
        number += 1
        count += wanted


def _bounds():
    return SHOTS_OF_A_ROUND


def kill_round(soak: Soak, name: str, folder: Path, shots: list[Shot], extra=None) -> list[Try]:
    """One run, hit by shots until they are used up or it has finished.

    Args:
      soak: has the run to compare with.
      name: of the variant.
      folder: takes the run folder and the logs.
      shots: in order.
      extra: environment variables.
    """
    variant, workdir, logs = VARIANTS[name], folder / "run", folder / "logs"
    tries, history = [], []
    with told_with(history):
        for shot in shots:
            child = Child(variant, workdir, logs, extra=extra)
            watch = Watch(workdir, child)
            if not watch.wait_for(shot):
                history.append(f"{shot}: too late")
                break
            place, code = fire(watch, shot)
            step, split = watch.newest_row()
            history.append(f"{shot}: hit {place} after the row {step} {split}, exit code {code}")
            _check_end(shot, place, code, watch)
            soak.check_lines(name, child)
            tries.append(Try(f"{shot.signal} in {place}", time.monotonic() - child.began))
        else:
            child = Child(variant, workdir, logs, extra=extra)
        expect(child)
        soak.check_lines(name, child)
        soak.check(name, workdir)
    soak.say(f"{folder.name}: {name}: {len(tries)} hits, {', '.join(t.kind for t in tries)}; equal")
    return tries


def _check_end(shot: Shot, place: str, code: int, watch: Watch) -> None:
    """Check how a run ended that was hit.

    Raises:
      AssertionError: another exit code, other words or an older checkpoint than promised.
    """
    lines = watch.child.complaints()
    assert not any("Traceback" in line for line in lines), "a traceback:\n  " + "\n  ".join(lines)
    if shot.signal == "SIGKILL":
        assert code == -9, f"exit code {code}"
        assert not lines, f"words on stderr: {lines}"
        return
    codes = {STOPPED}
    if place in ("start-up", "finish"):
        codes = set(_ANYHOW)
    elif (watch.workdir / "results.json").exists():
        codes = {0}  # nothing was left to stop
    elif len(SIGNALS[shot.signal]) > 1:
        codes.add(128 + SIGNALS[shot.signal][1])
    assert code in codes, f"exit code {code} instead of {codes}; stderr: {lines}"
    assert len(lines) <= 2, f"more than two lines on stderr: {lines}"
    if code == STOPPED:
        assert any("same command" in line for line in lines), f"no advice on stderr: {lines}"
        saved = compare.steps_saved(watch.workdir / "checkpoints")
        newest = watch.newest_row()[0]
        assert saved, "nothing is saved"
        assert saved[-1] >= newest, f"step {saved[-1]} is saved, {newest} has a row"


def fixed_shots(seed: int) -> list[Shot]:
    """The five of the short form: three kills, one stop, one kill inside a save."""
    rng = random.Random(seed)
    return [
        Shot("SIGKILL", "step", rng.randint(8, 16), rng.uniform(0, 0.02)),
        Shot("SIGTERM", "step", rng.randint(8, 16), rng.uniform(0, 0.02)),
        Shot("SIGKILL", "save", rng.randint(1, 2), rng.uniform(0, 0.02)),
        Shot("SIGKILL", "evaluation", 1, 0.0),
        Shot("SIGKILL", "step", rng.randint(8, 16), rng.uniform(0, 0.02)),
    ]
