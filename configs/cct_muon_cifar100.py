"""The compact convolutional transformer of cct_muon_cifar10.py on CIFAR-100: 40 epochs.

python train_jax.py --config configs/cct_muon_cifar100.py

0.76 PFLOP. Time: an hour on one CPU core with bfloat16. Result: test top-1 71.08 % (seed 0).
"""

from jax_train.recipes import cct_muon_cifar10


def get_config():
    """The recipe for CIFAR-10 with more epochs, since a class has a tenth of the images."""
    config = cct_muon_cifar10.get_config()
    config.data.name = "cifar100"
    config.data.mean = (0.5071, 0.4867, 0.4408)
    config.data.std = (0.2675, 0.2565, 0.2761)
    config.train.epochs = 40
    return config
