"""Folders of small images for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def save(path, pixels, **options):
    """Write pixels as an image, with the folders above it; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)
    return path


def make(root, counts, size=(6, 8)):
    """Write random images N.png into folders below `root`: path -> how many; return `root`."""
    random = np.random.default_rng(0)
    assert not any(place.startswith("/") for place in counts)
    for place, count in counts.items():
        for i in range(count):
            save(Path(root) / place / f"{i}.png", random.integers(0, 256, (*size, 3), np.uint8))
        (Path(root) / place).mkdir(parents=True, exist_ok=True)
    return root
