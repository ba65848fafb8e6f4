"""CNN with self-attention after each convolution on CIFAR-10, 737,294 parameters.

python train_jax.py --config configs/attention_cnn_cifar10.py

Time: about 14 minutes an epoch on 2 CPU cores with --config.dtype=bfloat16, 17 without, 10
epochs. Result: test top-1 68.3 % (last weights, in bfloat16); its source printed 68 %.
"""

from jax_train.recipes import common


def get_config():
    """Adam at a constant rate for 10 epochs, no augmentation.

    The test images also serve as validation images, as in the published recipe; nothing is
    chosen by them: the figures are those of the last epoch.
    """
    config = common.get_config()
    config.model.name = "attention_cnn"
    config.data.name = "cifar10"
    config.data.train_split = "train"
    config.data.val_split = "test"
    config.data.test_split = "test"
    config.data.mean = (0.5, 0.5, 0.5)
    config.data.std = (0.5, 0.5, 0.5)
    config.train.epochs = 10
    config.train.batch_size = 100
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.schedule.name = "constant"
    config.checkpoint.report = "last"
    return config
