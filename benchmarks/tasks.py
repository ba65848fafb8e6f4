"""What is timed: the same work for JAX and PyTorch, of the recipes in `configs/`."""

import importlib
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

import jax_models
from configs import common
from jax_train.config.fields import flatten
from jax_train.engine.checks import output_size


class Case(NamedTuple):
    """A recipe of `configs/`, the size of its batches, and how many make an epoch of the race.

    A fifth as many are validated on.
    """

    recipe: str
    batch_size: int
    epoch: int


# Epochs of half a minute, as whole ones of the data sets would take several.
CASES = {
    "vit": Case("vit_cifar10", 128, 80),
    "deep_vit": Case("deep_vit_cifar100", 64, 20),
    "deep_vit, 6 blocks": Case("deep_vit_cifar10", 64, 80),
    "raster_vit": Case("raster_vit_cifar10", 100, 500),
    "mnist_vit": Case("vit_mnist", 32, 450),
    "mlp_head_vit": Case("mlp_head_vit_cifar100", 32, 200),
    "simple_cnn": Case("cnn_cifar10", 128, 45),
    "attention_cnn": Case("attention_cnn_cifar10", 100, 15),
    "mnist_cnn": Case("cnn_mnist", 32, 1800),
    "airbench94": Case("airbench94_cifar10", 1024, 8),
    "cct_2_3x2": Case("cct2_cifar10", 128, 80),
    "sl_vit": Case("sl_vit_cifar10", 128, 20),
    "vit_tiny_patch16_224": Case("vit_tiny_cifar10", 128, 10),
    "resnet18": Case("resnet18_cifar10", 128, 10),
    "convnext_tiny": Case("convnext_cifar10", 32, 20),
}
# Models of other libraries too, at the size of the pretrained weights.
PUBLISHED = (
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "resnet18",
    "resnet50",
    "convnext_tiny",
)
_DEFAULT = common.get_config()
_IMAGES = {"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "mnist": ((28, 28, 1), 10)}
_IMAGES["imagenet"] = (224, 224, 3), 1000


# What both sides do of `config.augment`, and other fields that are of JAX's side alone.
_AUGMENT = ("resize", "rotate_degrees", "crop_padding", "flip")
_OTHER = ("train.freeze", "train.ema_decay", "optim.groups", "optim.lookahead_steps")


def config_of(case: str, **changes) -> ConfigDict:
    """The recipe of a case, with `changes` to fields such as 'model.depth'.

    What `torch_side` has not is left out, so that both sides do the same work: policies of
    augmentation, mixing, groups of parameters, averages of the weights.
    """
    recipe, batch_size, _ = CASES[case]
    config, default = importlib.import_module(f"configs.{recipe}").get_config(), flatten(_DEFAULT)
    left_out = [f"augment.{key}" for key in config.augment if key not in _AUGMENT]
    plain = {field: default[field] for field in (*left_out, *_OTHER)}
    return _completed(config, plain | {"train.batch_size": batch_size, **changes})


def short_changes(case: str) -> dict:
    """Changes to a case's recipe that leave batches of 2 and, of ViTs, a block."""
    changes = {"train.batch_size": 2, "eval.batch_size": 2}
    known = jax_models.model_keywords(config_of(case).model.name)
    return changes | ({"model.depth": 1} if "depth" in known else {})


def published_config(name: str, **changes) -> ConfigDict:
    """One of `PUBLISHED` on images of 224 pixels and 1000 classes, in the default recipe."""
    return _completed(common.get_config(), {"model.name": name, "data.name": "imagenet", **changes})


def _completed(config, changes):
    with config.unlocked():
        config.update_from_flattened_dict(changes)
        shape, num_classes = _IMAGES[config.data.name]
        config.model.num_classes = num_classes
        if config.data.mean is None:
            config.data.mean = config.data.std = (0.5,) * shape[2]
    return config


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """[H,W,C] of the images that the recipe's model takes."""
    (height, width, channels), _ = _IMAGES[config.data.name]
    return *output_size(config.augment, height, width), channels


def random_images(config: ConfigDict, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count,H,W,C] and labels int32 [count] shaped as the recipe's data set."""
    shape, num_classes = _IMAGES[config.data.name]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return images, random.integers(0, num_classes, count).astype(np.int32)
