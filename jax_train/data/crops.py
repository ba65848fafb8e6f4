"""Random resized crops of whole image files, cut while they are decoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict

from jax_train.data.boxes import DRAWS, draw_boxes
from jax_train.data.decoding import pixels_of, resampling
from jax_train.data.examples import Examples


@dataclass(frozen=True, kw_only=True)
class Crops:
    """The crops of an epoch: those of (seed, epoch, example, copy), whatever is decoded before.

    Attributes:
      seed, epoch: of the run.
      size: height and width, in pixels, of what comes out.
      area, aspect: see `boxes.draw_boxes`.
      interpolation: a name of `decoding.INTERPOLATIONS`.
    """

    seed: int
    epoch: int
    size: tuple[int, int]
    area: Sequence[float]
    aspect: Sequence[float]
    interpolation: str

    def fit(self, example: int, copy: int = 0) -> Callable:
        """What brings Pillow's image of an example, by its index in the split, to its crop.

        With repeated augmentation each `copy` of it has one of its own.
        """

        def cut(image) -> np.ndarray:
            box = draw_boxes(self._draws(example, copy), *image.size[::-1], self.area, self.aspect)
            top, left, height, width = box.tolist()
            image = image.crop((left, top, left + width, top + height))
            return pixels_of(image.resize(self.size[::-1], resampling(self.interpolation)))

        return cut

    def _draws(self, example: int, copy: int) -> np.ndarray:
        # Numbers of the generator itself: NumPy may change what it makes of them.
        random = np.random.Philox(key=[self.seed, self.epoch], counter=[0, example, copy, 0])
        bits = random.random_raw(np.prod(DRAWS)) >> np.uint64(40)
        return (bits.astype(np.float32) / np.float32(2**24)).reshape(DRAWS)


def cuts_whole_files(config: ConfigDict, split: Examples) -> bool:
    """Whether training on a split takes its crops from whole files, not from stored images.

    That is where files of any size stream; images in memory are squares of `image_size`.
    """
    return bool(config.augment.random_resized_crop) and split.streamed and split.can_fit
