"""ViT against CNN on your own images: both trained, then compared on one page.

python train_jax.py --config configs/vit_vs_cnn_folder.py \\
    --config.data.name=folder:/path/to/images

Time: depends on the images. Result: yours.
"""

from jax_train.recipes import folder, vit_folder


def get_config():
    """The models of configs/vit_folder.py and configs/folder.py, on the ViT's schedule."""
    config = vit_folder.get_config()
    config.compare = ("simple_cnn",)
    config.model.widths = folder.get_config().model.widths  # of the CNN
    return config
