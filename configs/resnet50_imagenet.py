"""ResNet-50 on ImageNet by timm's procedure A2, 25,557,032 parameters.

python train_jax.py --config configs/resnet50_imagenet.py \\
    --config.data.name=folder:/path/to/imagenet

The folder has `train` and `val` with a folder for each class; records of tensorflow-datasets come
by --config.data.name=imagenet2012 --config.data.data_dir=/path/to/tfds. On accelerators add
--config.dtype=bfloat16, the source's is mixed precision. Time: 625 steps an epoch, which no CPU is
for; what cores feed how many GPUs: docs/distributed.md. Result: not run; its source reports 79.8 %.
Not as there: crops are always bicubic (there bilinear or bicubic by chance), a pair that is mixed
are neighbours in the batch, and the rate falls from the end of the warm-up on, step by step (there
as if there had been none, epoch by epoch).
"""

from jax_train.recipes import common


def get_config():
    """LAMB on binary cross-entropy, RandAugment, mixup and CutMix, repeated augmentation.

    Source: Wightman, Touvron and Jégou 2021, https://arxiv.org/abs/2110.00476, table 2; what is not
    in it (clipping, eps, threshold, first and last rate) is timm's.
    """
    config = common.get_config()
    config.model.name = "resnet50"
    config.model.drop_path = 0.05
    use_images(config, side=224, crop_ratio=0.95)
    config.augment.auto_augment = "rand-m7-mstd0.5-inc1"
    config.augment.mixup = 0.1
    config.augment.cutmix = 1.0
    config.augment.repeats = 3
    config.train.epochs = 300
    config.train.batch_size = 2048
    config.train.loss = "binary_cross_entropy"
    config.train.bce_threshold = 0.2
    config.optim.name = "lamb"
    config.optim.learning_rate = 5e-3
    config.optim.eps = 1e-6
    config.optim.weight_decay = 0.02
    config.optim.decay_exclude = (r"\.(bias|scale)$",)
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_factor = 0.02  # 1e-4
    config.schedule.final_factor = 2e-4  # 1e-6
    return config


def use_images(config, *, side: int, crop_ratio: float) -> None:
    """Train on random boxes of ImageNet's files, and evaluate on the middle of its validation set.

    Nothing is chosen by these images: the figures are those of the last epoch.

    Args:
      config: of the recipe.
      side: in pixels, of what the model takes.
      crop_ratio: that share of the shorter side of a test image is seen.
    """
    config.data.name = "imagenet2012"
    config.data.train_split = "train"
    config.data.val_split = config.data.test_split = "val"
    config.data.memory_limit = 1.0  # both splits stream
    config.data.image_size = int(side / crop_ratio)
    config.data.interpolation = config.augment.interpolation = "bicubic"
    config.data.mean = (0.485, 0.456, 0.406)
    config.data.std = (0.229, 0.224, 0.225)
    config.augment.random_resized_crop = (0.08, 1.0)
    config.augment.crop_size = side
    config.augment.flip = True
    config.checkpoint.report = "last"
