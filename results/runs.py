"""Training runs by their commands: carried out in turn, gone on with, and read."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from jax_train.errors import UserError
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


def carry_out(runs: list[Run], folder: Path) -> dict[str, int | None]:
    """Carry out in turn what is not finished; an interrupted run goes on where it was.

    Args:
      runs: each may start from those before it.
      folder: of all run folders, absolute.

    Returns:
      By name the largest resident memory of the process in bytes; None of a run that was finished.

    Raises:
      UserError: a run failed or was stopped; it has said why.
    """
    return {run.name: None if is_finished(run, folder) else _call(run, folder) for run in runs}


def _call(run: Run, folder: Path) -> int:
    command = run.command(folder)
    say(f"{run.name}: python {shlex.join(command)}")
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        why = f"The run {run.name} ended with code {process.returncode}; what it said stands above."
        raise UserError(f"{why} The same command goes on with what is left.")
    return used.ru_maxrss * 1024


def is_finished(run: Run, folder: Path) -> bool:
    """Whether the run has its results."""
    return (folder / run.name / "results.json").exists()


def read(run: Run, folder: Path) -> dict:
    """The results of a finished run."""
    return json.loads((folder / run.name / "results.json").read_text())
