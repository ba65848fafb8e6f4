"""CIFAR-10 on pretrained weights, as Google fine-tunes its ViTs.

python train_jax.py --config configs/finetune_cifar10.py \\
    --config.model.init_from=timm/vit_base_patch16_384.augreg_in21k_ft_in1k

Weights: a folder of transformers or timm, a file (with --config.model.name), hf:ORG/NAME,
timm/NAME.TAG or a run folder. Time: hours on an accelerator; 500 steps instead of 10,000 with
--config.train.epochs=5 --config.schedule.warmup_epochs=0.5. Result: not run yet; its source reports
99.02 % for ViT-B/16 of ImageNet-21k at 384 pixels, 98.59 % after 500 steps. BiT's ResNets use
another rate and crop: --config.optim.learning_rate=0.003 --config.augment.resize=160
--config.augment.crop_size=128 --config.augment.random_resized_crop='()', where R50x1 of
ImageNet-21k has 97.2 to 97.4 %.
"""

from jax_train.recipes import common


def get_config():
    """SGD with momentum, clipped gradients, no decay, 10,000 steps of 512 images, cosine to 0.

    A box of 5 to 100 % of each image is resized to what the weights take, in evaluation all of it;
    mean and std are those of the weights. The last 2 % of the training images validate, as there.
    Source: https://github.com/google-research/vision_transformer, README.md and configs/; of BiT
    https://github.com/google-research/big_transfer, README.md and bit_hyperrule.py.
    """
    config = common.get_config()
    config.model.name = "auto"
    config.data.name = "cifar10"
    config.data.train_split = "train[:98%]"
    config.data.val_split = "train[98%:]"
    config.data.test_split = "test"
    config.augment.random_resized_crop = (0.05, 1.0)
    config.augment.flip = True
    config.train.epochs = 105  # of 95 steps
    config.train.batch_size = 512
    config.train.accumulate_steps = 8
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.01
    config.optim.momentum = 0.9
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 5.25  # 500 steps
    config.checkpoint.report = "last"
    return config
