"""ViT on CIFAR-10: 6 blocks of width 128, 4x4 patches, 1,205,898 parameters.

python train_jax.py --config configs/vit_cifar10.py

Time: about 2 minutes an epoch on 2 CPU cores, 2.5 on one with --config.dtype=bfloat16. Result: test
top-1 74.62 % (seed 0, in bfloat16).
"""

from jax_train.recipes import common


def get_config():
    """Random crop and flip, AdamW, cosine per epoch, 20 epochs.

    The test images also serve as validation images, as in the published recipe; nothing is
    chosen by them: the figures are those of the last epoch.
    """
    config = common.get_config()
    config.model.name = "vit"
    config.data.name = "cifar10"
    config.data.train_split = "train"
    config.data.val_split = "test"
    config.data.test_split = "test"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2023, 0.1994, 0.2010)
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.train.epochs = 20
    config.train.batch_size = 128
    config.optim.name = "adamw"
    config.optim.learning_rate = 3e-4
    config.optim.weight_decay = 0.05
    config.schedule.name = "cosine"
    config.schedule.unit = "epoch"
    config.checkpoint.report = "last"
    return config
