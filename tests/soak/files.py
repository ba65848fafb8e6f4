"""Runs whose newest checkpoint went bad between two starts."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.soak import compare, damage
from tests.soak.runs import STEPS_PER_EPOCH, TOTAL, VARIANTS, Child, expect
from tests.soak.soak import Soak, Try
from tests.soak.watch import Watch

_LATE = TOTAL - 2 * STEPS_PER_EPOCH  # little is left to do then


def half_done(name: str, folder: Path, validated: bool) -> Path:
    """A run that was killed late, with two checkpoints.

    Args:
      name: of the variant.
      folder: takes the run folder and the logs.
      validated: whether the newest checkpoint is one of an evaluation, with its figures.
    """
    workdir = folder / "run"
    child = Child(VARIANTS[name], workdir, folder / "logs")
    watch = Watch(workdir, child)

    def late_enough():
        if validated:
            return (workdir / "checkpoints" / str(_LATE)).is_dir()
        return watch.newest_row()[0] >= _LATE - STEPS_PER_EPOCH and watch.place() == "step"

    while child.running() and not late_enough():
        time.sleep(0.002)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, f"the run ended by itself: {child.complaints()}"
    saved = compare.steps_saved(workdir / "checkpoints")
    assert len(saved) >= 2, f"checkpoints of steps {saved}"
    assert (saved[-1] == _LATE) == validated, f"checkpoints of steps {saved}"
    return workdir


def all_damages(soak: Soak) -> None:
    """Every kind of damage, to every other file of the newest checkpoint of a ViT and a CNN."""
    number = 0
    for first, name in enumerate(("vit", "cnn")):
        run = half_done(name, soak.folder / f"half-done-{name}", validated=bool(first))
        for kind, function in list(damages(run).items())[first::2]:

            def try_(rng, folder, name=name, run=run, function=function, kind=kind):
                return [damaged(soak, name, run, folder, kind, function, rng)]

            soak.attempt(f"files/{number}", kind.split(":")[0], try_)
            number += 1
        shutil.rmtree(run.parent)


def damages(workdir: Path) -> dict[str, Callable]:
    """All kinds of damage: (run folder, random.Random) -> what was done."""
    files = damage.data_files(newest(workdir))
    found = {}
    for kind, function in damage.KINDS.items():
        for i, path in enumerate(files):
            found[f"file {kind}: {path} ({i})"] = _on_file(function, i)
    for i, path in enumerate(files):
        if path.name == "manifest.ocdbt":
            found[f"manifest overwritten: {path} ({i})"] = _on_file(damage.scramble, i)
    found["checkpoint emptied: all"] = lambda run, rng: damage.empty(newest(run), rng)
    found["checkpoint emptied: the arrays"] = lambda run, rng: damage.empty(
        newest(run) / "state", rng
    )
    found["last row of metrics.csv torn: "] = _tear_row
    return found


def _on_file(function, index):
    def apply(workdir: Path, rng: random.Random) -> str:
        checkpoint = newest(workdir)
        path = damage.data_files(checkpoint)[index]
        return f"{path}: {function(checkpoint / path, rng)}"

    return apply


def _tear_row(workdir: Path, rng: random.Random) -> str:
    row = f"{TOTAL},12,train,0.123456,0.5,0.9,1000,0.001,9"
    text = row[: rng.randrange(1, len(row))]
    with open(workdir / "metrics.csv", "a") as file:
        file.write(text)
    return f"{text!r} at its end"


def newest(workdir: Path) -> Path:
    """The newest checkpoint's folder."""
    checkpoints = workdir / "checkpoints"
    return checkpoints / str(compare.steps_saved(checkpoints)[-1])


def damaged(soak: Soak, name: str, run: Path, folder: Path, kind: str, function, rng) -> Try:
    """Damage a copy of a run and go on with it.

    Args:
      soak: has the run to compare with.
      name: of the variant.
      run: the half-done run folder.
      folder: takes the copy.
      kind: of the damage; what stands before its colon is what the table calls it.
      function: one of `damages`.
      rng: says where.
    """
    begin = time.monotonic()
    workdir = folder / "run"
    shutil.copytree(run, workdir)
    step = newest(workdir).name
    done = function(workdir, rng)
    child = Child(VARIANTS[name], workdir, folder / "logs")
    problems = []
    for check in (
        lambda: expect(child, lines=1),
        lambda: _check_line(child, workdir, step),
        lambda: soak.check_lines(name, child),
        lambda: soak.check(name, workdir),
    ):
        try:
            check()
        except (AssertionError, TimeoutError) as error:
            problems.append(str(error))
    assert not problems, "\n  ".join([f"{name}, step {step}, {done}", *problems])
    lines = child.complaints()
    told = bool(lines) if "metrics.csv" not in kind else None
    soak.say(f"{folder.name}: {name}: {done}: {'told' if told else 'not told'}, equal")
    return Try(kind.split(":")[0], time.monotonic() - begin, told)


def _check_line(child: Child, workdir: Path, step: str) -> None:
    lines = child.complaints()
    if lines:
        assert f"step {step} is damaged" in lines[0], f"an unclear line: {lines[0]}"
        aside = workdir / "checkpoints" / f"{step}.damaged"
        assert aside.is_dir(), f"{aside} is missing"
