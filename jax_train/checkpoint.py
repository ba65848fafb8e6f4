"""Checkpoints of a run: the last one, and the best one by validation.

Orbax writes a checkpoint under a temporary name and renames it when it is complete, so a killed
run leaves whole checkpoints only.
"""

import contextlib
import logging
from pathlib import Path

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jax_train.errors import UserError
from jax_train.steps import TrainState


def _rank(figures: dict[str, float]) -> float:
    return figures["top1"]


# A failed write is raised, and told once, by `Checkpoints`; these would add tracebacks.
_NOISY_LOGGERS = ("absl", "asyncio")


class Checkpoints:
    """The folder `checkpoints/` of a run, one subfolder per step.

    Args:
      folder: created when missing; leave the `with` block to finish writing.
    """

    def __init__(self, folder: Path):
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        keep = [
            preservation_policy.LatestN(1),
            preservation_policy.BestN(
                get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            best_fn=_rank,
            best_mode="max",
            preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def last_step(self) -> int | None:
        """Step of the newest checkpoint, None without one."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the best validation top-1, None without validation."""
        return self._manager.best_step()

    def figures(self, step: int) -> dict[str, float] | None:
        """Validation figures saved with a step."""
        return self._manager.metrics(step)

    def save(self, state: TrainState, step: int, figures: dict[str, float] | None) -> None:
        """Start writing a checkpoint; returns before it is on disk.

        Args:
          state: what to save.
          step: its number of steps.
          figures: validation figures, None without validation.

        Raises:
          UserError: this or an earlier checkpoint could not be written.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state))
        with self._told():
            self._manager.save(step, args=args, metrics=figures)

    def restore(self, like: TrainState, step: int) -> TrainState:
        """Read a checkpoint.

        Args:
          like: shapes, and where the arrays are to go; a checkpoint knows nothing of devices.
          step: which one.

        Raises:
          UserError: the checkpoint cannot be read or has other shapes.
        """

        target = ocp.args.StandardRestore(like)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(state=target))["state"]
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"The checkpoint of step {step} in {self._manager.directory} cannot be read "
                f"({str(error).splitlines()[0]}). Delete its folder to go on from an older one, "
                "or the whole run folder to start again."
            ) from error

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
          UserError: a checkpoint could not be written.
        """
        with self._told():
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self.wait()
        with contextlib.suppress(Exception):  # of a failed write, which was raised before
            self._manager.close()

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except Exception as error:  # OSError, or TensorStore's errors as ValueError
            reason = " ".join(str(error).split())
            raise UserError(
                f"A checkpoint cannot be written to {self._manager.directory}: "
                f"{'the disk is full' if 'No space left' in reason else reason[:300]}. The same "
                "command goes on from the last complete checkpoint."
            ) from error
