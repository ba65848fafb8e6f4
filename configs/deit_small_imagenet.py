"""DeiT-S, without distillation, on ImageNet: 22,050,664 parameters.

python train_jax.py --config configs/deit_small_imagenet.py \\
    --config.data.name=folder:/path/to/imagenet

Data and --config.dtype as in configs/resnet50_imagenet.py. Time: 1251 steps an epoch, which no CPU
is for. Result: not run; its source reports 79.8 %. Not as there: a pair that is mixed are
neighbours in the batch, and the rate falls from the end of the warm-up on, step by step (there as
if there had been none, epoch by epoch).
"""

from jax_train.recipes import common, resnet50_imagenet


def get_config():
    """AdamW, RandAugment, erasing, mixup and CutMix, repeated augmentation, 300 epochs.

    Source: Touvron et al. 2020, https://arxiv.org/abs/2012.12877, table 9; what is not in it (first
    and last rate, decay by parameter) is that of https://github.com/facebookresearch/deit.
    """
    config = common.get_config()
    config.model.name = "deit_small_patch16_224"
    config.model.drop_path = 0.1
    resnet50_imagenet.use_images(config, side=224, crop_ratio=0.875)
    config.augment.auto_augment = "rand-m9-mstd0.5-inc1"
    config.augment.erase_probability = 0.25
    config.augment.erase_mode = "pixel"
    config.augment.mixup = 0.8
    config.augment.cutmix = 1.0
    config.augment.repeats = 3
    config.train.epochs = 300
    config.train.batch_size = 1024
    config.train.label_smoothing = 0.1
    config.optim.name = "adamw"
    config.optim.learning_rate = 5e-4 * config.train.batch_size / 512
    config.optim.weight_decay = 0.05
    config.optim.decay_exclude = (r"\.(bias|scale)$", "^cls_token$", "^pos_embed$")
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_factor = 1e-3  # 1e-6
    config.schedule.final_factor = 0.01  # 1e-5
    return config
