"""What a model costs: floating-point operations of a prediction and of a training step."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_models import cpu
from jax_train.engine import metrics, optim, steps
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import create_recipe, initial_state
from jax_train.engine.state import Data
from jax_train.runs.trained import TrainedRun

# The machine code is not run, so it need not be good: counting then takes half the time.
_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Flops(NamedTuple):
    """Floating-point operations per image; a multiplication with an addition counts as two.

    Attributes:
      forward: of a prediction, with normalisation.
      train: of a training step: augmentation, forward and backward pass, and the image's share of
        the optimizer's update.
    """

    forward: float
    train: float


def flops(run: TrainedRun, image_shape: tuple[int, int, int]) -> Flops:
    """Count the operations of a run's model, by XLA's cost analysis of the compiled programs.

    Args:
      run: the model and its recipe.
      image_shape: height, width and channels of the raw images.
    """
    config = run.config.copy_and_resolve_references()
    batch = config.train.batch_size
    # One device, one part and no loop, of which XLA counts one turn: the work on an image is the
    # same however a batch is spread and the blocks are compiled.
    config.train.accumulate_steps, config.model.scan_layers = 1, False
    layout = Layout(jax.local_devices()[:1])
    epoch = config.optim.lookahead_steps or 1  # any length will do in which all happens once
    recipe = create_recipe(config, optim.schedule_tables(config, epoch), layout, epoch)
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((1, batch), jnp.int32)
    state = jax.eval_shape(functools.partial(initial_state, config, recipe.optimizer))
    sums = jax.eval_shape(metrics.zero_train_sums)
    data = Data(images.update(shape=(1, *images.shape)), labels, index=labels)
    forward = _count(functools.partial(steps.logits, recipe), *state.reported, images)
    train = _count(functools.partial(steps.train_on_batch, recipe), state, sums, data)
    return Flops(forward / batch, train / batch)


def _count(function, *args) -> float:
    with cpu.using(False):  # XLA does not see into the CPU's own kernels
        lowered = jax.jit(function).lower(*args)
    analysis = lowered.compile(compiler_options=_QUICKLY).cost_analysis()
    return float(analysis["flops"])
