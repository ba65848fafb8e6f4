"""The parts of a model that start from training images, such as the whitening of airbench.

They follow from the first `config.model.init_images` training images, as these enter the model in
evaluation, and are worked out once, when a run begins: its first checkpoint has them.
"""

from collections.abc import Iterator

import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from ml_collections import ConfigDict

from jax_models import image_start
from jax_train.data import Dataset
from jax_train.engine.augment import Augmentation
from jax_train.engine.state import Weights
from jax_train.machine import processes

_AT_ONCE = 500  # images


def applies(config: ConfigDict) -> bool:
    """Whether a run starts from training images; weights from elsewhere have such parts."""
    model = config.model
    started = image_start.of_model(model.name) is not None
    return started and model.init_from is None and model.init_images > 0


def weights(config: ConfigDict, augmentation: Augmentation, train_set: Dataset) -> Weights:
    """The parts of a model that `applies` is about, as they are stored, on the host.

    Args:
      config: resolved.
      augmentation: of the recipe.
      train_set: in memory or streamed.
    """
    start = image_start.of_model(config.model.name)
    batches = _batches(config, augmentation, train_set)

    def on_main():  # one of the processes, so that all have the same bits
        return {path: array.tolist() for path, array in start(batches).items()}

    wide = np.float64 if config.dtype == "float64" else np.float32
    found = processes.on_main(on_main).items()
    parts = {tuple(path.split(".")): np.asarray(values, wide) for path, values in found}
    return Weights(unflatten_dict(parts), {})


def _batches(
    config: ConfigDict, augmentation: Augmentation, train_set: Dataset
) -> Iterator[np.ndarray]:
    """The images as the model takes them in evaluation, float32 [B,H,W,C]."""
    evaluate = jax.jit(augmentation.evaluate)
    count = min(config.model.init_images, len(train_set))
    for first in range(0, count, _AT_ONCE):
        images, _ = train_set.take(np.arange(first, min(first + _AT_ONCE, count)))
        yield np.asarray(evaluate(images))
