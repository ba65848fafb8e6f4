"""Pieces of the measurement: lists of what can be measured by itself, and what is known of each.

A piece is one process of at most ten minutes at a time. Its results lie in a file that is whole at
any time, so that nothing is lost with a process and the same command goes on with what is left.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jax_train.files import json_text, write_atomically
from jax_train.printing import shorten

_TOLD = 300  # signs of an error that the page shows
START = "start"  # stands for a measurement where a process ends before its first


class Unfinished(Exception):
    """The time was over before a measurement was; it goes on where it was. Says how far it is."""


@dataclass(frozen=True)
class Job:
    """What a measurement has to know.

    Attributes:
      folder: of all results, absolute.
      cases: models to be measured, as the pieces call them; None for all.
      data_dir: as of `config.data.data_dir`.
      short: one step of tiny models, to see that all works; no figures to keep.
      seconds: that the process may take.
      session: a name of this call of the command.
      begin: `time.monotonic()` at the start of the process.
    """

    folder: Path
    cases: Collection[str] | None = None
    data_dir: str | None = None
    short: bool = False
    seconds: float = math.inf
    session: str = ""
    begin: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.begin)

    def of(self, known: Iterable[str]) -> list[str]:
        """Those of some models that are to be measured."""
        return [name for name in known if self.cases is None or name in self.cases]

    @property
    def device(self) -> dict:
        """See `device.describe`."""
        return read(self.folder, "device").figures["device"]


@dataclass(frozen=True)
class Piece:
    """Measurements that belong together.

    Attributes:
      title: above its part of the page.
      measurements: by name, of a job; called in turn, they return figures of JSON's types.
      text: tables of what is known of all pieces, and the facts of the device; None: those of
        another piece tell of it.
      how: what is measured, for the page.
      needs: seconds that a measurement is thought to take before one is known.
      alone: whether each measurement has a process of its own.
      environment: of the processes, beside that of the command; its flags of XLA are kept.
    """

    title: str
    measurements: Callable[[Job], dict[str, Callable[[], dict]]]
    text: Callable[[dict[str, "State"], dict], str] | None
    how: str = ""
    needs: float = 60
    alone: bool = False
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class State:
    """What is known of a piece.

    Attributes:
      figures: of each measurement that is done.
      errors: (session, text) of each that failed.
      paused: of each that goes on another time, how far it is.
      seconds: that each took.
      now: the one that is under way.
      planned: names of all measurements that were ever asked for.
      asked: those of the last process.
    """

    figures: dict[str, dict] = field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    paused: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    now: str | None = None
    planned: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def fail(self, name: str, session: str, text: str) -> None:
        """Note that a measurement failed in a session, and why."""
        self.now = None
        self.paused.pop(name, None)
        self.errors[name] = session, shorten(" ".join(text.split()), _TOLD)

    def pause(self, name: str, text: str) -> None:
        """Note that a measurement is to go on another time."""
        self.now, self.paused[name] = None, text

    def end(self, name: str, figures: dict) -> None:
        """Keep what a measurement found."""
        self.now, self.figures[name] = None, figures
        self.errors.pop(name, None)
        self.paused.pop(name, None)

    def todo(self, names: Iterable[str], session: str) -> list[str]:
        """What of these is not done, nor failed in this session; what failed before comes last."""
        left = [name for name in names if name not in self.figures]
        left = [name for name in left if self.errors.get(name, (None,))[0] != session]
        return sorted(left, key=lambda name: name in self.errors)


def read(folder: Path, name: str) -> State:
    """What is known of a piece, in the order that was planned; nothing before it began."""
    file = _file(folder, name)
    state = State(**json.loads(file.read_text())) if file.exists() else State()
    order = [*state.planned, *state.figures]
    state.figures = {one: state.figures[one] for one in order if one in state.figures}
    return state


def write(folder: Path, name: str, state: State) -> None:
    """Keep what is known of a piece."""
    write_atomically(_file(folder, name), json_text(asdict(state), indent=1) + "\n")


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def carry_out(name: str, piece: Piece, job: Job) -> None:
    """Measure what is left of a piece, as long as there is time; what fails is noted."""
    state = read(job.folder, name)
    measurements = piece.measurements(job)
    state.errors.pop(START, None)
    state.asked = list(measurements)
    state.planned = list(dict.fromkeys([*state.planned, *measurements]))
    write(job.folder, name, state)
    for one in state.todo(measurements, job.session):
        if job.left < max(state.seconds.values(), default=0 if job.short else piece.needs):
            break
        state.now = one
        write(job.folder, name, state)
        begin = time.monotonic()
        try:
            state.end(one, measurements[one]())
            state.seconds[one] = round(time.monotonic() - begin, 1)
        except Unfinished as unfinished:
            state.pause(one, str(unfinished))
        except Exception as error:  # whatever it is, the others are to be measured
            state.fail(one, job.session, f"{type(error).__name__}: {error}")
        write(job.folder, name, state)
        if piece.alone:
            break


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command and the process of a piece are both told."""
    parser.add_argument("--folder", help="of the results (runs/accelerator)")
    parser.add_argument("--cases", nargs="+", metavar="MODEL", help="these models only")
    parser.add_argument("--data_dir", help="as config.data.data_dir")
    parser.add_argument("--short", action="store_true", help="a step of tiny models, on any device")
