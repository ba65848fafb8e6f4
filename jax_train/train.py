"""The training loop."""

import contextlib
import functools
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import jax_models
from jax_train import augment, data, data_cache, metrics, optim, report, run_folder, steps
from jax_train.checkpoint import Checkpoints
from jax_train.errors import UserError
from jax_train.parallel import Layout


@dataclass
class Splits:
    """The three data sets of a run; validation may be missing."""

    train: data.Dataset
    val: data.Dataset | None
    test: data.Dataset

    def notes(self) -> list[str]:
        """One line for each way in which a figure is not of unseen images."""
        notes = []
        for name, split in {"validation": self.val, "test": self.test}.items():
            if split and (shared := data.count_shared(self.train, split)):
                notes.append(f"note: {shared:,} {name} images are among the training images")
        if self.val and (shared := data.count_shared(self.val, self.test)):
            notes.append(f"note: {shared:,} test images also serve as validation images")
        return notes


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
    optim.validate(config)
    splits = load_splits(config)
    config = resolve(config, splits)
    trainer = Trainer(config, splits, workdir)  # refuses what it can before a folder is made
    run_folder.create(workdir, config)
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


def load_splits(config: ConfigDict) -> Splits:
    """Read the three splits that `config.data` names."""
    fields = config.data

    def load(split):
        return data.load(
            fields.name, split, fields.data_dir,
            image_size=fields.image_size, download=fields.download,
        )  # fmt: skip

    train_set = load(fields.train_split)
    val_set = load(fields.val_split) if fields.val_split else None
    test_set = load(fields.test_split)
    for other in filter(None, (val_set, test_set)):
        if other.image_shape != train_set.image_shape:
            raise UserError(
                f"The images of {other.split!r} are {other.image_shape} (height, width, channels), "
                f"those of {train_set.split!r} {train_set.image_shape}: they must be alike. For a "
                "folder, set config.data.image_size."
            )
    return Splits(train_set, val_set, test_set)


