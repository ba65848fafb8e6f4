"""airbench96 on CIFAR-10: a third convolution a stage, 9,918,776 parameters, 4.99 PFLOP in all.

python train_jax.py --config configs/airbench96_cifar10.py --workdir runs/airbench96
python -m jax_train evaluate runs/airbench96 --tta airbench

Time: not measured yet. Result: not run yet; its source reports 96.03 % (mean of 400 runs) with
those views.
"""

from jax_train.recipes import airbench94_cifar10


def get_config():
    """Lower rates to zero, larger shifts, 37 epochs.

    Source: legacy/airbench96.py, see airbench94_cifar10.py.
    """
    config = airbench94_cifar10.get_config()
    config.model.name = "airbench96"  # widths 128, 384, 512, of three convolutions each
    config.model.norm_momentum = 0.1  # PyTorch's own
    config.augment.crop_padding = 4  # shifts by up to 4 pixels each way
    config.augment.cutout = 12
    config.train.epochs = 37
    airbench94_cifar10.set_rates(config, learning_rate=9.0, weight_decay=0.012)
    config.schedule.warmup_epochs = 3.7  # 10 % of the steps
    config.schedule.final_factor = 0.0
    return config
