"""ResNet-18 for small images on CIFAR-10, 11,173,962 parameters.

python train_jax.py --config configs/resnet18_cifar10.py

Time: some 15 minutes an epoch on 2 CPU cores, by single steps. Result: not run yet;
its source reports 93.02 %.
"""

from jax_train.recipes import cnn_cifar10


def get_config():
    """SGD with momentum and a cosine, random crop and flip, 200 epochs, as in its source.

    Source: https://github.com/kuangliu/pytorch-cifar.
    """
    config = cnn_cifar10.get_config()
    config.model.name = "resnet18"
    config.model.stem = "cifar"
    config.train.epochs = 200
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-4
    return config
