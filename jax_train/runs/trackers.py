"""Experiment trackers besides metrics.csv: TensorBoard and Weights & Biases."""

import importlib.util
import os
import time
import uuid
from pathlib import Path
from typing import Protocol

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.config.fields import flatten
from jax_train.errors import UserError
from jax_train.files import write_atomically
from jax_train.printing import readable

_SHOWN_EVERY = 30  # seconds after which TensorBoard sees what came


class Tracker(Protocol):
    """Something that takes the figures of a run.

    Its methods raise an OSError where files cannot be written.
    """

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take figures, such as {'train/loss': 0.3}, after a number of steps."""

    def close(self) -> None:
        """Finish writing."""


class TensorBoard:
    """Event files in the folder `tensorboard` of a run: `tensorboard --logdir runs`.

    This thread writes them. `SummaryWriter` has another one do it, and where that one has failed,
    as on a full disk, waits for it for ever.

    Args:
      workdir: the run folder.
      step: steps done before; figures after it that are there already are hidden.
    """

    def __init__(self, workdir: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog

        folder = workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._events, self._shown_at = EventsWriter(str(folder / "events")), 0.0
        self._write(step + 1, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **content) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._events.write_event(Event(step=step, wall_time=time.time(), **content))

    def log(self, step: int, values: dict[str, float]) -> None:
        """See `Tracker`."""
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._write(step, summary=scalar(name, value))
        if (now := time.monotonic()) - self._shown_at > _SHOWN_EVERY:
            self._events.flush()
            self._shown_at = now

    def close(self) -> None:
        """See `Tracker`."""
        self._events.close()


class WandB:
    """A run of Weights & Biases that goes on when the training does.

    Without a network set WANDB_MODE=offline; `wandb sync` sends the run later.

    Args:
      project: that the run belongs to.
      workdir: the run folder; keeps the run's id in `wandb_id`.
      config: shown with the run.

    Raises:
      UserError: Weights & Biases refuses the run.
    """

    def __init__(self, project: str, workdir: Path, config: ConfigDict):
        import wandb

        place = workdir / "wandb_id"
        if not place.exists():
            write_atomically(place, uuid.uuid4().hex[:12])
        fields = {k: readable(v) if isinstance(v, str) else v for k, v in flatten(config).items()}
        facts = {"project": project, "name": readable(workdir.name), "config": fields}
        try:
            how = {"id": place.read_text(), "resume": "allow", "dir": str(workdir)}
            self._run = wandb.init(**facts, **how, settings=wandb.Settings(silent=True))
        except Exception as error:  # wandb has many kinds
            raise UserError(
                f"config.log.wandb={project!r}: Weights & Biases cannot start "
                f"({' '.join(str(error).split())[:200]}). Run `wandb login` first, set "
                "WANDB_MODE=offline, or unset the field."
            ) from error

    def log(self, step: int, values: dict[str, float]) -> None:
        """See `Tracker`."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
CHECKS = {"log.tensorboard": ranges.switch, "log.wandb": ranges.text}


def check(config: ConfigDict) -> None:
    """Raise a UserError when a tracker is asked for whose package is not installed."""
    for field, package in _PACKAGES.items():
        if config.log[field] and importlib.util.find_spec(package) is None:
            expected = f"the package {package} to be installed"
            cure = f"Run pip install -e '.[{field}]', or unset the field."
            raise ranges.refusal(f"log.{field}", config.log[field], expected, cure)


def start(config: ConfigDict, workdir: str | os.PathLike, step: int) -> list[Tracker]:
    """Start the trackers that `config.log` asks for, of a run that has done `step` steps.

    Raises:
      UserError: one cannot be started.
    """
    workdir = Path(workdir)
    board = [TensorBoard(workdir, step)] if config.log.tensorboard else []
    wandb = [WandB(config.log.wandb, workdir, config)] if config.log.wandb else []
    return board + wandb
