"""Recipes so small that a run takes seconds."""

from ml_collections import ConfigDict

from configs import common


def config(model: str = "vit", **changes) -> ConfigDict:
    """A recipe on the embedded digits: 4 steps an epoch, 3 epochs, unless the changes say not."""
    config = common.get_config()
    config.model.name = model
    if model == "vit":
        config.model.patch_size, config.model.embed_dim = 4, 8
        config.model.depth, config.model.num_heads = 1, 2
    else:
        config.model.widths = (5, 7)
    config.data.train_split, config.data.val_split = "train[:150]", "train[150:200]"
    config.data.test_split = "test[:60]"
    config.augment.crop_padding = 1
    config.train.epochs, config.train.batch_size = 3, 32
    config.eval.batch_size = 37  # the last batch is not full
    config.log.every_steps = 3
    config.optim.learning_rate = 3e-3
    config.update_from_flattened_dict(changes)
    return config


# The commands' tests share this one, so that it is compiled once.
EVALUATED = {
    "data.train_split": "train[:300]",
    "data.val_split": "train[300:350]",
    "data.test_split": "test[:61]",
    "augment.crop_padding": 0,
    "train.epochs": 2,
    "train.batch_size": 30,
    "eval.batch_size": 25,  # the last batch has 11
    "optim.learning_rate": 1e-2,
}
