"""Deep ViT on CIFAR-10 by Muon: the model of deep_vit_cifar10.py in a tenth of its epochs.

python train_jax.py --config configs/deep_vit_muon_cifar10.py

Time: 2 hours and a quarter on one CPU core with bfloat16. Result: 85.0 % after these 18 epochs (one
seed); the source of the model printed 78.8 % after 180.
"""

from jax_train.recipes import deep_vit_cifar10
from jax_train.recipes.cct_muon_cifar10 import by_muon


def get_config():
    """18 epochs of the optimizer and the schedule of cct_muon_cifar10.py; less dropout."""
    config = deep_vit_cifar10.get_config()
    config.model.dropout = 0.1
    config.data.val_split = ""
    config.train.epochs = 18
    return by_muon(config)