def resolve(config: ConfigDict, splits: Splits) -> ConfigDict:
    """Fill in what follows from the data: sizes of the model, mean and std of the pixels.

    Raises:
      UserError: the model's sizes contradict the data's.
    """
    config = config.copy_and_resolve_references()
    height, width, channels = splits.train.image_shape
    height, width = augment.output_size(config.augment, height, width)
    try:
        known = jax_models.model_keywords(config.model.name)
    except ValueError as error:
        raise UserError(f"config.model.name: {error}") from error
    if "img_size" in known and height != width:
        raise UserError(
            f"The images are {height}x{width} pixels and {config.model.name} takes square ones: "
            "set config.augment.resize to a side."
        )
    facts = {
        "img_size": height, "in_channels": channels, "num_classes": splits.train.num_classes,
    }  # fmt: skip
    with config.unlocked():
        for key, value in facts.items():
            given = config.model[key]
            if given is not None and given != value:
                raise UserError(
                    f"config.model.{key}={given}, but the data has {value}. Leave it unset."
                )
            config.model[key] = value if key in known else None
        if config.data.mean is None or config.data.std is None:
            mean, std = channel_statistics(splits.train.images)
            config.data.mean = mean if config.data.mean is None else config.data.mean
            config.data.std = std if config.data.std is None else config.data.std
    return config


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images [N,H,W,C], scaled to [0, 1]."""
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
    values = np.arange(256) / 255
    mean = [float(count @ values / count.sum()) for count in counts]
    var = [
        float(count @ (values - m) ** 2 / count.sum())
        for count, m in zip(counts, mean, strict=True)
    ]
    return tuple(round(m, 6) for m in mean), tuple(round(max(v, 1e-12) ** 0.5, 6) for v in var)


def create_model(config: ConfigDict, rngs: nnx.Rngs) -> nnx.Module:
    """Build the model that `config.model` describes.

    Raises:
      UserError: it cannot be built that way.
    """
    settings = {k: v for k, v in config.model.items() if k != "name" and v is not None}
    try:
        return jax_models.create_model(config.model.name, rngs=rngs, **settings)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


class Trainer:
    """One run: device data, compiled functions, checkpoints and files.

    Args:
      config: resolved (see `resolve`).
      splits: the data.
      workdir: the run folder; made before `run`.

    Raises:
      UserError: the config does not fit the data, the model or the devices.
    """

    def __init__(self, config: ConfigDict, splits: Splits, workdir: Path):
        self.config, self.splits, self.workdir = config, splits, workdir
        self.layout = Layout()
        self.layout.check_batch_size(config.train.batch_size)
        self.steps_per_epoch = len(splits.train) // config.train.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"config.train.batch_size={config.train.batch_size} is larger than the "
                f"{len(splits.train)} training images of {config.data.train_split!r}: "
                "choose at most that many."
            )
        self.total_steps = self.steps_per_epoch * config.train.epochs
        self.schedule = optim.schedule_tables(config, self.steps_per_epoch)
        abstract = nnx.eval_shape(lambda: create_model(config, nnx.Rngs(0)))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract, nnx.Param)))
        self.recipe = steps.Recipe(
            graphdef=nnx.split(abstract, nnx.Param, ...)[0],
            optimizer=optim.create_optimizer(config, self.schedule),
            augmentation=augment.build(config.augment, config.data.mean, config.data.std),
            layout=self.layout,
            seed=config.seed,
            batch_size=config.train.batch_size,
            steps_per_epoch=self.steps_per_epoch,
            label_smoothing=config.train.label_smoothing,
        )
        self._compile()
        self._check_images()

    def _compile(self) -> None:
        """Wrap the pure functions in `jax.jit`; XLA compiles each at its first call."""
        config, recipe = self.config, self.recipe

        def init():
            model = create_model(config, steps.init_rngs(config.seed))
            return steps.init_state(model, recipe.optimizer)

        self._init = jax.jit(init, out_shardings=self.layout.replicated)
        self._order = jax.jit(
            functools.partial(steps.epoch_order, recipe, num_examples=len(self.splits.train)),
            out_shardings=self.layout.replicated,
        )
        self._steps = functools.cache(
            lambda length: jax.jit(
                functools.partial(steps.train_steps, recipe, length), donate_argnums=(0, 1)
            )
        )
        self._eval_batch = self.layout.round_up(config.eval.batch_size)
        self._eval = jax.jit(
            functools.partial(steps.eval_step, recipe, self._eval_batch), donate_argnums=2
        )

    def _check_images(self) -> None:
        """Trace the evaluation of one image, so that images a model refuses are told early."""
        image = jax.ShapeDtypeStruct((1, *self.splits.train.image_shape), jnp.uint8)
        state = jax.eval_shape(self._init)

        def evaluate(state, image):
            model = nnx.merge(self.recipe.graphdef, state.params, state.stats)
            return model(self.recipe.augmentation.evaluate(image))

        try:
            jax.eval_shape(evaluate, state, image)
        except ValueError as error:
            raise UserError(f"config.model does not fit the data: {error}") from error

    def run(self) -> dict:
        """Train from the last checkpoint, or from the start, to the end; write all files."""
        with Checkpoints(self.workdir / "checkpoints", self.layout) as self.checkpoints:
            state, step = self._start()
            self._announce(step)
            metrics_csv = self.workdir / "metrics.csv"
            bar = self.config.log.progress
            with (
                report.MetricsFile(metrics_csv, step) as self.csv,
                report.Console(self.total_steps, step, bar=bar) as self.console,
            ):
                self._clock = _Clock(self.csv.seconds)
                state = self._train(state, step)
                return self._finish(state)

    def _train(self, state: steps.TrainState, step: int) -> steps.TrainState:
        train_data = self._to_device(self.splits.train)
        val_data = self._to_device(self.splits.val) if self.splits.val else None
        self._sums = self._zero_sums()
        self._since_eval = []
        for epoch in range(step // self.steps_per_epoch, self.config.train.epochs):
            state = self._run_epoch(epoch, state, train_data)
            last = epoch + 1 == self.config.train.epochs
            if last or (epoch + 1) % self.config.eval.every_epochs == 0:
                self._end_epoch(epoch + 1, state, val_data)
        return state

    def _start(self) -> tuple[steps.TrainState, int]:
        step = self.checkpoints.last_step
        if step is None:
            return self._init(), 0
        return self.checkpoints.restore(jax.eval_shape(self._init), step), step

    def _announce(self, step: int) -> None:
        sizes = ", ".join(
            f"{len(split):,} {name}"
            for name, split in {
                "train": self.splits.train, "validation": self.splits.val, "test": self.splits.test
            }.items()
            if split
        )  # fmt: skip
        shape = "x".join(map(str, self.splits.train.image_shape))
        print(f"{self.config.model.name}: {self.parameters:,} parameters")
        print(f"{self.config.data.name}: {sizes} images of {shape}")
        print(f"{jax.default_backend()} x {jax.device_count()}; run folder {self.workdir}")
        for note in self.splits.notes():
            print(note)
        if step:
            print(f"resuming after epoch {step // self.steps_per_epoch} of this run")

    def _to_device(self, split: data.Dataset) -> steps.Data:
        return self.layout.replicate(
            steps.Data(np.asarray(split.images), np.asarray(split.labels, np.int32))
        )

    def _zero_sums(self):
        return self.layout.replicate(metrics.zero_train_sums())

    def _run_epoch(self, epoch: int, state: steps.TrainState, train_data: steps.Data):
        order = self._order(epoch)
        done, step = 0, epoch * self.steps_per_epoch
        while done < self.steps_per_epoch:
            length = min(self._steps_per_call(), self.steps_per_epoch - done)
            state, self._sums = self._steps(length)(state, self._sums, train_data, order)
            done += length
            self.console.advance(length)
            self._clock.count(length * self.config.train.batch_size, self._sums)
            if (step + done) // self.config.log.every_steps > (
                step + done - length
            ) // self.config.log.every_steps:
                self._log(step + done)
        return state

    def _steps_per_call(self) -> int:
        # XLA's CPU convolutions are many times slower inside a loop.
        automatic = 1 if jax.default_backend() == "cpu" else 32
        return self.config.train.steps_per_call or automatic

    def _log(self, step: int) -> None:
        """Write the figures since the last log point; this waits for the device."""
        sums = jax.device_get(self._sums)
        if sums.count == 0:
            return
        self._sums = self._zero_sums()
        self._since_eval.append(sums)
        figures = metrics.train_figures(sums)
        speed = self._clock.images_per_sec()
        epoch = step / self.steps_per_epoch
        self._write("train", step, figures, speed)
        self.console.show(epoch, figures, speed)

    def _write(self, split: str, step: int, figures: dict[str, float], speed: float | str = ""):
        rate = float(self.schedule.learning_rate[step - 1])
        self.csv.write(
            step=step, epoch=step / self.steps_per_epoch, split=split, images_per_sec=speed,
            learning_rate=rate, seconds=self._clock.seconds(), **figures,
        )  # fmt: skip

    def _end_epoch(self, epoch: int, state: steps.TrainState, val_data) -> None:
        """Validate, save a checkpoint and print a line."""
        step = epoch * self.steps_per_epoch
        self._log(step)
        trained = metrics.train_figures(metrics.add_up(self._since_eval))
        self._since_eval = []
        line = f"epoch {epoch:3d}  train loss {trained['loss']:.4f} top-1 {trained['top1']:6.2%}"
        figures = None
        with self._clock.paused():
            if val_data is not None:
                figures = metrics.eval_figures(self.evaluate(state, val_data))
                line += f"   val loss {figures['loss']:.4f} top-1 {figures['top1']:6.2%}"
        if figures:
            self._write("val", step, figures)
        self.checkpoints.save(state, step, figures)
        self.console.line(line)

    def evaluate(self, state: steps.TrainState, split: steps.Data) -> metrics.EvalSums:
        """Sums over a whole split, on the host."""
        sums = self.layout.replicate(metrics.zero_eval_sums(self.splits.train.num_classes))
        for start in range(0, split.labels.size, self._eval_batch):
            sums = self._eval(state.params, state.stats, sums, split, start)
        return jax.device_get(sums)

    def _finish(self, state: steps.TrainState) -> dict:
        """Evaluate the reported weights on the test split and write the results."""
        self.checkpoints.wait()
        which, step = "last", self.total_steps
        if self.config.checkpoint.report == "best" and self.splits.val:
            which, step = "best", self.checkpoints.best_step
            if step != self.total_steps:
                state = self.checkpoints.restore(jax.eval_shape(self._init), step)
        figures = self.checkpoints.figures(step)
        sums = self.evaluate(state, self._to_device(self.splits.test))
        test = metrics.eval_figures(sums)
        self._write("test", self.total_steps, test)
        names = self.splits.test.class_names
        report.write_confusion(self.workdir / "confusion.csv", sums.confusion, names)
        results = {
            "model": self.config.model.name,
            "data": self.config.data.name,
            "parameters": self.parameters,
            "epochs": self.config.train.epochs,
            "steps": self.total_steps,
            "reported_weights": which,
            "reported_epoch": step // self.steps_per_epoch,
            "val": figures,
            "test": test,
            "images": {name: len(split) for name, split in vars(self.splits).items() if split},
            "notes": self.splits.notes(),
            "seconds": round(self._clock.seconds(), 2),
            "train_images_per_sec": round(self._clock.mean_speed(), 1),
        } | report.environment()
        report.draw_curves(
            self.workdir / "metrics.csv",
            self.workdir / "curves.png",
            f"{self.config.model.name} on {self.config.data.name}: test top-1 {test['top1']:.2%}",
        )
        report.write_results(self.workdir / "results.json", results)
        return results


class _Clock:
    """Seconds of training and images per second, without compilation and evaluation.

    Args:
      before: seconds of the run's earlier parts.
    """

    def __init__(self, before: float):
        self._start = time.monotonic() - before
        self._window = None  # start of the current window and images in it
        self._images = 0
        self._totals = [0.0, 0]

    def seconds(self) -> float:
        """Since the run began, with everything."""
        return time.monotonic() - self._start

    def count(self, images: int, wait_for) -> None:
        """Count images whose steps were started. The first call compiles and is left out."""
        if self._window is None:
            jax.block_until_ready(wait_for)
            self._window = time.monotonic()
        else:
            self._images += images

    def images_per_sec(self) -> float:
        """Of the window that ends now; begins the next one. Call it when the device is idle."""
        now = time.monotonic()
        elapsed, images = now - self._window, self._images
        self._totals[0] += elapsed
        self._totals[1] += images
        self._window, self._images = now, 0
        return images / elapsed if images else 0.0

    @contextlib.contextmanager
    def paused(self):
        """Leave out what happens inside."""
        begin = time.monotonic()
        yield
        if self._window is not None:
            self._window += time.monotonic() - begin

    def mean_speed(self) -> float:
        """Images per second over the whole run."""
        elapsed, images = self._totals
        return images / elapsed if images else 0.0
