"""Runs that are killed or stopped again and again, and finish all the same."""

import dataclasses
import random
import time
from pathlib import Path

from tests.soak import compare, damage
from tests.soak.runs import VARIANTS, Child, expect
from tests.soak.soak import Soak, Try, told_with
from tests.soak.watch import SIGNALS, Shot, Watch, draw_shots, fire

_SHOTS = (4, 9)  # fewest and most in one run
STOPPED = 75
_ANYHOW = (0, STOPPED, 130, 143, -2, -15)  # where nothing is to be saved, or all is saved


def all_rounds(soak: Soak, kills: int) -> None:
    """Runs of every variant in turn until there were that many kills and stops, or a few more."""
    if soak.only:
        one_round(soak, int(soak.only.split("/")[1]))
        return
    number = 0
    while len(soak.tries) < kills and number < 5 + kills:  # a round may fail, or come too late
        one_round(soak, number, at_most=kills - len(soak.tries))
        number += 1


def one_round(soak: Soak, number: int, at_most: int = _SHOTS[1]) -> None:
    """The round of that number, with its first shots."""
    name = list(VARIANTS)[number % len(VARIANTS)]

    def round_(rng, folder):
        shots = draw_shots(rng, rng.randint(*_SHOTS), soak.startup_seconds(name))
        return kill_round(soak, name, folder, shots[:at_most])

    soak.attempt(f"kills/{number}", f"killed: {name}", round_)


def cold_rounds(soak: Soak, names: tuple[str, ...] = ("vit", "cnn")) -> None:
    """Runs that are killed while they compile and prepare data, with empty caches."""
    for i, name in enumerate(names):

        def round_(rng, folder, name=name):
            extra = caches(folder)
            # Compilation takes several times as long as finding programs in the cache.
            longest = 3 * soak.startup_seconds(name)
            shots = [Shot("SIGKILL", "start-up", 1, rng.uniform(1, longest)) for _ in range(4)]
            tries = kill_round(soak, name, folder, shots, extra)
            return [dataclasses.replace(t, kind=f"{t.kind}, caches empty at first") for t in tries]

        soak.attempt(f"cold/{i}", "SIGKILL in start-up, caches empty at first", round_)


def damaged_caches(soak: Soak, names: tuple[str, ...] = ("vit", "cnn")) -> None:
    """Compiled programs cut or changed, as by a kill while JAX writes one, which is not atomic."""
    for i, name in enumerate(names):

        def try_(rng, folder, name=name):
            extra = caches(folder)
            expect(Child(VARIANTS[name], folder / "first", folder / "logs", extra=extra))
            begin = time.monotonic()
            entries = sorted((folder / "compiled").glob("*-cache"))
            assert entries, "there is no compiled program"
            for entry in entries:
                rng.choice((damage.truncate, damage.flip))(entry, rng)
            child = Child(VARIANTS[name], folder / "run", folder / "logs", extra=extra)
            expect(child)
            soak.check(name, folder / "run")
            soak.say(f"cold/{folder.name}: {name}: {len(entries)} programs damaged: equal")
            return [Try("compiled programs damaged", time.monotonic() - begin)]

        soak.attempt(f"cold/{len(names) + i}", "compiled programs damaged", try_)


def caches(folder: Path) -> dict[str, str]:
    """Environment variables that give a run caches of its own."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_VIT_CNN_CACHE": str(folder / "data"),
    }


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
