"""Training runs by their commands: carried out in turn, gone on with, and read."""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

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


def carry_out(runs: list[Run], folder: Path) -> None:
    """Carry out in turn what is not finished; an interrupted run goes on where it was.

    Args:
      runs: each may start from those before it.
      folder: of all run folders, absolute.

    Raises:
      subprocess.CalledProcessError: a run failed; it has said why.
    """
    for run in runs:
        if not is_finished(run, folder):
            command = run.command(folder)
            say(f"{run.name}: python {shlex.join(command)}")
            subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def is_finished(run: Run, folder: Path) -> bool:
    """Whether the run has its results."""
    return (folder / run.name / "results.json").exists()


def read(run: Run, folder: Path) -> dict:
    """The results of a finished run."""
    return json.loads((folder / run.name / "results.json").read_text())
