"""timm's ViT-Tiny on CIFAR-10: 12 blocks of width 192, 4x4 patches, 5,362,762 parameters.

python train_jax.py --config configs/vit_tiny_cifar10.py

Time: some 10 minutes an epoch on 2 CPU cores, by its size. Result: not run yet.
"""

from jax_train.recipes import vit_cifar10


def get_config():
    """The recipe of configs/vit_cifar10.py with warm-up and stochastic depth."""
    config = vit_cifar10.get_config()
    config.model.name = "vit_tiny_patch16_224"
    config.model.patch_size = 4
    config.model.drop_path = 0.1
    config.schedule.unit = "step"
    config.schedule.warmup_epochs = 1.0
    return config
