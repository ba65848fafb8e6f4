"""Where a trained model looks on images, as maps: attention by block, rollout, Grad-CAM.

Letters in shapes as in `explain`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jax_models.tokens import SequencePool
from jax_train.analysis import explain
from jax_train.analysis.explain import Intermediates
from jax_train.runs.trained import TrainedRun


class Map(NamedTuple):
    """Where a model looks on B images.

    Attributes:
      name: such as 'block 3', 'rollout' or 'stage 2'.
      values: [B,h,w], at least 0.
      extent: left, top, right and bottom of the map in pixels of the image, whose left edge is 0.
      even: what all values of an even map would be; 0 where there is no such thing.
    """

    name: str
    values: np.ndarray
    extent: tuple[float, float, float, float]
    even: float


class Patches:
    """Of a model with `patch_embed`, `positions`, `pool`, and its tokens before the patches.

    Attributes:
      tokens: token map [M,H,W].
      reader: whose attention it is, for people.
    """

    WHAT = "attention"

    def __init__(self, run: TrainedRun):
        self._model, self._embed = run.model, run.model.patch_embed
        self.tokens = explain.token_map(self._embed)
        self._has_class_token = "cls_token" in run.model.prefix
        self.reader = "class token" if self._has_class_token else "mean patch"
        if isinstance(run.model.pool, SequencePool):
            self.reader = "pooled token"

    def prefix(self, seen: Intermediates) -> int:
        """How many tokens that are no patches the reader may attend to."""
        others = seen.attention[0].shape[-1] - self._embed.num_patches
        return others - (self._has_class_token and self._model.blocks[0].attn.locality)

    def attention(self, seen: Intermediates) -> np.ndarray:
        """What the reader has of each patch, by block and head, [L,B,h,N]."""
        return np.stack([self._read(weights, seen) for weights in seen.attention])

    def rollout(self, seen: Intermediates) -> np.ndarray:
        """The same of all blocks together, [B,N]; see `explain.rollout`."""
        return self._read(explain.rollout(seen.attention), seen)

    def _read(self, shares: np.ndarray, seen: Intermediates) -> np.ndarray:
        counts = explain.token_counts(self._model, seen.features[-1])
        count = self._embed.num_patches
        return explain.of_patches(shares, count, self._has_class_token, counts)

    def maps(self, seen: Intermediates) -> Iterator[Map]:
        """Rollout, then attention by block, the mean of the heads; of runs, of their colours."""
        even = 1 / (self._embed.num_patches + self.prefix(seen))
        blocks = self.attention(seen).mean(axis=2)
        named = [("rollout", self.rollout(seen))]
        named += [(f"block {i}", values) for i, values in enumerate(blocks, start=1)]
        height, width = self.tokens.shape[1:]
        for name, values in named:
            yield Map(name, values[:, self.tokens].mean(axis=1), (0, 0, width, height), even)


class Stages:
    """Of a model with `stages` and, for each, `after`, `stage_pixels`; see `ConvNet`.

    Attributes:
      model: in the dtype of the run.
    """

    WHAT = "Grad-CAM"

    def __init__(self, run: TrainedRun):
        self.model = run.recipe.merge(run.params, run.stats)

    def grad_cams(
        self, seen: Intermediates, stages: Sequence[int]
    ) -> tuple[list[np.ndarray], list[tuple[float, float]]]:
        """Grad-CAM of the predicted class by stage, numbered from 0.

        Returns:
          Of each stage the map [B,H',W'], and (first pixel, pixels per value).
        """
        classes = seen.logits.argmax(axis=1)
        maps = [explain.grad_cam(self.model, seen.features[i], classes, i) for i in stages]
        return maps, [self.model.stage_pixels(i) for i in stages]

    def maps(self, seen: Intermediates) -> Iterator[Map]:
        """Grad-CAM of each stage with a place, the last one first."""
        stages = range(len(self.model.stages))[::-1]
        for stage, values, (first, step) in zip(stages, *self.grad_cams(seen, stages), strict=True):
            height, width = values.shape[1:]
            if height * width > 1:
                extent = (first, first, first + width * step, first + height * step)
                yield Map(f"stage {stage + 1}", values, extent, 0.0)


# How a model's looks are read, by what it has; it may have several of these.
KINDS: dict[str, type[Patches] | type[Stages]] = {"patch_embed": Patches, "stages": Stages}


def kinds_of(run: TrainedRun) -> list[Patches | Stages]:
    """Whatever shows where a run's model looks."""
    return [kind(run) for has, kind in KINDS.items() if hasattr(run.model, has)]
