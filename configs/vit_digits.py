"""ViT on the embedded handwritten digits.

python train_jax.py --config configs/vit_digits.py

Time: 40 s on 2 CPU cores. Result: test top-1 98.1 % (mean of seeds 0, 1, 2: 98.6, 97.8, 98.1).
"""

from jax_train.recipes import common


def get_config():
    """A ViT with 2×2 patches; half of the digits are shifted by up to a pixel."""
    config = common.get_config()
    config.model.patch_size = 2
    config.model.embed_dim = 48
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.dropout = 0.1
    config.augment.crop_padding = 1
    config.augment.crop_probability = 0.5
    config.train.epochs = 60
    config.train.batch_size = 64
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.05
    config.schedule.warmup_epochs = 5.0
    config.eval.every_epochs = 5
    return config
