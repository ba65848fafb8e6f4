"""What torchvision makes of a few images, kept in torchvision_reference.npz.

In an environment with torchvision (here 0.29.1), from the root of the repository:
`python tests/jax_train/engine/augment/torchvision_reference.py` writes it again.
"""

import itertools
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
HEIGHT, WIDTH = 31, 43
SIZE = (17, 23)  # of a resized box
# Top, left, height, width: all of it, parts made smaller and larger, at the edges, a single pixel.
BOXES = ((0, 0, 31, 43), (3, 5, 28, 31), (20, 30, 11, 13), (7, 0, 5, 43), (30, 42, 1, 1))
FACTORS = {
    "brightness": (0.0, 0.37, 1.0, 1.61),
    "contrast": (0.0, 0.37, 1.0, 1.61),
    "saturation": (0.0, 0.37, 1.0, 1.61),
    "hue": (-0.5, -0.13, 0.0, 0.21),
}
ORDERS = tuple(itertools.permutations(range(4)))[::5]
IN_ORDER = (0.7, 1.3, 0.6, 0.1)  # a factor of each, for these orders
AREA, ASPECT, DRAWN = (0.08, 1.0), (3 / 4, 4 / 3), 2000


def images() -> np.ndarray:
    """Bytes [2, H, W, 3]: a smooth picture and noise with black, white and grey pixels."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / a + y / b) for a, b in ((5, 9), (7, -4), (-11, 6))]
    smooth = np.uint8(127.5 + 127 * np.stack(waves, -1))
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    noise[0], noise[1], noise[2] = 0, 255, noise[2, :, :1]
    return np.stack([smooth, noise])


def main() -> None:
    """Write the file."""
    import torch
    from PIL import Image
    from torchvision.transforms import InterpolationMode, RandomResizedCrop
    from torchvision.transforms import functional as F

    found = {}
    tensors = [torch.tensor(image).permute(2, 0, 1) for image in images()]
    for name in ("bilinear", "bicubic"):
        mode = InterpolationMode(name)
        found[name] = np.stack(
            [
                [np.asarray(F.resized_crop(Image.fromarray(i), *box, SIZE, mode)) for box in BOXES]
                for i in images()
            ]
        )
    changes = {name: getattr(F, f"adjust_{name}") for name in FACTORS}
    for name, factors in FACTORS.items():
        found[name] = np.stack(
            [[changes[name](t, f).permute(1, 2, 0).numpy() for f in factors] for t in tensors]
        )

    def in_order(picture, order):
        for number in order:
            picture = list(changes.values())[number](picture, IN_ORDER[number])
        return picture

    found["orders"] = np.stack(
        [[in_order(t, order).permute(1, 2, 0).numpy() for order in ORDERS] for t in tensors]
    )
    torch.manual_seed(3)
    boxes = [RandomResizedCrop.get_params(tensors[0], AREA, ASPECT) for _ in range(DRAWN)]
    found["boxes"] = np.array(boxes, np.uint8)
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
