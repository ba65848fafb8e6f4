"""CCT-2/3x2 on CIFAR-100: 2 blocks of width 128 over two convolutions, 295,333 parameters.

python train_jax.py --config configs/cct2_cifar100.py

Time: about 2 minutes of one CPU core an epoch, by single steps. Operations, counted as in
airbench94_cifar10.py: 205 M an image and step, 2.05 PFLOP in all. Result: not run yet; its source
reports 66.90 %, of the best epoch on the test images; cct_4_3x2 70.46 %, cct_6_3x2 74.47 %,
cct_7_3x2 74.92 %, cct_6_3x1 76.71 %, cct_7_3x1 77.05 %. What is not as there: see cct2_cifar10.py.
"""

from jax_train.recipes import cct2_cifar10


def get_config():
    """The recipe of configs/cct2_cifar10.py, its policy too, as in its source."""
    config = cct2_cifar10.get_config()
    config.data.name = "cifar100"
    config.data.mean = (0.5071, 0.4867, 0.4408)
    config.data.std = (0.2675, 0.2565, 0.2761)
    return config
