"""When a run saves a checkpoint, what it goes on from, and how it stops."""

import time

import jax

from jax_models import cpu
from jax_train.data import Splits
from jax_train.engine.metrics import TrainSums
from jax_train.engine.program import Program
from jax_train.engine.state import Progress
from jax_train.machine import processes
from jax_train.machine.stopping import Stopped, StopSignals
from jax_train.printing import say
from jax_train.runs import results
from jax_train.runs.checkpoint import NEVER_BEST, Checkpoints, rank


def passes(before: int, step: int, every: int) -> bool:
    """Whether a multiple of `every` lies after `before` and not after `step`."""
    return step // every > before // every


class Patience:
    """Early stopping: how many validations in a row were not better than the best before.

    What is better is what makes a checkpoint the best one, but for equals (see `checkpoint.rank`).

    Args:
      most: so many end the run; 0: none do.
    """

    def __init__(self, most: int):
        self.most, self._best, self.waited = most, NEVER_BEST, 0

    def see(self, figures: dict[str, float], counts: bool = True) -> None:
        """Take the figures of a validation, and whether it counts where it is not better."""
        found = rank(figures)
        self.waited = 0 if found > self._best or not counts else self.waited + 1
        self._best = max(found, self._best)

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return 0 < self.most <= self.waited

    @property
    def facts(self) -> dict:
        """For a checkpoint; of JSON's types."""
        return {"patience": [self._best, self.waited]} if self.most else {}

    def recall(self, facts: dict) -> None:
        """Go on from the facts of a checkpoint; one of a run without patience has none."""
        self._best, self.waited = facts.get("patience", (NEVER_BEST, 0))


class Saver:
    """The checkpoints of a run under way.

    Args:
      program: what the run computes with.
      checkpoints: of its folder.
      signals: that may ask it to stop.
      conditions: what the bits of the run depend on besides its config, see `find_conditions`.

    Attributes:
      saved_step: of the newest checkpoint; None without one.
      patience: with the validations.
    """

    def __init__(
        self, program: Program, checkpoints: Checkpoints, signals: StopSignals, conditions: dict
    ):
        self.checkpoints, self._signals, self._conditions = checkpoints, signals, conditions
        self._total_steps = program.total_steps
        # Looking a field of the config up takes as long as a step of a small model.
        config, fields = program.config, program.config.checkpoint
        self._due = fields.every_steps, fields.every_minutes, config.log.every_steps
        self.saved_step, self._saved_at = None, time.monotonic()
        self.patience = Patience(config.train.patience)

    def restore(self, like: Progress) -> tuple[int, Progress, list[TrainSums]] | None:
        """Go back to the newest checkpoint, saying what has changed since.

        Returns:
          (step, progress, training sums since the last evaluation); None without a checkpoint.
        """
        found = self.checkpoints.restore_newest(like)
        if found is None:
            return None
        self.saved_step, progress, facts = found
        self.patience.recall(facts)
        then, now = facts["conditions"], self._conditions
        changed = [name for name in then if then[name] != now.get(name)]
        if changed and processes.is_main():
            text = ", ".join(f"{name} {then[name]} -> {now.get(name)}" for name in changed)
            say(f"note: the last bits may differ from an unbroken run: {text}")
        return self.saved_step, progress, [TrainSums(*sums) for sums in facts["since_eval"]]

    def is_due(self, before: int, step: int) -> bool:
        """Whether a checkpoint is due after `step`, where the last call ended at `before`."""
        every_steps, every_minutes, log_every = self._due
        due = every_steps > 0 and passes(before, step, every_steps)
        if every_minutes > 0 and passes(before, step, log_every):
            late = time.monotonic() - self._saved_at > 60 * every_minutes
            due |= processes.on_main(lambda: late)
        return due

    def save(
        self, progress: Progress, step: int, since_eval: list[TrainSums], figures: dict | None
    ) -> None:
        """Start writing a checkpoint that a run goes on from as if nothing had happened."""
        if self.saved_step == step:
            return
        facts = {"since_eval": list(since_eval), "conditions": self._conditions}
        facts |= self.patience.facts
        self.checkpoints.save(progress, step, facts, figures)
        self.saved_step, self._saved_at = step, time.monotonic()

    def is_asked_to_stop(self) -> bool:
        """Whether a signal came, to whichever process; all have to ask."""
        return processes.anywhere(self._signals.asked)

    def stop(self, step: int) -> None:
        """Leave, with everything saved.

        Raises:
          Stopped: always.
        """
        self.checkpoints.wait()
        raise Stopped(step, self._total_steps)


def find_conditions(program: Program, splits: Splits) -> dict[str, str]:
    """What the bits of a run depend on besides the config."""
    return results.versions() | {
        "platform": jax.default_backend(),
        "products by": cpu.library(),
        "dtype": program.recipe.dtype,
        "layout": program.layout.describe(),
        "program": "one step a call" if program.steps_per_call == 1 else "several steps a call",
        "data": "streamed" if splits.train.streamed else "resident",
    }
