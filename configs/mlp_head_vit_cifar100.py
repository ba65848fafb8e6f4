"""ViT with a wide MLP head on CIFAR-100 at 72x72 pixels, 2,618,916 parameters.

python train_jax.py --config configs/mlp_head_vit_cifar100.py

Time: about 4 minutes an epoch on 2 CPU cores, 100 epochs. Result: not run to the end
yet; its source printed about 50 %.
"""

from jax_train.recipes import common


def get_config():
    """AdamW at a constant rate for 100 epochs; validation and test share the test images 70/30."""
    config = common.get_config()
    config.model.name = "mlp_head_vit"
    config.data.name = "cifar100"
    config.data.train_split = "train"
    config.data.val_split = "test[:70%]"
    config.data.test_split = "test[70%:]"
    config.augment.resize = 72
    config.augment.rotate_degrees = 7.0
    config.augment.flip = True
    config.train.epochs = 100
    config.train.batch_size = 32
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 1e-4
    config.schedule.name = "constant"
    config.checkpoint.report = "last"
    return config
