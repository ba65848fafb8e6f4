"""What a run tells of its training while it goes on: rows of metrics.csv, lines, and failures."""

import os
from pathlib import Path

import jax
import numpy as np

from jax_train.engine import metrics
from jax_train.engine.program import Program
from jax_train.engine.state import Progress
from jax_train.errors import UserError
from jax_train.machine import processes
from jax_train.machine.clock import Clock
from jax_train.runs.log import RunLog
from jax_train.runs.results import write_results


class Reporter:
    """The figures of a run under way.

    Args:
      program: what the run computes with.
      log: where the figures go.
      workdir: the run folder.
      since_eval: sums of the log points since the last evaluation.

    Attributes:
      clock: of the run.
    """

    def __init__(
        self,
        program: Program,
        log: RunLog,
        workdir: str | os.PathLike,
        since_eval: list[metrics.TrainSums],
    ):
        self._program, self._workdir = program, Path(workdir)
        self.log, self.since_eval = log, list(since_eval)
        self.clock = Clock(log.seconds)

    def count(self, steps: int, sums: metrics.TrainSums) -> None:
        """Count steps that were started."""
        self.log.advance(steps)
        self.clock.count(steps * self._program.recipe.batch_size, sums)

    def show(self, progress: Progress, step: int, saved_step: int | None) -> Progress:
        """Write the figures since the last log point; this waits for the device.

        Args:
          progress: after `step`.
          step: steps done.
          saved_step: of the newest checkpoint.

        Returns:
          The progress with its sums at zero.

        Raises:
          UserError: a step was not finite, and such steps are not to be skipped.
        """
        sums = metrics.TrainSums(*(value.item() for value in jax.device_get(progress.sums)))
        if sums.skipped:
            self._tell_skipped(sums, saved_step)
        if sums.count:
            self.since_eval.append(sums)
            figures, speed = metrics.train_figures(sums), self.clock.images_per_sec()
            self.row("train", step, figures, speed)
            self.log.show(step / self._program.steps_per_epoch, figures, speed)
        return progress._replace(sums=self._program.zero_sums())

    def of_epoch(self) -> dict[str, float]:
        """Training figures since the last evaluation, which is now."""
        figures = metrics.train_figures(metrics.add_up(self.since_eval))
        self.since_eval = []
        return figures

    def row(self, split: str, step: int, figures: dict[str, float], speed: float | str = ""):
        """Write a row of metrics.csv."""
        epoch = step / self._program.steps_per_epoch
        rate = float(self._program.schedule.learning_rate[step - 1])
        more = {"images_per_sec": speed, "learning_rate": rate, "seconds": self.clock.seconds()}
        self.log.row(step=step, split=split, epoch=epoch, **more, **figures)

    def _tell_skipped(self, sums: metrics.TrainSums, saved_step: int | None) -> None:
        """Say that steps were not finite; stop the run unless they are to be skipped."""
        program, step = self._program, sums.bad_step + 1
        rate = float(program.schedule.learning_rate[sums.bad_step])
        what = f"the loss or gradient of step {step} is not finite (learning rate {rate:.3g})"
        if program.recipe.skip_nonfinite:
            others = f", and {sums.skipped - 1} more" if sums.skipped > 1 else ""
            self.log.line(f"skipped: {what}{others}")
            return
        epoch, row = divmod(sums.bad_step, program.steps_per_epoch)
        batch = np.asarray(program.order(epoch))[row].ravel()
        place = self._workdir / "nonfinite.json"
        if processes.is_main():
            write_results(place, {"step": step, "learning_rate": rate, "batch": batch.tolist()})
        kept = f"the checkpoint of step {saved_step}" if saved_step is not None else "no checkpoint"
        more = f" and {len(batch) - 5} more" if len(batch) > 5 else ""
        raise UserError(
            f"{what[0].upper()}{what[1:]}. Nothing was learned from there on; {kept} is kept. Its "
            f"batch, {batch[:5].tolist()}{more} of "
            f"{program.config.data.train_split!r}, is listed in {place}. "
            "Lower config.optim.learning_rate or set config.optim.clip_norm in another --workdir, "
            "or go on without such steps: --config.train.on_nonfinite=skip."
        )
