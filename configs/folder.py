"""Your own images, a folder per class: a small CNN with batch norm.

python train_jax.py --config configs/folder.py --config.data.name=folder:/path/to/images

With folders train, val and test these are the splits; what is missing of val and test is cut from
train. Another model: --config.model.name=vit, or configs/vit_folder.py. Time: depends on the
images. Result: yours.
"""

from jax_train.recipes import common


def get_config():
    """Images resized to 64 pixels, splits as the folder has them, mean and std measured."""
    config = common.get_config()
    config.model.name = "simple_cnn"
    config.model.widths = (32, 64, 128, 256)
    config.data.name = "folder:images"
    config.data.image_size = 64
    config.data.train_split = config.data.val_split = config.data.test_split = "auto"
    config.augment.crop_padding = 8
    config.augment.flip = True
    config.train.batch_size = 32
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.05
    return config
