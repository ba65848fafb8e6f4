"""A compact convolutional transformer on CIFAR-10 by Muon: 26 epochs, half a PFLOP.

python train_jax.py --config configs/cct_muon_cifar10.py

4 blocks of width 256 over 16 tokens, which three 3×3 convolutions make, 2,298,827 parameters.
Time: an hour on one CPU core with bfloat16. Result: test top-1 90.48 % (seed 0). Trained on the
first 45,000 training images, on which it was chosen, it has 90.12 %.
"""

from jax_train.recipes import cct2_cifar10


def get_config():
    """No dropout, AutoAugment's policy, see `by_muon`.

    Chosen among a few on the last 5,000 training images; see docs/results.md.
    """
    config = cct2_cifar10.get_config()
    config.model.conv_layers = 3  # 16 tokens, where two make 64
    config.model.depth = 4
    config.model.embed_dim = 256
    config.model.num_heads = 4
    config.model.mlp_dim = 512
    config.model.attention_dropout = 0.0
    config.model.drop_path = 0.0
    config.data.val_split = ""
    config.train.epochs = 26
    return by_muon(config)


def by_muon(config):
    """Muon for the matrices and AdamW for the rest, in bfloat16, for a short run of a ViT."""
    config.dtype = "bfloat16"
    config.augment.crop_mode = "reflect"
    config.train.batch_size = 256
    config.train.label_smoothing = 0.1
    config.optim.name = "muon"
    config.optim.momentum = 0.95
    config.optim.nesterov = True
    config.optim.muon_scale = "rms"
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.1
    config.schedule.name = "linear"
    config.schedule.unit = "step"
    config.schedule.warmup_epochs = 1.0
    config.schedule.warmup_factor = 0.0
    return config
