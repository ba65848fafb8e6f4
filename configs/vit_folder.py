"""Your own images, a folder per class: a small ViT.

python train_jax.py --config configs/vit_folder.py --config.data.name=folder:/path/to/images

Time: depends on the images. Result: yours.
"""

from jax_train.recipes import folder


def get_config():
    """The data and schedule of configs/folder.py, for a ViT with patches of 8 pixels."""
    config = folder.get_config()
    config.model.name = "vit"
    config.model.widths = None
    config.model.patch_size = 8
    config.model.embed_dim = 96
    config.model.depth = 4
    config.model.num_heads = 4
    config.schedule.warmup_epochs = 2.0
    return config
