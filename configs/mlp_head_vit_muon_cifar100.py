"""ViT with a wide MLP head on CIFAR-100 by Muon: mlp_head_vit_cifar100.py in a tenth of its epochs.

python train_jax.py --config configs/mlp_head_vit_muon_cifar100.py

Time: about an hour on one CPU core with bfloat16. Result: 46.5 % after these 10 epochs (one seed);
the source of the model printed about 50 % after 100.
"""

from jax_train.recipes import mlp_head_vit_cifar100
from jax_train.recipes.cct_muon_cifar10 import by_muon


def get_config():
    """10 epochs of the optimizer and the schedule of cct_muon_cifar10.py, on all test images."""
    config = mlp_head_vit_cifar100.get_config()
    config.data.val_split = ""
    config.data.test_split = "test"
    config.train.epochs = 10
    return by_muon(config)
