"""The JAX side: the engine's own compiled functions and its own loop."""

import contextlib
import functools
import sys
import tempfile
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jax_train.data import Dataset, Splits
from jax_train.engine import feed, metrics, steps
from jax_train.engine.parallel import Layout
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.train import fit


def dataset(images, labels, num_classes: int) -> Dataset:
    """A split in memory."""
    facts = {"name": "random", "split": "train", "source": "random"}
    facts |= {"class_names": tuple(map(str, range(num_classes)))}
    return Dataset(**facts, ranges=(("train", 0, len(labels)),), labels=labels, images=images)


def splits_of(config: ConfigDict, images, labels) -> Splits:
    """All of some images to train on, and a fifth to validate on."""
    data, few = (
        dataset(images[:count], labels[:count], config.model.num_classes)
        for count in (len(images), len(images) // 5)
    )
    return Splits(data, few, data)


class Training:
    """The compiled steps of a recipe and their state, on one device.

    Args:
      config: see `tasks.config_of`.
      images: uint8 [N,H,W,C].
      labels: [N].

    Attributes:
      length: steps of a call: one on CPUs, several on accelerators (`config.train.steps_per_call`).
    """

    def __init__(self, config: ConfigDict, images, labels):
        self.splits = splits_of(config, images, labels)
        data = self.splits.train
        self.config = config = resolve(config, self.splits)
        self.program = Program(config, data, Layout(jax.devices()[:1]))
        self.layout, self.per_epoch = self.program.layout, self.program.steps_per_epoch
        self.length = self.program.steps_per_call
        self.carry = self.program.start()
        self.args = feed.Resident(data, self.layout).arrays, self.program.order(0)

    @functools.cached_property
    def compiled(self):
        """The training steps of a call."""
        step = functools.partial(steps.train_steps, self.program.recipe, self.length)
        return self.layout.compile(step, (*self.carry, *self.args), donate=(0, 1))

    def train_steps(self, count: int) -> int:
        """`count` calls of the compiled steps; returns the number of images."""
        for _ in range(count):
            self.carry = self.compiled(*self.carry, *self.args)
        jax.block_until_ready(self.carry)
        return count * self.length * self.config.train.batch_size

    @functools.cached_property
    def _evaluate(self):
        batch_size = self.config.eval.batch_size
        return jax.jit(functools.partial(steps.eval_step, self.program.recipe, batch_size))

    def eval_steps(self, count: int) -> int:
        """`count` evaluation batches; returns the number of images."""
        state, sums = self.carry[0], metrics.zero_eval_sums(self.config.model.num_classes)
        for _ in range(count):
            sums = self._evaluate(state.params, state.stats, sums, self.args[0], 0)
        jax.block_until_ready(sums)
        return count * self.config.eval.batch_size

    def pace_epochs(self, told, saved: bool = True) -> None:
        """Run the training loop; call `told(images)` after each epoch, which may wait.

        With `saved` an epoch ends when its checkpoint is written.

        Ends by an exception of `told`.
        """
        with self.config.unlocked():
            self.config.train.epochs = 100
            self.config.log.progress = False

        def on_epoch(saver):
            if saved:
                saver.checkpoints.wait()
            told(self.per_epoch * self.config.train.batch_size)

        program = Program(self.config, self.splits.train)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            fit(program, self.splits, Path(folder), on_epoch)  # what it prints is no sample
