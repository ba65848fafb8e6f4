"""Batch-norm CNN on CIFAR-10: stages of 64, 128, 256 and 512 channels, 4,694,346 parameters.

python train_jax.py --config configs/cnn_cifar10.py

Time: about 4 minutes an epoch on 2 CPU cores, and on one with --config.dtype=bfloat16. Result: test
top-1 90.73 % (seed 0, in bfloat16).
"""

from jax_train.recipes import vit_cifar10


def get_config():
    """The recipe of configs/vit_cifar10.py with another model."""
    config = vit_cifar10.get_config()
    config.model.name = "simple_cnn"
    return config
