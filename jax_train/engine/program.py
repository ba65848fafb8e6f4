"""A recipe on its devices: the shapes of its state, where it starts, and its compiled functions."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jax_train.data import Dataset, StreamedDataset
from jax_train.engine import feed, from_images, metrics, optim, parallel, steps
from jax_train.engine.checks import mixes
from jax_train.engine.recipe import (
    abstract_weights,
    class_weights,
    create_recipe,
    initial_state,
)
from jax_train.engine.state import Progress, TrainState, Weights, part
from jax_train.errors import UserError
from jax_train.machine import allocator
from jax_train.printing import significant


class Call(NamedTuple):
    """Steps to be taken in one call of a compiled function.

    Attributes:
      length: their number.
      arguments: of the function, after state and sums.
      probing: whether the head trains alone in them.
    """

    length: int
    arguments: tuple
    probing: bool = False


class Program:
    """What a run computes with; XLA compiles at the first call of each function.

    Args:
      config: resolved (see `recipe.resolve`).
      train_set: whose size gives the steps of an epoch; its images must fit the model.
      layout: of the devices; None: what the config asks for.
      given: weights that a run starts from, as they are stored, on the host; None: the seed's, and
        what follows from the training images (see `from_images`).

    Attributes:
      recipe: what the compiled steps close over.
      probe: the same in the epochs in which the head trains alone; None where there are none.
      schedule: of the learning rate, step by step.
      parameters: their number.
      trained: how many of them train.
      like: abstract `Progress`: shapes, and where the arrays go.

    Raises:
      UserError: the config does not fit the data, the model or the devices.
    """

    def __init__(
        self,
        config: ConfigDict,
        train_set: Dataset | StreamedDataset,
        layout: parallel.Layout | None = None,
        given: Weights | None = None,
    ):
        self.config, self.layout = config, layout or parallel.create(config)
        train = config.train
        pairs = mixes(config.augment)
        self.layout.check_batch_size(train.batch_size, train.accumulate_steps, pairs)
        self.steps_per_epoch = len(train_set) // train.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"config.train.batch_size={train.batch_size} is larger than the {len(train_set)} "
                f"training images of {train_set.split!r}: choose at most that many."
            )
        self.total_steps = self.steps_per_epoch * train.epochs
        self.schedule = optim.schedule_tables(config, self.steps_per_epoch)
        create = functools.partial(
            create_recipe, config, self.schedule, self.layout, self.steps_per_epoch,
            class_weights=class_weights(config, train_set),
        )  # fmt: skip
        self.recipe = create()
        self.probe = create(probing=True) if train.probe_epochs else None
        # XLA's CPU convolutions are many times slower inside a loop.
        self.steps_per_call = train.steps_per_call or (1 if jax.default_backend() == "cpu" else 32)
        self._compiled_steps, self._compiled = {}, {}
        self._calls, self._given, self._of_images = 0, given, None
        if from_images.applies(config):
            augmentation = self.recipe.augmentation
            self._of_images = functools.partial(
                from_images.weights, config, augmentation, train_set
            )
        self._trace(train_set)

    def _trace(self, train_set: Dataset | StreamedDataset) -> None:
        """Find the state's shapes without computing, and see whether the model takes the images."""
        layout = self.layout
        weights = abstract_weights(self.config)
        opt_state = jax.eval_shape(self.recipe.optimizer.init, weights.params)
        averaged = None if self.recipe.average is None else weights
        state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), *weights, averaged, opt_state)
        sums = jax.eval_shape(metrics.zero_train_sums)
        image = jax.ShapeDtypeStruct((1, *train_set.image_shape), jnp.uint8)
        try:
            jax.eval_shape(functools.partial(steps.logits, self.recipe), *state.reported, image)
        except ValueError as error:
            raise UserError(f"config.model does not fit the data: {error}") from error
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        trained = part(state.params, self.recipe.trained)
        self.trained = sum(leaf.size for leaf in jax.tree.leaves(trained))
        self._shardings = layout.state_shardings(state)
        everywhere = jax.tree.map(lambda _: layout.replicated, sums)
        self.like = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            Progress(state, sums),
            Progress(self._shardings, everywhere),
        )
        init = functools.partial(initial_state, self.config, self.recipe.optimizer)
        options = parallel.compiler_options(donates=False)
        self._init = jax.jit(init, out_shardings=self._shardings, compiler_options=options)
        self.zero_sums = jax.jit(metrics.zero_train_sums, out_shardings=layout.replicated)
        order = functools.partial(steps.epoch_order, self.recipe, num_examples=len(train_set))
        self._order = jax.jit(order, out_shardings=layout.replicated)

    @property
    def keeps_start(self) -> bool:
        """Whether what it starts from follows from more than the seed, and is to be kept."""
        return self.config.model.init_from is not None or self._of_images is not None

    def start(self) -> Progress:
        """What a run starts from.

        Raises:
          UserError: it starts from weights, which were not given.
        """
        source = self.config.model.init_from
        if source is not None and self._given is None:
            raise UserError(
                f"This run began from the weights of {source}, and no checkpoint of it is whole. "
                "Delete the run folder, or choose another one, and begin anew."
            )
        given = self._of_images() if self._given is None and self._of_images else self._given
        state = self._init(given=given)
        self._given = None  # memory for training
        return Progress(state, self.zero_sums())

    def order(self, epoch: int) -> jax.Array:
        """The batches of an epoch, see `steps.epoch_order`."""
        return self._order(self.layout.replicate(np.int32(epoch)))

    def train_calls(self, train_feed, epoch: int, first: int) -> Iterator[Call]:
        """The calls from step `first` of an epoch on; none goes beyond its end."""
        probing = epoch < self.config.train.probe_epochs
        for call in train_feed.train_calls(self.order(epoch), epoch, first, self.steps_per_call):
            yield Call(*call, probing)

    def train(
        self,
        train_feed,
        call: Call,
        progress: Progress,
        tell: Callable[[str], None],
        compiling: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> Progress:
        """Take the steps of a call; `progress` is used up.

        Args:
          train_feed: see `feed`.
          call: from `train_calls`.
          progress: before the steps.
          tell: called with a line when a program is compiled.
          compiling: gives what is entered meanwhile, when the steps before are done.
        """
        arguments, key = (*progress, *call.arguments), (call.length, call.probing)
        if key not in self._compiled_steps:
            jax.block_until_ready(progress.sums)
            with compiling():
                self._compiled_steps[key] = self._compile_steps(train_feed, call, arguments, tell)
        progress = Progress(*self._compiled_steps[key](*arguments))
        self.layout.wait(progress.sums)
        self._calls += 1
        is_due = self._calls & (self._calls - 1) == 0  # 1, 2, 4, …: soon, then hardly ever
        if is_due or allocator.is_watched():
            jax.block_until_ready(progress.sums)
            allocator.trim(if_crowded=not is_due)
        return progress

    def _compile_steps(self, train_feed, call: Call, arguments: tuple, tell):
        """Compile a call's steps; of the first program of a kind, tell how much memory it takes."""
        is_first = all(probing != call.probing for _, probing in self._compiled_steps)
        if is_first:
            tell(f"compiling the training step{' of the head alone' * call.probing}")
        batch = train_feed.batch_argument
        batch = None if batch is None else batch + 2
        how = {"donate": (0, 1), "out": (self._shardings, self.layout.replicated), "batch": batch}
        recipe = self.probe if call.probing else self.recipe
        function = train_feed.train_function(recipe, call.length)
        compiled = self.layout.compile(function, arguments, **how)
        if is_first:
            used = parallel.memory(compiled, arguments[0], train_feed.arrays)
            allocator.fit(used.step * jax.local_device_count())
            state, step = _megabytes(used.state), _megabytes(used.step)
            tell(f"memory on each device: {state} for the state, {step} more in a step")
        return compiled

    def evaluate(self, weights: Weights, split_feed, num_classes: int) -> metrics.EvalSums:
        """Sums over a whole split, on the host."""
        sums = self.layout.replicate(metrics.zero_eval_sums(num_classes))
        most, devices = self.config.eval.batch_size, self.layout.num_devices
        batch_size = feed.even_batch(split_feed.count, most, devices)
        key = batch_size, jax.tree.map(jnp.shape, split_feed.arrays)
        for call in split_feed.eval_calls(batch_size):
            arguments = (*weights, sums, *call)
            if key not in self._compiled:
                batch = split_feed.batch_argument
                how = {"donate": (2,), "batch": None if batch is None else batch + 3}
                function = split_feed.eval_function(self.recipe, batch_size)
                self._compiled[key] = self.layout.compile(function, arguments, **how)
            sums = self._compiled[key](*arguments)
            self.layout.wait(sums)
        return jax.device_get(sums)


def _megabytes(count: int) -> str:
    return f"{significant(count / 1e6, 2)} MB"
