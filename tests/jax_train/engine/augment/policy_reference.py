"""What timm's and torchvision's policies do to an image, kept in policy_reference.npz.

In an environment with both (here timm 1.0.31, torchvision 0.29.1 and Pillow 13.0.0), from the root
of the repository: `python tests/jax_train/engine/augment/policy_reference.py` writes it again.
"""

import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
HEIGHT, WIDTH = 17, 23
# torchvision's spaces of operations: the magnitudes tried.
SPACES = {"auto": (0, 3, 7, 9), "rand": (9,), "wide": (4, 15, 30)}
SIGNS = (1, -1)
LEVELS = (2.5, 9.0, 10.0)  # timm's
FILTERS = ("bilinear", "bicubic")
MEAN = (0.49, 0.13, 0.81)  # what timm fills with
SETTINGS = [(inc, level, sign) for inc in (0, 1) for level in LEVELS for sign in SIGNS]


def image() -> np.ndarray:
    """Bytes [H, W, 3]: a smooth picture with some noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(x / a + y / b) for a, b in ((5, 9), (7, -4), (-11, 6))]
    noise = np.random.default_rng(7).normal(0, 12, (HEIGHT, WIDTH, 3))
    return np.uint8((127.5 + 107 * np.stack(waves, -1) + noise).clip(0, 255))


def main() -> None:
    """Write the file."""
    from PIL import Image
    from timm.data import auto_augment
    from torchvision.transforms import InterpolationMode, autoaugment

    picture, found = Image.fromarray(image()), {}
    size = (HEIGHT, WIDTH)
    policies = {kind.value: kind for kind in autoaugment.AutoAugmentPolicy}
    auto = autoaugment.AutoAugment()
    text = {name: auto._get_policies(kind) for name, kind in policies.items()}
    spaces = {
        "auto": auto._augmentation_space(10, size),
        "rand": autoaugment.RandAugment()._augmentation_space(31, size),
        "wide": autoaugment.TrivialAugmentWide()._augmentation_space(31),
    }
    names = {space: list(operations) for space, operations in spaces.items()}
    names["timm0"] = auto_augment._RAND_TRANSFORMS
    names["timm1"] = auto_augment._RAND_INCREASING_TRANSFORMS

    def by_torchvision(space, name, magnitude, sign):
        values, signed = spaces[space][name]
        value = float(values[magnitude]) if values.ndim else 0.0
        value = sign * value if signed else value
        how = picture, name, value, InterpolationMode.NEAREST, None
        return np.asarray(autoaugment._apply_op(*how))

    for space, magnitudes in SPACES.items():
        found[space] = np.stack(
            [
                [[by_torchvision(space, name, m, sign) for sign in SIGNS] for m in magnitudes]
                for name in names[space]
            ]
        )
    fill = tuple(min(255, round(255 * x)) for x in MEAN)

    def by_timm(name, level, sign, how):
        auto_augment._randomly_negate = lambda value: sign * value
        make = auto_augment.LEVEL_TO_ARG[name]
        arguments = make(level, {}) if make else ()
        if name.startswith("Posterize") and arguments[0] == 0:
            return np.zeros_like(image())  # Pillow refuses it from 12 on
        resample = getattr(Image.Resampling, how.upper())
        function = auto_augment.NAME_TO_OP[name]
        return np.asarray(function(picture, *arguments, fillcolor=fill, resample=resample))

    for how in FILTERS:
        found[how] = np.stack(
            [
                [by_timm(name, level, sign, how) for name in names[f"timm{inc}"]]
                for inc, level, sign in SETTINGS
            ]
        )
    found["text"] = np.array(json.dumps({"names": names, "policies": text}))
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
