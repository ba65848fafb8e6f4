"""The training loop."""

import contextlib
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_models import cpu
from jax_train import checks, data
from jax_train.data import Splits, StreamedDataset
from jax_train.drawing.results import draw_curves
from jax_train.engine import feed, metrics, optim, parallel, steps
from jax_train.engine import recipe as build
from jax_train.engine.state import Progress, TrainState
from jax_train.errors import UserError
from jax_train.machine import allocator, processes
from jax_train.machine.clock import Clock
from jax_train.machine.runtime import enable_compilation_cache
from jax_train.machine.stopping import Stopped, StopSignals
from jax_train.printing import as_paragraph
from jax_train.runs import folder as run_folder
from jax_train.runs import log as report
from jax_train.runs.checkpoint import Checkpoints
from jax_train.runs.results import environment, versions, write_confusion, write_results


def train(config: ConfigDict, workdir: Path) -> dict:
    """Train a model, or go on with a run that was interrupted.

    Args:
      config: of the run; all of it is checked first.
      workdir: the run folder; it must be empty, missing, or hold a run of the same config.

    Returns:
      What results.json holds.

    Raises:
      UserError: the config cannot be trained or does not fit the data, files cannot be read or
        written, or a step is not finite.
      Stopped: SIGTERM or SIGINT came and everything is saved.
    """
    checks.check(config)
    enable_compilation_cache()
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if jax.process_count() > 1:  # the first process prepares the data, the others find it there
        processes.on_main(lambda: data.load_splits(config) and None)
    splits = data.load_splits(config)
    config = build.resolve(config, splits)
    trainer = Trainer(config, splits, workdir)  # refuses what it can before a folder is made
    with contextlib.ExitStack() as stack:
        processes.on_main(lambda: stack.enter_context(run_folder.locked(workdir)))
        processes.on_main(lambda: run_folder.create(workdir, config))
        try:
            return trainer.run()
        except OSError as error:
            raise UserError(
                f"The run folder {workdir} cannot be written: {error}. Make room there; the same "
                "command then goes on from the last checkpoint."
            ) from error


