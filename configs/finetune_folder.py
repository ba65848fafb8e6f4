"""Your own images on pretrained weights: all of the model is trained on, at a small rate.

python train_jax.py --config configs/finetune_folder.py \\
    --config.data.name=folder:/path/to/images \\
    --config.model.init_from=timm/vit_small_patch16_224.augreg_in21k

Weights: a folder of transformers or timm, a file (with --config.model.name), hf:ORG/NAME,
timm/NAME.TAG or a run folder. Time: depends on both. Result: yours.
"""

from configs import common


def get_config():
    """SGD with momentum, no decay, clipped gradients, a cosine after a warm-up: Google's recipe.

    The model, its image size and the mean and std of the pixels are those of the weights. The rate
    is the smaller of the two that the source names, for a batch of 32 instead of 512.
    Source: https://github.com/google-research/vision_transformer, configs/vit.py.
    """
    config = common.get_config()
    config.model.name = "auto"
    config.data.name = "folder:images"
    config.data.train_split = config.data.val_split = config.data.test_split = "auto"
    config.augment.flip = True
    config.train.epochs = 10
    config.train.batch_size = 32
    config.optim.name = "sgd"
    config.optim.learning_rate = 3e-3
    config.optim.momentum = 0.9
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 1.0
    return config
