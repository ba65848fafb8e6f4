"""Images in folders whose names mean something in HTML, and a config for tiny models on them."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import common

CLASSES = ("<script>alert(1)", "a&amp;b", 'it\'s "$x_1$"')
TRAIN, TEST = 40, 13  # images of each class


def write_images(folder: Path) -> Path:
    """Write 8x8 colour images, faint patterns under noise, so that not all are told apart."""
    draw = np.random.default_rng(0)
    patterns = draw.uniform(0, 255, (len(CLASSES), 8, 8, 3))
    for pattern, name in zip(patterns, CLASSES, strict=True):
        for split, count in (("train", TRAIN), ("test", TEST)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = draw.uniform(0, 255, pattern.shape)
                pixels = (0.18 * pattern + 0.82 * noise).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def config(folder: Path) -> ConfigDict:
    """A config that trains a ViT and a CNN on those images, in a second or two."""
    config = common.get_config()
    config.compare = ("simple_cnn",)
    config.data.name = f"folder:{folder}"
    config.data.train_split = "train[:80%]"
    config.data.val_split = "train[80%:]+test[:2]"
    config.model.patch_size, config.model.embed_dim = 4, 8
    config.model.depth, config.model.num_heads = 2, 2
    config.model.widths = (5, 7)
    config.train.epochs = 3
    config.train.batch_size = 16
    config.optim.learning_rate = 3e-3
    config.log.every_steps = 2
    return config
