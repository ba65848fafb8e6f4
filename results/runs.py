"""Training runs by their commands: carried out in turn, gone on with, and read."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from jax_train.errors import UserError
from jax_train.machine import stopping
from jax_train.printing import say

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """A run of train_jax.py.

    Attributes:
      name: its folder below that of all runs.
      recipe: of `configs/`, without `.py`.
      fields: what is set beside the recipe, `config.` left out of the names.
    """

    name: str
    recipe: str
    fields: dict[str, object] = field(default_factory=dict)

    def command(self, folder: Path) -> list[str]:
        """What to call behind `python`, its run folder below `folder`."""
        fields = [f"--config.{name}={value}" for name, value in self.fields.items()]
        workdir = str(folder / self.name)
        recipe = f"configs/{self.recipe}.py"
        return ["train_jax.py", "--config", recipe, "--workdir", workdir, *fields]


class Stopped(Exception):
    """The time was over before a run was; the same call goes on where it is."""


def carry_out(runs: list[Run], folder: Path, seconds: float | None = None) -> dict[str, int | None]:
    """Carry out in turn what is not finished; an interrupted run goes on where it was.

    Args:
      runs: each may start from those before it.
      folder: of all run folders, absolute.
      seconds: after which a run is asked to stop; None: never.

    Returns:
      By name the largest resident memory of the process in bytes; None of a run that was finished.

    Raises:
      UserError: a run failed or was stopped; it has said why.
      Stopped: a run was asked to stop, and is not finished.
    """
    end = None if seconds is None else time.monotonic() + seconds
    return {run.name: None if is_finished(run, folder) else _call(run, folder, end) for run in runs}


def _call(run: Run, folder: Path, end: float | None) -> int:
    command = run.command(folder)
    say(f"{run.name}: python {shlex.join(command)}")
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    with _asked_to_stop(process, end), _signals_passed_on(process):
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode in (stopping.EXIT_CODE, -signal.SIGTERM) and end is not None:
        raise Stopped(run.name)
    if process.returncode:
        why = f"The run {run.name} ended with code {process.returncode}; what it said stands above."
        raise UserError(f"{why} The same command goes on with what is left.")
    return used.ru_maxrss * 1024


@contextlib.contextmanager
def _asked_to_stop(process: subprocess.Popen, end: float | None):
    """Ask a process to stop when the time has come, at which a run saves what it has."""
    if end is None:
        yield
        return
    timer = threading.Timer(max(0, end - time.monotonic()), process.terminate)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _signals_passed_on(process: subprocess.Popen):
    """Pass SIGTERM on, so that no process goes on training that nobody waits for."""
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def is_finished(run: Run, folder: Path) -> bool:
    """Whether the run has its results."""
    return (folder / run.name / "results.json").exists()


def read(run: Run, folder: Path) -> dict:
    """The results of a finished run."""
    return json.loads((folder / run.name / "results.json").read_text())