class Trainer:
    """One run: device data, compiled functions, checkpoints and files.

    Args:
      config: resolved (see `build.resolve`).
      splits: the data.
      workdir: the run folder; made before `run`.

    Raises:
      UserError: the config does not fit the data, the model or the devices.
    """

    def __init__(self, config: ConfigDict, splits: Splits, workdir: Path):
        self.config, self.splits, self.workdir = config, splits, workdir
        self.layout = parallel.create(config)
        self.layout.check_batch_size(config.train.batch_size, config.train.accumulate_steps)
        self.steps_per_epoch = len(splits.train) // config.train.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"config.train.batch_size={config.train.batch_size} is larger than the "
                f"{len(splits.train)} training images of {config.data.train_split!r}: "
                "choose at most that many."
            )
        self.total_steps = self.steps_per_epoch * config.train.epochs
        self.schedule = optim.schedule_tables(config, self.steps_per_epoch)
        self.recipe = build.create_recipe(config, self.schedule, self.layout, self.steps_per_epoch)
        self._eval_batch = self.layout.round_up(config.eval.batch_size)
        fields = config.checkpoint
        self._due = fields.every_steps, fields.every_minutes, config.log.every_steps
        self._trace()

    def _trace(self) -> None:
        """Find the state's shapes, without computing, and see whether the model takes the images.

        XLA compiles later, at the first call.
        """
        config, recipe = self.config, self.recipe

        def init():
            model = build.create_model(config, steps.init_rngs(config.seed))
            return steps.init_state(model, recipe.optimizer, config.dtype)

        shapes = jax.eval_shape(init)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
        self._shardings = self.layout.state_shardings(shapes)
        sums = jax.eval_shape(metrics.zero_train_sums)
        where = Progress(self._shardings, jax.tree.map(lambda _: self.layout.replicated, sums))
        self.like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            Progress(shapes, sums), where,
        )  # fmt: skip
        self.init = jax.jit(init, out_shardings=self._shardings)
        self._zero_sums = jax.jit(metrics.zero_train_sums, out_shardings=self.layout.replicated)
        self._order = jax.jit(
            functools.partial(steps.epoch_order, recipe, num_examples=len(self.splits.train)),
            out_shardings=self.layout.replicated,
        )
        image = jax.ShapeDtypeStruct((1, *self.splits.train.image_shape), jnp.uint8)
        try:
            jax.eval_shape(functools.partial(steps.logits, recipe), *shapes[1:3], image)
        except ValueError as error:
            raise UserError(f"config.model does not fit the data: {error}") from error

    def run(self) -> dict:
        """Train from the last checkpoint, or from the start, to the end; write all files.

        Raises:
          Stopped: SIGTERM or SIGINT came; a checkpoint of the last step is saved.
          UserError: a checkpoint cannot be read or written, or a step is not finite.
        """
        folder = self.workdir / "checkpoints"
        with (
            StopSignals() as self._signals,
            Checkpoints(folder, tell=_complain) as self.checkpoints,
        ):
            progress, step = self._start()
            self._announce(step)
            with report.RunLog(
                self.config, self.workdir, step, self.total_steps, active=processes.is_main()
            ) as self.log:
                self._clock = Clock(self.log.seconds)
                return self._finish(self._train(progress, step))

    def _start(self) -> tuple[Progress, int]:
        self._conditions = self._find_conditions()
        found = self.checkpoints.restore_newest(self.like)
        if found is None:
            self._saved_step, self._since_eval = None, []
            return Progress(self.init(), self._zero_sums()), 0
        step, progress, facts = found
        self._saved_step = step
        self._since_eval = [metrics.TrainSums(*sums) for sums in facts["since_eval"]]
        now = self._conditions
        changed = [
            f"{name} {before} -> {now.get(name)}"
            for name, before in facts["conditions"].items() if before != now.get(name)
        ]  # fmt: skip
        if changed and processes.is_main():
            print(f"note: the last bits may differ from an unbroken run: {', '.join(changed)}")
        return progress, step

    def _find_conditions(self) -> dict[str, str]:
        """What the bits of a run depend on besides the config."""
        calls = self._steps_per_call()
        return versions() | {
            "platform": jax.default_backend(),
            "products by": cpu.library(),
            "layout": self.layout.describe(),
            "program": "one step a call" if calls == 1 else "several steps a call",
            "data": "streamed" if isinstance(self.splits.train, StreamedDataset) else "resident",
        }

    def _announce(self, step: int) -> None:
        if not processes.is_main():
            return
        sizes = ", ".join(
            f"{len(split):,} {name}{' (streamed)' * isinstance(split, StreamedDataset)}"
            for name, split in {
                "train": self.splits.train, "validation": self.splits.val, "test": self.splits.test
            }.items()
            if split
        )  # fmt: skip
        shape = "x".join(map(str, self.splits.train.image_shape))
        where = f"{jax.default_backend()}, {self.layout.describe()}"
        if jax.process_count() > 1:
            where += f" in {jax.process_count()} processes"
        print(f"{self.config.model.name}: {self.parameters:,} parameters")
        print(f"{self.config.data.name}: {sizes} images of {shape}")
        print(f"{where}; run folder {self.workdir}")
        for note in self.splits.notes():
            print(note)
        if step:
            epoch = f"{step / self.steps_per_epoch:.4g} of {self.config.train.epochs}"
            print(f"going on after step {step} of {self.total_steps} (epoch {epoch})")

    def _train(self, progress: Progress, step: int) -> TrainState:
        self._compiled, self._calls = {}, 0
        self._saved_at = time.monotonic()
        state, self._sums = progress
        train_feed = feed.create(self.splits.train, self.layout)
        val_feed = feed.create(self.splits.val, self.layout) if self.splits.val else None
        first = step % self.steps_per_epoch
        for epoch in range(step // self.steps_per_epoch, self.config.train.epochs):
            state = self._run_epoch(epoch, first, state, train_feed)
            first, done = 0, epoch + 1
            if done == self.config.train.epochs or done % self.config.eval.every_epochs == 0:
                self._end_epoch(done, state, val_feed)
            elif self._is_due(done * self.steps_per_epoch):
                self._save(state, done * self.steps_per_epoch)
            if done < self.config.train.epochs:
                self._stop_if_asked(state, done * self.steps_per_epoch)
        return state

    def _run_epoch(self, epoch: int, first: int, state: TrainState, train_feed):
        order = self._order(self.layout.replicate(np.int32(epoch)))
        step, end = epoch * self.steps_per_epoch + first, (epoch + 1) * self.steps_per_epoch
        # Looking a field of the config up takes as long as a step of a small model.
        batch_size, log_every = self.config.train.batch_size, self.config.log.every_steps
        alone = jax.process_count() == 1
        for length, call in train_feed.train_calls(order, first, self._steps_per_call()):
            function = self._step_function(train_feed, length, (state, self._sums, *call))
            state, self._sums = function(state, self._sums, *call)
            self.layout.wait(self._sums)
            self._calls += 1
            if self._calls & (self._calls - 1) == 0:  # 1, 2, 4, …: soon, then hardly ever
                jax.block_until_ready(self._sums)
                allocator.trim()
            step, before = step + length, step
            self.log.advance(length)
            self._clock.count(length * batch_size, self._sums)
            logged = _passes(before, step, log_every)
            if logged:
                self._log(step)
            if step < end:  # at the end of an epoch, evaluation comes first
                if self._is_due(step, before):
                    self._save(state, step)
                # Several processes have to agree on the step, which takes a message.
                if logged or (alone and self._signals.asked):
                    self._stop_if_asked(state, step)
        return state

    def _is_due(self, step: int, before: int | None = None) -> bool:
        """Whether a checkpoint is due after `step`, the last one before having been `before`."""
        every_steps, every_minutes, log_every = self._due
        before = step - self._steps_per_call() if before is None else before
        due = every_steps > 0 and _passes(before, step, every_steps)
        if every_minutes > 0 and _passes(before, step, log_every):
            late = time.monotonic() - self._saved_at > 60 * every_minutes
            due |= processes.on_main(lambda: late)
        return due

    def _stop_if_asked(self, state: TrainState, step: int) -> None:
        """Save and leave after a signal, to whichever process it came."""
        if processes.anywhere(self._signals.asked):
            self._save(state, step)
            self.checkpoints.wait()
            raise Stopped(step, self.total_steps)

    def _save(self, state: TrainState, step: int, figures: dict | None = None) -> None:
        """Start writing a checkpoint that a run goes on from as if nothing had happened."""
        if not self.recipe.skip_nonfinite and int(self._sums.skipped):
            self._log(step)  # raises
        if self._saved_step == step:
            return
        self.log.to_disk()
        facts = {"since_eval": list(self._since_eval), "conditions": self._conditions}
        self.checkpoints.save(Progress(state, self._sums), step, facts, figures)
        self._saved_step, self._saved_at = step, time.monotonic()

    def _steps_per_call(self) -> int:
        # XLA's CPU convolutions are many times slower inside a loop.
        automatic = 1 if jax.default_backend() == "cpu" else 32
        return self.config.train.steps_per_call or automatic

    def _step_function(self, train_feed, length: int, args: tuple):
        """The compiled steps; says how much memory the first one takes."""
        if length not in self._compiled:
            if not self._compiled:
                self.log.line("compiling the training step")
            batch = train_feed.batch_argument
            compiled = self.layout.compile(
                train_feed.train_function(self.recipe, length), args, donate=(0, 1),
                out=(self._shardings, self.layout.replicated),
                batch=None if batch is None else batch + 2,
            )  # fmt: skip
            if not self._compiled:
                used = parallel.memory(compiled, args[0], train_feed.arrays)
                allocator.fit(used.step * jax.local_device_count())
                self.log.line(
                    f"memory on each device: {_megabytes(used.state)} for the state, "
                    f"{_megabytes(used.step)} more in a step"
                )
            self._compiled[length] = compiled
        return self._compiled[length]

    def _log(self, step: int) -> None:
        """Write the figures since the last log point; this waits for the device."""
        sums = metrics.TrainSums(*(value.item() for value in jax.device_get(self._sums)))
        self._sums = self._zero_sums()
        if sums.skipped:
            self._tell_skipped(sums)
        if sums.count == 0:
            return
        self._since_eval.append(sums)
        figures = metrics.train_figures(sums)
        speed = self._clock.images_per_sec()
        self._write("train", step, figures, speed)
        self.log.show(step / self.steps_per_epoch, figures, speed)

    def _tell_skipped(self, sums: metrics.TrainSums) -> None:
        """Say that steps were not finite; stop the run unless they are to be skipped."""
        step = sums.bad_step + 1
        rate = float(self.schedule.learning_rate[sums.bad_step])
        what = f"the loss or gradient of step {step} is not finite (learning rate {rate:.3g})"
        if self.recipe.skip_nonfinite:
            others = f", and {sums.skipped - 1} more" if sums.skipped > 1 else ""
            self.log.line(f"skipped: {what}{others}")
            return
        epoch, row = divmod(sums.bad_step, self.steps_per_epoch)
        batch = np.asarray(self._order(self.layout.replicate(np.int32(epoch))))[row].ravel()
        facts = {"step": step, "learning_rate": rate, "batch": batch.tolist()}
        if processes.is_main():
            write_results(self.workdir / "nonfinite.json", facts)
        kept = f"the checkpoint of step {self._saved_step}" if self._saved_step else "no checkpoint"
        raise UserError(
            f"{what[0].upper()}{what[1:]}. Nothing was learned from there on; {kept} is kept. Its "
            f"batch, {batch[:5].tolist()} and {len(batch) - 5} more of "
            f"{self.config.data.train_split!r}, is listed in {self.workdir / 'nonfinite.json'}. "
            "Lower config.optim.learning_rate or set config.optim.clip_norm in another --workdir, "
            "or go on without such steps: --config.train.on_nonfinite=skip."
        )

    def _write(self, split: str, step: int, figures: dict[str, float], speed: float | str = ""):
        rate = float(self.schedule.learning_rate[step - 1])
        self.log.row(
            step=step, epoch=step / self.steps_per_epoch, split=split, images_per_sec=speed,
            learning_rate=rate, seconds=self._clock.seconds(), **figures,
        )  # fmt: skip

    def _end_epoch(self, epoch: int, state: TrainState, val_feed) -> None:
        """Validate, save a checkpoint and print a line."""
        step = epoch * self.steps_per_epoch
        self._log(step)
        trained = metrics.train_figures(metrics.add_up(self._since_eval))
        self._since_eval = []
        allocator.trim()
        line = f"epoch {epoch:3d}  train loss {trained['loss']:.4f} top-1 {trained['top1']:6.2%}"
        figures = None
        with self._clock.paused():
            if val_feed is not None:
                figures = metrics.eval_figures(self.evaluate(state, val_feed))
                line += f"   val loss {figures['loss']:.4f} top-1 {figures['top1']:6.2%}"
        if figures:
            self._write("val", step, figures)
        self._save(state, step, figures)
        self.log.line(line)

    def evaluate(self, state: TrainState, split_feed) -> metrics.EvalSums:
        """Sums over a whole split, on the host."""
        sums = self.layout.replicate(metrics.zero_eval_sums(self.splits.train.num_classes))
        for call in split_feed.eval_calls(self._eval_batch):
            function = self._eval_function(split_feed, (state.params, state.stats, sums, *call))
            sums = function(state.params, state.stats, sums, *call)
            self.layout.wait(sums)
        return jax.device_get(sums)

    def _eval_function(self, split_feed, args: tuple):
        key = jax.tree.map(jnp.shape, split_feed.arrays)
        if key not in self._compiled:
            batch = split_feed.batch_argument
            self._compiled[key] = self.layout.compile(
                split_feed.eval_function(self.recipe, self._eval_batch), args, donate=(2,),
                batch=None if batch is None else batch + 3,
            )  # fmt: skip
        return self._compiled[key]

    def _finish(self, state: TrainState) -> dict:
        """Evaluate the reported weights on the test split and write the results."""
        self.checkpoints.wait()
        which, step = "last", self.total_steps
        if self.config.checkpoint.report == "best" and self.splits.val:
            which = "best"
            step, (state, _), _ = self.checkpoints.restore_best(self.like) or (step, (state, 0), 0)
        sums = self.evaluate(state, feed.create(self.splits.test, self.layout))
        test = metrics.eval_figures(sums)
        self._write("test", self.total_steps, test)
        results = {
            "model": self.config.model.name,
            "data": self.config.data.name,
            "parameters": self.parameters,
            "epochs": self.config.train.epochs,
            "steps": self.total_steps,
            "reported_weights": which,
            "reported_epoch": step // self.steps_per_epoch,
            "val": self.checkpoints.figures(step),
            "test": test,
            "class_names": list(self.splits.test.class_names),
            "images": {name: len(split) for name, split in vars(self.splits).items() if split},
            "notes": self.splits.notes(),
            "seconds": round(self._clock.seconds(), 2),
            "train_images_per_sec": round(self._clock.mean_speed(), 1),
        } | environment()
        if processes.is_main():
            write_run(self.workdir, results, sums.confusion, self.splits.test.class_names)
        return results


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.2g} MB"


def _passes(before: int, step: int, every: int) -> bool:
    """Whether a multiple of `every` lies after `before` and not after `step`."""
    return step // every > before // every


def _complain(line: str) -> None:
    if processes.is_main():
        print(as_paragraph(line), file=sys.stderr)


def write_run(workdir: Path, results: dict, confusion, class_names: Sequence[str]) -> None:
    """Write the files of a finished run; results.json comes last and marks it as finished."""
    write_confusion(workdir / "confusion.csv", confusion, class_names)
    title = f"{results['model']} on {results['data']}: test top-1 {results['test']['top1']:.2%}"
    draw_curves(workdir / "metrics.csv", workdir / "curves.png", title)
    write_results(workdir / "results.json", results)
