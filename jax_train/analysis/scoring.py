"""What a trained model says of images, and test-time augmentation.

With test-time augmentation a model sees several views of an image, and the mean of its
probabilities (softmax of the logits) counts. Its logarithm then stands where the logits stood, so
that loss, accuracy and all else are computed as ever. Airbench's counts the mean of the logits.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.engine import augment, feed, metrics, steps
from jax_train.errors import UserError
from jax_train.runs.trained import TrainedRun

AIRBENCH = "airbench"
TTA = ("flip", "crops", AIRBENCH)


class View(NamedTuple):
    """One of the views of an image.

    Attributes:
      place: [2] of the crop in the padded image.
      mirror: whether it is mirrored.
      weight: its share in the mean.
    """

    place: np.ndarray
    mirror: bool
    weight: float


def parse_tta(text: str) -> tuple[str, ...]:
    """Read 'flip', 'crops', 'flip,crops' or 'airbench'; '' is none.

    Raises:
      UserError: it is something else.
    """
    asked = [part.strip() for part in text.split(",")] if text else []
    if unknown := [part for part in asked if part not in TTA]:
        raise UserError(
            f"--tta {text}: {unknown[0]!r} is none of {', '.join(TTA)}. Give one, or two as in "
            "--tta flip,crops."
        )
    if AIRBENCH in asked and set(asked) != {AIRBENCH}:
        raise UserError(
            f"--tta {text}: {AIRBENCH} has views of its own, with mirror images among them. Give "
            "it alone."
        )
    return tuple(name for name in TTA if name in asked)


def views(run: TrainedRun, tta: Sequence[str]) -> list[View]:
    """Views of an image.

    Args:
      run: the model.
      tta: 'flip' adds the mirror image of each view. 'crops' adds to the image itself four that
        are shifted to the corners by the recipe's crop padding, at least 1 pixel of what the
        model sees; black comes in. 'airbench', alone: the image, which counts as much as the two
        that are shifted by one pixel up and left and down and right, with pixels mirrored at the
        border; and the mirror image of each. Source: https://arxiv.org/abs/2404.00498.
    """
    if AIRBENCH in tta:
        places = (1, 1 / 4), (0, 1 / 8), (2, 1 / 8)
        return [
            View(np.full(2, place, np.int32), mirror, weight)
            for place, weight in places
            for mirror in (False, True)
        ]
    near = crop_padding(run)
    places = [(near, near)]
    if "crops" in tta:
        places += itertools.product((0, 2 * near), repeat=2)
    mirrors = (False, True) if "flip" in tta else (False,)
    found = list(itertools.product(np.array(places, np.int32), mirrors))
    return [View(*view, 1 / len(found)) for view in found]


def crop_padding(run: TrainedRun) -> int:
    """Pixels by which crops are shifted: those of the recipe, at least 1."""
    return max(1, run.config.augment.crop_padding)


def tta_notes(run: TrainedRun, tta: Sequence[str]) -> list[str]:
    """A warning where mirror images are asked for that the recipe does not train on."""
    mirroring = [name for name in tta if name in ("flip", AIRBENCH)]
    if not mirroring or run.config.augment.flip:
        return []
    return [f"this recipe trains on no mirror images; --tta {mirroring[0]} may do harm"]


def check_finite(run: TrainedRun, scores: np.ndarray, what: str = "logits") -> None:
    """Raise a UserError where a run's logits, or what is made of them, are no finite numbers."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"The {what} of {run.folder} are not finite: its training did not converge. Train it "
            "again with a lower config.optim.learning_rate."
        )


