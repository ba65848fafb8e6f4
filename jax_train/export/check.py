"""What was written, opened by its own runtime and compared with the model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_train.analysis import features
from jax_train.data.source import DamagedFiles
from jax_train.errors import UserError
from jax_train.export.graph import LOGITS
from jax_train.runs.pretrained import PretrainedRun
from jax_train.runs.trained import TrainedRun, image_shape

# Of an output in float32, and of the largest value of one that is above 1: float32 itself holds no
# more than 6e-8 of a value, and each sum on the way to it loses some.
TOLERANCE = 1e-4
_MOST, _LEAST, _PIXELS = 64, 4, 2**18  # images, and pixels of all together


class Runtime(NamedTuple):
    """What runs a file.

    Attributes:
      name: with its version.
      run: images -> arrays by name.
    """

    name: str
    run: Callable[[np.ndarray], dict[str, np.ndarray]]


class Images(NamedTuple):
    """Raw images to compare with.

    Attributes:
      pixels: uint8 [N,H,W,C].
      what: they are, for people.
    """

    pixels: np.ndarray
    what: str


class Compared(NamedTuple):
    """How far a file is from the model.

    Attributes:
      runtime: that ran the file.
      largest: difference of any value of an output.
      equal: images of N that are given the same class; None without classes.
      count: N.
    """

    runtime: str
    largest: float
    equal: int | None
    count: int


def choose_images(run: TrainedRun) -> Images:
    """The first test images of a run; random ones of a model without data.

    Raises:
      UserError: the data of the run, or all of these images, cannot be read.
    """
    if isinstance(run, PretrainedRun):
        return random_images(run)
    images = features.of_split(run, run.config.data.test_split)
    pixels, _, damaged = images.read(np.arange(min(_count(run), len(images.names))))
    if not len(pixels):
        raise DamagedFiles([f"{images.names[place]} ({why})" for place, why in damaged.items()])
    return Images(pixels, images.data)


def random_images(run: TrainedRun) -> Images:
    """Images of noise in the size that a model takes."""
    shape = (_count(run), *image_shape(run))
    return Images(np.random.default_rng(0).integers(0, 256, shape, np.uint8), "random images")


def _count(run: TrainedRun) -> int:
    height, width, _ = image_shape(run)
    return int(np.clip(_PIXELS // (height * width), _LEAST, _MOST))


def compare(
    place: str, runtime: Runtime, expected: dict[str, np.ndarray], inputs: np.ndarray
) -> Compared:
    """Compare what a runtime gives for images, one alone and the others, with what is expected.

    Raises:
      UserError: an output is too far from it, or is not there.
    """
    # Of no images at all onnxruntime ends the process, and JAX takes none.
    parts = [runtime.run(batch) for batch in (inputs[:1], inputs[1:]) if len(batch)]
    largest = []
    for name, wanted in expected.items():
        found = np.concatenate([part[name] for part in parts])
        if found.shape != wanted.shape:
            _refuse(place, runtime, f"gives {name} of shape {found.shape}, not {wanted.shape}")
        largest.append(float(np.abs(found.astype(np.float64) - wanted).max()))
        allowed = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        if not largest[-1] <= allowed:  # nor is nan
            what = f"differs from the model by {largest[-1]:.1e} in {name}, more than {allowed:.2g}"
            _refuse(place, runtime, what)
    equal = None
    if LOGITS in expected:
        classes = np.concatenate([part[LOGITS] for part in parts]).argmax(axis=1)
        equal = int((classes == expected[LOGITS].argmax(axis=1)).sum())
    return Compared(runtime.name, max(largest), equal, len(inputs))


def _refuse(place: str, runtime: Runtime, what: str) -> None:
    raise UserError(
        f"--to {place}: opened again by {runtime.name} it {what}. Nothing is kept. Export to "
        "another format, or with other versions of the packages."
    )
