"""The training loop."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_train import (
    build,
    data_cache,
    feed,
    metrics,
    optim,
    parallel,
    processes,
    report,
    run_folder,
    steps,
)
from jax_train.build import Splits
from jax_train.checkpoint import Checkpoints
from jax_train.clock import Clock
from jax_train.data_stream import StreamedDataset
from jax_train.errors import UserError


def train(config: ConfigDict, workdir: Path) -> dict:
    """Train a model, or go on with a run that was interrupted.

    Args:
      config: a valid config (see `jax_train.config.validate`).
      workdir: the run folder; it must be empty, missing, or hold a run of the same config.

    Returns:
      What results.json holds.

    Raises:
      UserError: the config does not fit the data or the model, or files cannot be read or written.
    """
    enable_compilation_cache()
    if config.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    optim.validate(config)
    if jax.process_count() > 1:  # the first process prepares the data, the others find it there
        processes.on_main(lambda: build.load_splits(config) and None)
    splits = build.load_splits(config)
    config = build.resolve(config, splits)
    trainer = Trainer(config, splits, workdir)  # refuses what it can before a folder is made
    processes.on_main(lambda: run_folder.create(workdir, config))
    try:
        return trainer.run()
    except OSError as error:
        raise UserError(
            f"The run folder {workdir} cannot be written: {error}. Make room there; the same "
            "command then goes on from the last checkpoint."
        ) from error


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs in the user's cache folder, unless JAX was told where."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = data_cache.cache_root() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


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
        self.like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes, self._shardings,
        )  # fmt: skip
        self.init = jax.jit(init, out_shardings=self._shardings)
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
        """Train from the last checkpoint, or from the start, to the end; write all files."""
        with Checkpoints(self.workdir / "checkpoints") as self.checkpoints:
            state, step = self._start()
            self._announce(step)
            log = self.config.log
            with report.RunLog(
                self.workdir, step, self.total_steps, bar=log.progress, active=processes.is_main()
            ) as self.log:
                self._clock = Clock(self.log.seconds)
                state = self._train(state, step)
                return self._finish(state)

    def _start(self) -> tuple[steps.TrainState, int]:
        step = self.checkpoints.last_step
        if step is None:
            return self.init(), 0
        return self.checkpoints.restore(self.like, step), step

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
            print(f"resuming after epoch {step / self.steps_per_epoch:g} of this run")

    def _train(self, state: steps.TrainState, step: int) -> steps.TrainState:
        self._compiled = {}
        train_feed = feed.create(self.splits.train, self.layout)
        val_feed = feed.create(self.splits.val, self.layout) if self.splits.val else None
        self._sums = self.layout.replicate(metrics.zero_train_sums())
        self._since_eval = []
        for epoch in range(step // self.steps_per_epoch, self.config.train.epochs):
            state = self._run_epoch(epoch, state, train_feed)
            last = epoch + 1 == self.config.train.epochs
            if last or (epoch + 1) % self.config.eval.every_epochs == 0:
                self._end_epoch(epoch + 1, state, val_feed)
        return state

    def _run_epoch(self, epoch: int, state: steps.TrainState, train_feed):
        order = self._order(self.layout.replicate(np.int32(epoch)))
        step = epoch * self.steps_per_epoch
        for length, call in train_feed.train_calls(order, 0, self._steps_per_call()):
            function = self._step_function(train_feed, length, (state, self._sums, *call))
            state, self._sums = function(state, self._sums, *call)
            self.layout.wait(self._sums)
            step += length
            self.log.advance(length)
            self._clock.count(length * self.config.train.batch_size, self._sums)
            if step // self.config.log.every_steps > (step - length) // self.config.log.every_steps:
                self._log(step)
        return state

    def _steps_per_call(self) -> int:
        # XLA's CPU convolutions are many times slower inside a loop.
        automatic = 1 if jax.default_backend() == "cpu" else 32
        return self.config.train.steps_per_call or automatic

    def _step_function(self, train_feed, length: int, args: tuple):
        """The compiled steps; says how much memory the first one takes."""
        if length not in self._compiled:
            batch = train_feed.batch_argument
            compiled = self.layout.compile(
                train_feed.train_function(self.recipe, length), args, donate=(0, 1),
                out=(self._shardings, self.layout.replicated),
                batch=None if batch is None else batch + 2,
            )  # fmt: skip
            if not self._compiled:
                used = parallel.memory(compiled, args[0], train_feed.arrays)
                self.log.line(
                    f"memory on each device: {_megabytes(used.state)} for the state, "
                    f"{_megabytes(used.step)} more in a step"
                )
            self._compiled[length] = compiled
        return self._compiled[length]

    def _log(self, step: int) -> None:
        """Write the figures since the last log point; this waits for the device."""
        sums = jax.device_get(self._sums)
        if sums.count == 0:
            return
        self._sums = self.layout.replicate(metrics.zero_train_sums())
        self._since_eval.append(sums)
        figures = metrics.train_figures(sums)
        speed = self._clock.images_per_sec()
        self._write("train", step, figures, speed)
        self.log.show(step / self.steps_per_epoch, figures, speed)

    def _write(self, split: str, step: int, figures: dict[str, float], speed: float | str = ""):
        rate = float(self.schedule.learning_rate[step - 1])
        self.log.row(
            step=step, epoch=step / self.steps_per_epoch, split=split, images_per_sec=speed,
            learning_rate=rate, seconds=self._clock.seconds(), **figures,
        )  # fmt: skip

    def _end_epoch(self, epoch: int, state: steps.TrainState, val_feed) -> None:
        """Validate, save a checkpoint and print a line."""
        step = epoch * self.steps_per_epoch
        self._log(step)
        trained = metrics.train_figures(metrics.add_up(self._since_eval))
        self._since_eval = []
        line = f"epoch {epoch:3d}  train loss {trained['loss']:.4f} top-1 {trained['top1']:6.2%}"
        figures = None
        with self._clock.paused():
            if val_feed is not None:
                figures = metrics.eval_figures(self.evaluate(state, val_feed))
                line += f"   val loss {figures['loss']:.4f} top-1 {figures['top1']:6.2%}"
        if figures:
            self._write("val", step, figures)
        self.checkpoints.save(state, step, figures)
        self.log.line(line)

    def evaluate(self, state: steps.TrainState, split_feed) -> metrics.EvalSums:
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

    def _finish(self, state: steps.TrainState) -> dict:
        """Evaluate the reported weights on the test split and write the results."""
        self.checkpoints.wait()
        which, step = "last", self.total_steps
        if self.config.checkpoint.report == "best" and self.splits.val:
            which, step = "best", self.checkpoints.best_step
            if step != self.total_steps:
                state = self.checkpoints.restore(self.like, step)
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
            "images": {name: len(split) for name, split in vars(self.splits).items() if split},
            "notes": self.splits.notes(),
            "seconds": round(self._clock.seconds(), 2),
            "train_images_per_sec": round(self._clock.mean_speed(), 1),
        } | report.environment()
        if processes.is_main():
            report.write_run(self.workdir, results, sums.confusion, self.splits.test.class_names)
        return results


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:.1f} MB"
