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


def half_done(name: str, folder: Path) -> Path:
    """A run that was killed late, with two checkpoints."""
    workdir = folder / "run"
    child = Child(VARIANTS[name], workdir, folder / "logs")
    watch = Watch(workdir, child)
    while child.running() and not (watch.newest_row()[0] >= _LATE and watch.place() == "step"):
        time.sleep(0.002)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, f"the run ended by itself: {child.complaints()}"
    assert len(compare.steps_saved(workdir / "checkpoints")) >= 2
    return workdir


def all_damages(soak: Soak, names: tuple[str, ...] = ("vit", "cnn")) -> None:
    """Every kind of damage to every file of the newest checkpoint, and some more."""
    runs = {name: half_done(name, soak.folder / f"half-done-{name}") for name in names}
    number = 0
    for kind, function in damages(runs[names[0]]).items():
        name = names[number % len(names)]

        def try_(rng, folder, name=name, function=function, kind=kind):
            return [damaged(soak, name, runs[name], folder, kind, function, rng)]

        soak.attempt(f"files/{number}", kind.split(":")[0], try_)
        number += 1
    for name in names:
        shutil.rmtree(soak.folder / f"half-done-{name}")


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
    try:
        expect(child, lines=1)
        lines = child.complaints()
        if lines:
            assert f"step {step} is damaged" in lines[0], f"an unclear line: {lines[0]}"
            aside = workdir / "checkpoints" / f"{step}.damaged"
            assert aside.is_dir(), f"{aside} is missing"
        soak.check_lines(name, child)
        soak.check(name, workdir)
    except (AssertionError, TimeoutError) as error:
        raise type(error)(f"{name}, step {step}, {done}: {error}") from error
    told = bool(lines) if "metrics.csv" not in kind else None
    soak.say(f"{folder.name}: {name}: {done}: {'told' if told else 'not told'}, equal")
    return Try(kind.split(":")[0], time.monotonic() - begin, told)
