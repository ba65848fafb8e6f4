"""Your own images, a folder per class, on pretrained weights.

python train_jax.py --config configs/finetune_folder.py \\
    --config.data.name=folder:/path/to/images \\
    --config.model.init_from=timm/vit_small_patch16_224.augreg_in21k

Weights: a folder of transformers or timm, a file (with --config.model.name), hf:ORG/NAME,
timm/NAME.TAG or a run folder. Time: depends on the images and the model. Result: yours. Its source
reports 82.3 to 83.3 % on CIFAR-10 from 5 images of each class (BiT-M R50x1 of ImageNet-21k), by 500
steps: for few images set --config.train.epochs to about 8000 / images.
"""

from jax_train.recipes import common


def get_config():
    """SGD with momentum, no decay, clipped gradients, a cosine after a warm-up.

    BiT's rule at a batch of 16: its rate of 0.003 and the 0.03 of ViTs are for 512 images. The
    model, the size of its images, what of a larger one is cropped (at random in training, as in
    BiT) and the mean and std of the pixels are those of the weights.
    Source: https://github.com/google-research/big_transfer, README.md and bit_hyperrule.py; of the
    clipping and the cosine https://github.com/google-research/vision_transformer, configs/.
    """
    config = common.get_config()
    config.model.name = "auto"
    config.data.name = "folder:images"
    config.data.train_split = config.data.val_split = config.data.test_split = "auto"
    config.augment.flip = True
    config.train.epochs = 30
    config.train.batch_size = 16
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.003
    config.optim.momentum = 0.9
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 1.0
    return config
