"""SL-ViT on CIFAR-10: shifted patches, locality self-attention, 2,729,878 parameters.

python train_jax.py --config configs/sl_vit_cifar10.py

Time: not measured yet. Result: not run yet; its source reports 94.53 %, of the best epoch on
the test images (and 93.58 % without the two parts). On CIFAR-100, where it reports 76.92 %:
--config.data.name=cifar100 with the mean and deviation of configs/cct2_cifar100.py.
Not as there: what is erased becomes the mean colour itself, and not one a little brighter.
"""

from jax_train.recipes import common


def get_config():
    """AdamW, AutoAugment, erasing, mixup or CutMix for half the batches, 300 epochs.

    Source: Lee et al. 2021, https://arxiv.org/abs/2112.13492, and main.py of
    https://github.com/aanna0701/SPT_LSA_ViT, where an epoch is three passes over the images; here
    it is one. The test images also serve as validation images; nothing is chosen by them: the
    figures are those of the last epoch.
    """
    config = common.get_config()
    config.model.name = "sl_vit"
    config.model.drop_path = 0.1  # of all blocks
    config.data.name = "cifar10"
    config.data.train_split = "train"
    config.data.val_split = "test"
    config.data.test_split = "test"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.augment.auto_augment = "cifar10"
    config.augment.crop_padding = 4
    config.augment.flip = True
    config.augment.erase_probability = 0.25
    config.augment.erase_area = (0.02, 0.4)
    config.augment.erase_aspect = (0.3, 10 / 3)
    config.augment.mixup = 1.0
    config.augment.cutmix = 1.0
    config.augment.mix_probability = 0.5
    config.train.epochs = 300
    config.train.batch_size = 128
    config.train.label_smoothing = 0.1
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 5e-2
    config.schedule.name = "cosine"
    config.schedule.warmup_epochs = 30.0
    config.schedule.final_factor = 1e-3
    config.checkpoint.report = "last"
    return config