class Scorer:
    """What a run says of images: its logits, or, with augmentation, log mean probabilities.

    Of 'airbench' the mean of the logits.

    Args:
      run: the model.
      tta: see `views`.
    """

    def __init__(self, run: TrainedRun, tta: Sequence[str] = ()):
        logits = functools.partial(steps.logits, run.recipe)
        self._of_logits = AIRBENCH in tta
        if self._of_logits:
            of_view = functools.partial(_view_logits, run.recipe, _reflected)
        else:
            inputs = functools.partial(_in_black, crop_padding(run))
            of_view = functools.partial(_view_log_probabilities, run.recipe, inputs)
        self._weights, self._views = (run.params, run.stats), views(run, tta) if tta else []
        tally = functools.partial(_tally, run.recipe.eval_batch_size)
        self._logits, self._of_view, self._tally = map(jax.jit, (logits, of_view, tally))

        @jax.jit  # one program, as in training: the sums are then the same to the last bit
        def tally_images(weights, sums, images, labels, count):
            return tally(sums, logits(*weights, images), labels, count)

        self._tally_images = tally_images

    def scores(self, images: np.ndarray) -> jax.Array:
        """Scores [B,K], float32 at least, of raw images uint8 [B,H,W,C]; softmax them."""
        if not self._views:
            return self._logits(*self._weights, images)
        parts = (self._of_view(*self._weights, images, v.place, v.mirror) for v in self._views)
        if self._of_logits:
            return sum(v.weight * part for v, part in zip(self._views, parts, strict=True))
        return functools.reduce(jnp.logaddexp, parts) - math.log(len(self._views))

    def probabilities(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Probabilities float32 [n,K] of raw images uint8 [n,H,W,C], n up to `batch_size`.

        Each call runs a batch of that size, so that it is compiled once.
        """
        scores = self.scores(feed.padded(images, batch_size))
        return np.asarray(_softmax(scores))[: len(images)]

    def tally(self, sums: metrics.EvalSums, images: np.ndarray, labels: np.ndarray, count: int):
        """Add the first `count` examples of a batch to the sums.

        Returns:
          (sums, (predictions, confidences, true_probabilities)), as in `Evaluation` but [B].
        """
        count = np.int32(count)
        if self._views:
            return self._tally(sums, self.scores(images), labels, count)
        return self._tally_images(self._weights, sums, images, labels, count)


def _view_log_probabilities(*args) -> jax.Array:
    """Log probabilities [B,K] of one view; arguments as of `_view_logits`."""
    return jax.nn.log_softmax(_view_logits(*args))


def _view_logits(recipe, inputs, params, stats, images, place, mirror):
    """Logits [B,K] of one view, which `inputs` makes: see `_in_black`."""
    evaluate = functools.partial(inputs, recipe.augmentation.evaluate, place, mirror)
    recipe = dataclasses.replace(
        recipe, augmentation=recipe.augmentation._replace(evaluate=evaluate)
    )
    return steps.logits(recipe, params, stats, images)


def _in_black(padding: int, evaluate, place, mirror, images):
    """The crop at `place` [2] of an image, or of its mirror image, on black."""
    whole = evaluate(images)
    whole = jnp.where(mirror, whole[:, :, ::-1], whole)
    places = jnp.broadcast_to(place, (len(images), 2))
    inside = augment.crop_at(jnp.ones_like(whole[:1, :, :, :1]), places[:1], padding)
    black = evaluate(0 * images[:1])  # comes in before normalisation: no zeros afterwards
    return jnp.where(inside > 0, augment.crop_at(whole, places, padding), black)


def _reflected(evaluate, place, mirror, images):
    """The crop at `place` [2] of an image, with a pixel mirrored at each border, or its mirror."""
    whole = evaluate(images)
    padded = jnp.pad(whole, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    places = jnp.broadcast_to(place, (len(images), 2))
    crop = augment.crop_at(padded, places, 0, whole.shape[1:3])
    return jnp.where(mirror, crop[:, :, ::-1], crop)


def _softmax(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32))


def _tally(length: int, sums: metrics.EvalSums, scores, labels: jax.Array, count: jax.Array):
    new = metrics.eval_sums(scores, labels, jnp.arange(len(labels)) < count, length)
    shares = _softmax(scores)
    true = jnp.take_along_axis(shares, labels[:, None], axis=-1)[:, 0]
    parts = scores.argmax(axis=-1).astype(jnp.int32), shares.max(axis=-1), true
    return jax.tree.map(jnp.add, sums, new), parts
