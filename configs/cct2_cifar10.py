"""CCT-2/3x2 on CIFAR-10: 2 blocks of width 128 over two convolutions, 283,723 parameters.

python train_jax.py --config configs/cct2_cifar10.py

Time: about 2 minutes of one CPU core an epoch, by single steps. Operations, counted as in
airbench94_cifar10.py: 205 M an image and step, 2.05 PFLOP in all. Result: not run yet; its source
reports 89.17 %, of the best epoch on the test images. Larger ones, with its figures:
--config.model.name=cct_4_3x2 (91.45 %), cct_6_3x2 (93.56 %), cct_7_3x2 (93.83 %), and with 10
epochs of warm-up in batches of 64 cct_6_3x1 (94.81 %) and cct_7_3x1 (94.78 %). Not as there: the
rate rises in a straight line and not by 1/5, 1/4, 1/3, 1/2; images are moved and mirrored before
the policy; incomplete batches are dropped.
"""

from jax_train.recipes import common


def get_config():
    """AdamW, AutoAugment's policy for CIFAR-10, label smoothing, 200 epochs.

    Source: Hassani et al. 2021, https://arxiv.org/abs/2104.05704, and examples/main.py of
    https://github.com/SHI-Labs/Compact-Transformers. The test images also serve as validation
    images; nothing is chosen by them: the figures are those of the last epoch.
    """
    config = common.get_config()
    config.model.name = "cct_2_3x2"
    config.model.attention_dropout = 0.1
    config.model.drop_path = 0.1  # of the last block
    config.data.name = "cifar10"
    config.data.train_split = "train"
    config.data.val_split = "test"
    config.data.test_split = "test"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.augment.auto_augment = "cifar10"
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.train.epochs = 200
    config.train.batch_size = 128
    config.train.label_smoothing = 0.1
    config.optim.name = "adamw"
    config.optim.learning_rate = 5e-4
    config.optim.weight_decay = 3e-2
    config.schedule.name = "cosine"
    config.schedule.unit = "epoch"
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_factor = 0.2
    config.checkpoint.report = "last"
    return config
