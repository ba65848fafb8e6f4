"""ViT against CNN on CIFAR-10: the same data and schedule, one after the other, then one page.

python train_jax.py --config configs/vit_vs_cnn_cifar10.py

Time: about 6 minutes an epoch of both on 2 CPU cores. Result: the 20 epochs were not run yet; 3
epochs over 4,000 images (--config.train.epochs=3 --config.data.train_split='train[:8%]') reach test
top-1 28 % (ViT) and 48 % (CNN) in 4 minutes.
"""

from jax_train.recipes import vit_cifar10


def get_config():
    """The recipe of configs/vit_cifar10.py, for both models."""
    config = vit_cifar10.get_config()
    config.compare = ("simple_cnn",)
    return config
