"""A model that is served: how images are read for it, and what is answered."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_train.analysis import explain, looks
from jax_train.analysis.looks import Map
from jax_train.analysis.prediction import likeliest
from jax_train.analysis.scoring import Scorer, check_finite
from jax_train.data.decoding import Encoded, unread_kind
from jax_train.data.given_images import check_channels, try_image
from jax_train.drawing.canvas import map_colours
from jax_train.pages.page import data_uri, png_of
from jax_train.printing import readable
from jax_train.runs.trained import TrainedRun, image_shape
from jax_train.serving.batching import Work, batch_sizes

_FIELD = ", or config.data.max_megapixels"  # which whoever sends images cannot set


class Look(NamedTuple):
    """What a model makes of an image: pixels [H,W,C] in [0, 1], as it sees them, and maps of it."""

    pixels: np.ndarray
    probabilities: np.ndarray
    maps: list[Map]


class ServedModel:
    """A run, or pretrained model, that answers.

    Args:
      name: by which requests name it.
      run: the model.
      most: images in a batch.
      max_megapixels: most that are decoded of an image; see `decoding.open_image`.

    Attributes:
      shape: of the images that it takes: height, width and channels.
      predict: images -> probabilities [K] of each.
      look: images -> a `Look` of each.

    Raises:
      UserError: it takes no image files.
    """

    def __init__(self, name: str, run: TrainedRun, most: int, max_megapixels: float):
        self.name, self._run, self._limit = name, run, max_megapixels
        self.shape, self._scorer = image_shape(run), Scorer(run)
        check_channels(self.shape)
        self._kinds = looks.kinds_of(run)
        self.predict = Work(self._probabilities, batch_sizes(most))
        self.look = Work(self._looks, (1,))

    def prepare(self) -> None:
        """Compile all that will be computed.

        Raises:
          UserError: the model's logits are not finite.
        """
        for work in (self.predict, self.look):
            for size in work.sizes:
                work.compute(np.zeros((size, *self.shape), np.uint8))

    def decode(self, file: Encoded) -> np.ndarray | str:
        """The image as the model takes it, uint8 [H,W,C], or why it cannot be read."""
        if unread_kind(file) == "JXL":  # its reader decodes all before it tells the size
            return "of the kind JXL, which is not taken here; send a PNG, JPEG, WebP or AVIF"
        said = try_image(file, self.shape, self._limit, self._run.fit)
        return said.removesuffix(_FIELD) if isinstance(said, str) else said

    def _probabilities(self, images: np.ndarray) -> np.ndarray:
        found = self._scorer.probabilities(images, len(images))
        check_finite(self._run, found)
        return found

    def _looks(self, images: np.ndarray) -> list[Look]:
        seen = explain.forward(self._run, images)
        check_finite(self._run, seen.logits)
        maps = [one for kind in self._kinds for one in kind.maps(seen)]
        return [
            Look(pixels, shares, [one._replace(values=one.values[i]) for one in maps])
            for i, (pixels, shares) in enumerate(zip(seen.pixels, seen.probabilities, strict=True))
        ]

    def facts(self) -> dict[str, Any]:
        """What is told of the model."""
        height, width, channels = self.shape
        return {
            "name": self.name,
            "family": self._run.config.model.name,
            "image": {"width": width, "height": height, "channels": channels},
            "classes": [readable(name) for name in self._run.class_names],
            "maps": [kind.WHAT for kind in self._kinds],
            "notes": [readable(note) for note in self._run.notes],
        }

    def likeliest(self, probabilities: np.ndarray, top: int) -> list[dict[str, Any]]:
        """The likeliest classes of an image, of its probabilities [K], the likeliest first."""
        [classes], [shares] = likeliest(probabilities[None], top)
        return [
            {"class": readable(self._run.class_names[k]), "index": int(k), "probability": float(p)}
            for k, p in zip(classes, shares, strict=True)
        ]


def image_answer(pixels: np.ndarray) -> dict[str, Any]:
    """An image [H,W,C] in [0, 1] as a page shows it."""
    return {
        "src": data_uri(png_of(np.round(255 * pixels).astype(np.uint8))),
        "width": pixels.shape[1],
        "height": pixels.shape[0],
    }


def map_answers(maps: Sequence[Map], pixels: np.ndarray) -> list[dict[str, Any]]:
    """Maps of an image [H,W,C] as a page lays them over it: pictures, and places in percent."""
    return [_map_answer(one, *pixels.shape[:2]) for one in maps]


def _map_answer(one: Map, height: int, width: int) -> dict[str, Any]:
    left, top, right, bottom = one.extent
    return {
        "name": one.name,
        "src": data_uri(png_of(map_colours(one.values, one.even))),
        "left": 100 * left / width,
        "top": 100 * top / height,
        "width": 100 * (right - left) / width,
        "height": 100 * (bottom - top) / height,
        "largest": float(one.values.max()),
        "where": _where(one, height, width),
    }


def _where(one: Map, height: int, width: int) -> str:
    """Where a map is strongest, for those who cannot see it."""
    if not one.values.max() > 0:
        return "nowhere"
    left, top, right, bottom = one.extent
    row, column = np.argwhere(one.values == one.values.max()).mean(axis=0) + 0.5
    h, w = one.values.shape
    down = (top + (bottom - top) * row / h) / height
    along = (left + (right - left) * column / w) / width
    vertical = ("top", "middle", "bottom")[int(np.clip(3 * down, 0, 2))]
    horizontal = ("left", "centre", "right")[int(np.clip(3 * along, 0, 2))]
    return f"at the {vertical} {horizontal}"
