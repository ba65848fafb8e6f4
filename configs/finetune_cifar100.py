"""CIFAR-100 on pretrained weights, as Google fine-tunes its ViTs.

python train_jax.py --config configs/finetune_cifar100.py \\
    --config.model.init_from=timm/vit_base_patch16_384.augreg_in21k_ft_in1k

Weights: a folder of transformers or timm, a file (with --config.model.name), hf:ORG/NAME,
timm/NAME.TAG or a run folder. Time: hours on an accelerator; 500 steps instead of 10,000 with
--config.train.epochs=5 --config.schedule.warmup_epochs=0.5. Result: not run yet; its source reports
92.06 % for ViT-B/16 of ImageNet-21k at 384 pixels, 89.17 % after 500 steps. BiT's R50x1 of
ImageNet-21k has 86.4 to 86.6 %; what it needs: configs/finetune_cifar10.py.
"""

from jax_train.recipes import finetune_cifar10


def get_config():
    """The recipe of configs/finetune_cifar10.py at three times the rate, as in its source."""
    config = finetune_cifar10.get_config()
    config.data.name = "cifar100"
    config.optim.learning_rate = 0.03
    return config
