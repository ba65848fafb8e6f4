"""ConvNeXt-T on CIFAR-10 at 64x64 pixels, 27,827,818 parameters.

python train_jax.py --config configs/convnext_cifar10.py

Time: some 15 minutes an epoch on 2 CPU cores, by single steps. Result: not run yet.
"""

from jax_train.recipes import vit_cifar10


def get_config():
    """The recipe of configs/vit_cifar10.py with warm-up and stochastic depth."""
    config = vit_cifar10.get_config()
    config.model.name = "convnext_tiny"
    config.model.drop_path = 0.1
    config.augment.resize = 64
    config.schedule.unit = "step"
    config.schedule.warmup_epochs = 1.0
    return config
