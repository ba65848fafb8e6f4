"""What pretrained weights expect of an image: its size, and the scale of its values.

Pillow resizes, as in timm and transformers: on uint8, with antialias. Other libraries' resizing
differs by a level or two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jax_models.pretrained.errors import SourceError

if TYPE_CHECKING:  # Pillow takes a while to import, and models alone need none
    from PIL import Image

_MOST_PIXELS = 2**25  # that are resized as a whole
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # of Pillow


@dataclass(frozen=True)
class Preprocessing:
    """Turns images into what a model takes: resized, cropped, scaled, normalised.

        inputs = preprocessing(["cat.jpg", "dog.png"])      # files
        inputs = preprocessing(images)                      # uint8 [B,H,W,C]

    Attributes:
      size: S, the side of the model's images in pixels.
      resize: the shorter side is resized to so many pixels; (height, width): both are, whatever
        the shape was; None: nothing is resized.
      interpolation: one of `INTERPOLATIONS`.
      mean, std: one number per channel, of values multiplied with `scale`.
      scale: that a level of 0 to 255 is multiplied with.
      rounds_up: which of two middles is cropped where the margin is odd: the even one, as
        torchvision and timm (True), or the upper left one, as transformers (False).
    """

    size: int
    resize: int | tuple[int, int] | None
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    scale: float = 1 / 255
    rounds_up: bool = True

    @property
    def channels(self) -> int:
        """C, of the model's images."""
        return len(self.mean)

    @property
    def statistics(self) -> dict[str, tuple[float, ...]]:
        """`mean` and `std` of levels scaled to [0, 1]."""
        unit = 255 * self.scale  # what the largest level becomes
        return {key: tuple(x / unit for x in getattr(self, key)) for key in ("mean", "std")}

    def __call__(
        self, images: np.ndarray | str | os.PathLike | Sequence[str | os.PathLike]
    ) -> np.ndarray:
        """What the model takes, float32 [B,S,S,C].

        Args:
          images: uint8 [B,H,W,C] or [H,W,C], a file, or several, which may differ in size. Files
            are turned upright by their EXIF tag and made RGB or, for one channel, grey; see
            `upright`.

        Raises:
          ValueError: an array has another dtype or other channels, or a file is no image.
        """
        if isinstance(images, str | os.PathLike):
            images = [images]
        if isinstance(images, np.ndarray):
            fitted = [self._of_array(array) for array in self._checked(images)]
        else:
            fitted = [self.fit(self._read(path)) for path in images]
        return self.normalise(np.stack(fitted))

    def fit(self, image: Image.Image) -> np.ndarray:
        """Resize and crop Pillow's image of mode L or RGB: uint8 [S,S,C]. What is missing is 0."""
        return self._fit(image).reshape(self.size, self.size, self.channels)

    def _fit(self, image: Image.Image) -> np.ndarray:
        from PIL import Image

        resampling = Image.Resampling[self.interpolation.upper()]
        size = self._resized(*image.size)
        left, top = (self._margin(side) for side in size)
        if size != image.size:
            if math.prod(size) <= _MOST_PIXELS:
                image = image.resize(size, resampling)
            else:
                image = self._middle(image, size, resampling)
                left, top = min(left, 0), min(top, 0)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))

    def _middle(self, image: Image.Image, size: tuple[int, int], resampling) -> Image.Image:
        """What is cropped of an image that is resized to a size.

        A thin one of few pixels may be as long as a hundred thousand of its shorter sides, and
        resized as a whole it would fill the memory.
        """
        first = [max(self._margin(side), 0) for side in size]
        last = [min(self._margin(side) + self.size, side) for side in size]
        (left, top), (right, bottom) = (
            [min(place * own / side, own) for place, own, side in zip(*each, strict=True)]
            for each in ((first, image.size, size), (last, image.size, size))
        )
        width, height = (end - start for start, end in zip(first, last, strict=True))
        return image.resize((width, height), resampling, box=(left, top, right, bottom))

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """(levels · scale - mean) / std of uint8 [...,C], as float32."""
        values = pixels.astype(np.float32) * np.float32(self.scale)
        return (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def at(self, size: int) -> Preprocessing:
        """The same for another side: what is resized keeps its ratio to what is cropped."""
        resize = self.resize
        if isinstance(resize, tuple):
            height, width = (round(side * size / self.size) for side in resize)
            resize = height, width
        elif resize is not None:
            resize = max(size, round(resize * size / self.size))
        return replace(self, size=size, resize=resize)

    def with_channels(self, channels: int) -> Preprocessing:
        """The same for other channels: each takes the mean of the mean and of the std."""
        if channels == self.channels:
            return self
        mean, std = (float(np.mean(values)) for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize is None:
            return width, height
        if isinstance(self.resize, tuple):
            return self.resize[::-1]
        short, long = sorted((width, height))
        long = int(self.resize * long / short)
        return (self.resize, long) if width <= height else (long, self.resize)

    def _margin(self, side: int) -> int:
        spare = side - self.size
        if not self.rounds_up:
            return spare // 2
        return round(spare / 2) if spare >= 0 else -(-spare // 2)

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = images[None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != self.channels:
            raise SourceError(
                f"The images are {images.dtype} {list(images.shape)}; expected uint8 "
                f"[B,H,W,{self.channels}], the levels 0 to 255 of a picture."
            )
        return images

    def _of_array(self, array: np.ndarray) -> np.ndarray:
        from PIL import Image

        if self.channels == 3:
            return self.fit(Image.fromarray(array))
        # One by one: Pillow would take a second or fourth channel for transparency.
        channels = (np.ascontiguousarray(array[..., k]) for k in range(self.channels))
        return np.stack([self._fit(Image.fromarray(channel)) for channel in channels], axis=-1)

    def _read(self, path: str | os.PathLike) -> Image.Image:
        from PIL import Image

        if self.channels not in (1, 3):
            raise SourceError(
                f"{os.fspath(path)}: files are read as grey (1 channel) or RGB (3), and the model "
                f"takes {self.channels}. Give arrays, uint8 [B,H,W,{self.channels}]."
            )
        try:
            with Image.open(path) as opened:
                return upright(opened, "L" if self.channels == 1 else "RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise SourceError(f"{os.fspath(path)} cannot be read as an image: {reason}") from None


def upright(image: Image.Image, mode: str) -> Image.Image:
    """Pillow's image, turned by its EXIF tag, in mode L or RGB.

    Transparency is dropped, and 16-bit samples keep their upper 8 bits.

    Raises:
      ValueError: damaged EXIF data, or samples of 32 bits or of floating point.
      OSError and others: Pillow's, for pixels that cannot be decoded.
    """
    from PIL import Image, ImageOps

    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)  # a copy takes time
    except Exception as error:  # readers of EXIF raise many kinds
        raise ValueError("its EXIF data is damaged; save it without") from error
    if image.mode.startswith("I"):  # Pillow's own conversion of 16 bits clips them to white
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("32-bit pixels; expected 8 or 16 bits")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels; expected 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)
