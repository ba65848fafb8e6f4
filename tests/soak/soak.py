"""What all kinds of faults share: uninterrupted runs to compare with, tries, and their count."""

import contextlib
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.soak import compare
from tests.soak.runs import VARIANTS, Child, Variant, expect
from tests.soak.watch import Watch


@dataclass(frozen=True)
class Try:
    """One fault a run was hit with and came out of.

    Args:
      kind: what the table calls it.
      seconds: it took.
      told: whether the run said a line about it; None where it has nothing to say.
    """

    kind: str
    seconds: float
    told: bool | None = None


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run.

    Args:
      outcome: its files.
      lines: those it printed about its epochs.
      bytes: of its folder.
    """

    outcome: compare.Outcome
    lines: frozenset[str]
    bytes: int


class Soak:
    """One series of tries.

    Args:
      folder: takes the run folders; those of failed tries stay.
      seed: everything random follows from it and the name of the try.
      only: the name of the single try to run, '' for all.
      say: called with lines for people.
    """

    def __init__(self, folder: Path, seed: int, only: str = "", say: Callable = print):
        self.folder, self.seed, self.only, self.say = folder, seed, only, say
        self.tries: list[Try] = []
        self.failed: dict[str, int] = {}  # by kind
        self._references, self._startups = {}, {}

    def reference(self, name: str) -> Reference:
        """The uninterrupted run of a variant, made on first use."""
        if name not in self._references:
            self._references[name] = self._run_through(VARIANTS[name])
        return self._references[name]

    def _run_through(self, variant: Variant) -> Reference:
        place = self.folder / f"uninterrupted-{_as_name(variant)}"
        child = Child(variant, place / "run", place / "logs")
        expect(child)
        size = sum(path.stat().st_size for path in (place / "run").rglob("*"))
        lines = frozenset(_epoch_lines(child))
        self.say(
            f"{variant.name}: {len(lines)} evaluations in {time.monotonic() - child.began:.1f} s, "
            "uninterrupted"
        )
        return Reference(compare.load(place / "run"), lines, size)

    def startup_seconds(self, name: str) -> float:
        """How long a variant takes until its first step is compiled, with filled caches."""
        if name not in self._startups:
            self.reference(name)  # fills the caches
            place = self.folder / f"started-{_as_name(VARIANTS[name])}"
            child = Child(VARIANTS[name], place / "run", place / "logs")
            while child.running() and Watch(place / "run", child).place() == "start-up":
                time.sleep(0.01)
            self._startups[name] = time.monotonic() - child.began
            child.stop()
        return self._startups[name]

    def attempt(self, name: str, kind: str, function: Callable) -> list[Try]:
        """Run one try, unless `only` names another.

        Args:
          name: of the try, GROUP/NUMBER.
          kind: what a failure is counted as.
          function: (random.Random, folder) -> list of `Try`; raises AssertionError or
            TimeoutError when the run did not come out as it should.
        """
        if self.only not in ("", name):
            return []
        folder = self.folder / name
        try:
            tries = function(random.Random(f"{self.seed}/{name}"), folder)
        except (AssertionError, TimeoutError) as error:
            self.failed[kind] = self.failed.get(kind, 0) + 1
            self.say(
                f"FAILED {name} ({kind}): {error}\n  left in place: {folder}\n  again: "
                f"python -m tests.soak --seed {self.seed} --only {name}"
            )
            return []
        shutil.rmtree(folder)
        self.tries += tries
        return tries

    def check(self, name: str, workdir: Path) -> None:
        """Compare a finished run with the uninterrupted one.

        Raises:
          AssertionError: they differ; says in what.
        """
        try:
            found = compare.load(workdir)
        except OSError as error:
            raise AssertionError(f"the run is not whole: {error}") from error
        lines = compare.differences(found, self.reference(name).outcome)
        assert not lines, "not equal to the uninterrupted run:\n  " + "\n  ".join(lines)

    def check_lines(self, name: str, child: Child) -> None:
        """Check that what a run printed of its epochs is what the uninterrupted one printed.

        Raises:
          AssertionError: it printed other figures.
        """
        others = [line for line in _epoch_lines(child) if line not in self.reference(name).lines]
        assert not others, f"printed by no uninterrupted run: {others[0]}"


def _as_name(variant: Variant) -> str:
    return variant.name.replace(",", "").replace(" ", "-")


def _epoch_lines(child: Child) -> list[str]:
    return [line for line in child.printed() if line.startswith("epoch ") and "train loss" in line]


@contextlib.contextmanager
def told_with(history: list[str]):
    """Add what was done so far to the message of a failure."""
    try:
        yield
    except (AssertionError, TimeoutError) as error:
        raise type(error)("\n  ".join([f"{error}", "after:", *history])) from error
