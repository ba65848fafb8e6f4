"""Many single bytes flipped in checkpoints, and what the run's own code then reads."""

import random
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from tests.soak import damage, files
from tests.soak.runs import VARIANTS
from tests.soak.soak import Soak, Try

_OF_TEXTS = 5  # times as many: a changed digit is still a number


class Read(NamedTuple):
    """All that a run takes from its checkpoints."""

    step: int
    arrays: list[bytes]
    facts: object
    best: int | None
    figures: dict | None


def all_flips(soak: Soak, number: int) -> None:
    """Flip that many bytes in each file of a checkpoint, one at a time; more in short texts.

    Args:
      soak: counts.
      number: of bytes in each file.
    """
    for i, name in enumerate(("vit", "cnn")):

        def try_(rng, folder, name=name, validated=bool(i)):
            run = files.half_done(name, folder, validated)
            return flips(name, run, rng, number, soak.say)

        soak.attempt(f"bytes/{i}", "byte flipped, read again", try_)


def flips(name: str, run: Path, rng: random.Random, number: int, say=print) -> list[Try]:
    """Flip bytes of the newest checkpoint of a run, one at a time, and read it each time.

    Raises:
      AssertionError: something else was read than was saved, and not a word said of it.
    """
    reader = Reader(name, run)
    copy, newest = run.parent / "copy", files.newest(run)
    whole, older = reader.read(run)[0], reader.read(_without(newest, copy))[0]
    tries, wrong = [], []
    for index, path in enumerate(damage.data_files(newest)):
        for _ in range(number * (_OF_TEXTS if path.parts[0] in ("meta", "metrics") else 1)):
            begin = time.monotonic()
            shutil.rmtree(copy)
            shutil.copytree(run, copy)
            place = copy / "checkpoints" / newest.name / path
            done = damage.flip(place, rng)
            try:
                found, told = reader.read(copy)
            except Exception as error:
                wrong.append(f"{path} ({index}), {done}: {type(error).__name__}: {error}")
                continue
            if found != (older if told else whole):
                wrong.append(f"{path} ({index}), {done}: {_what(found, older if told else whole)}")
                continue
            kind = "byte flipped, noticed" if told else "byte flipped where nothing is read"
            tries.append(Try(kind, time.monotonic() - begin, told=bool(told) or None))
    say(f"{name}: {len(tries)} flips came out well, {len(wrong)} did not")
    assert not wrong, "\n  ".join([f"{len(wrong)} of {len(wrong) + len(tries)} flips", *wrong[:20]])
    return tries


def _without(checkpoint: Path, copy: Path) -> Path:
    shutil.copytree(checkpoint.parents[1], copy)
    shutil.rmtree(copy / "checkpoints" / checkpoint.name)
    return copy


def _what(found: Read, expected: Read) -> str:
    names = [k for k in Read._fields if getattr(found, k) != getattr(expected, k)]
    return f"read something else, not told: {', '.join(names)} (step {found.step})"


class Reader:
    """Reads checkpoints as a run of a variant does.

    Args:
      name: of the variant.
      run: its run folder.
    """

    def __init__(self, name: str, run: Path):
        from jax_train import data
        from jax_train.engine import recipe
        from jax_train.engine.program import Program

        config = VARIANTS[name].config()
        splits = data.load_splits(config)
        self._like = Program(recipe.resolve(config, splits), splits.train).like

    def read(self, run: Path) -> tuple[Read, list[str]]:
        """What is read from a run folder, and the lines said about it."""
        import jax
        import numpy as np

        from jax_train.runs.checkpoint import Checkpoints

        lines = []
        with Checkpoints(run / "checkpoints", tell=lines.append) as checkpoints:
            step, progress, facts = checkpoints.restore_newest(self._like)
            best = checkpoints.restore_best(self._like)
            arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(progress)]
            figures = checkpoints.figures(best[0]) if best else None
            return Read(step, arrays, facts, best and best[0], figures), lines
