"""What is timed: the same work for JAX and PyTorch, of the recipes in `configs/`."""

import importlib

import numpy as np
from ml_collections import ConfigDict

# Model -> recipe, changes to it, and the batch size.
CASES = {
    "vit": ("vit_cifar10", {}, 128),
    "deep_vit": ("deep_vit_cifar100", {}, 64),
    "deep_vit, 6 blocks": ("deep_vit_cifar10", {}, 64),
    "raster_vit": ("raster_vit_cifar10", {}, 100),
    "mnist_vit": ("vit_mnist", {}, 32),
    "mlp_head_vit": ("mlp_head_vit_cifar100", {}, 32),
    "simple_cnn": ("cnn_cifar10", {}, 128),
    "attention_cnn": ("attention_cnn_cifar10", {}, 100),
    "mnist_cnn": ("cnn_mnist", {}, 32),
}
MODELS = tuple(CASES)
_IMAGES = {"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "mnist": ((28, 28, 1), 10)}


def config_of(case: str, **changes) -> ConfigDict:
    """The recipe of a case as it is trained, with `changes` to fields such as 'model.depth'."""
    recipe, own, batch_size = CASES[case]
    config = importlib.import_module(f"configs.{recipe}").get_config()
    with config.unlocked():
        config.update_from_flattened_dict({"train.batch_size": batch_size, **own, **changes})
    shape, num_classes = _IMAGES[config.data.name]
    with config.unlocked():
        config.model.num_classes = num_classes
        if config.data.mean is None:
            config.data.mean = config.data.std = (0.5,) * shape[2]
    return config


def random_images(config: ConfigDict, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count,H,W,C] and labels int32 [count] shaped as the recipe's data set."""
    shape, num_classes = _IMAGES[config.data.name]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, random.integers(0, num_classes, count).astype(np.int32)
