"""ViT against CNN on CIFAR-10: the same data and schedule, one after the other, then one page.

python train_jax.py --config configs/vit_vs_cnn_cifar10.py

Time: about 6 minutes an epoch of both on 2 CPU cores. Result: test top-1 74.62 % (ViT) and 90.73 %
(CNN), each trained by itself in bfloat16 (seed 0).
"""

from jax_train.recipes import vit_cifar10


def get_config():
    """The recipe of configs/vit_cifar10.py, for both models."""
    config = vit_cifar10.get_config()
    config.compare = ("simple_cnn",)
    return config
