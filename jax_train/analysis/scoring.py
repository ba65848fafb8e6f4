"""What a trained model says of images, and test-time augmentation.

With test-time augmentation a model sees several views of an image, and the mean of its
probabilities (softmax of the logits) counts. Its logarithm then stands where the logits stood, so
that loss, accuracy and all else are computed as ever.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.engine import augment, feed, metrics, steps
from jax_train.errors import UserError
from jax_train.runs.trained import TrainedRun

TTA = ("flip", "crops")


def parse_tta(text: str) -> tuple[str, ...]:
    """Read 'flip', 'crops' or 'flip,crops'; '' is none.

    Raises:
      UserError: it is something else.
    """
    asked = [part.strip() for part in text.split(",")] if text else []
    if unknown := [part for part in asked if part not in TTA]:
        raise UserError(
            f"--tta {text}: {unknown[0]!r} is none of {', '.join(TTA)}. Give one or both, as in "
            "--tta flip,crops."
        )
    return tuple(name for name in TTA if name in asked)


def views(run: TrainedRun, tta: Sequence[str]) -> list[tuple[np.ndarray, bool]]:
    """Views of an image as (place [2] of the crop in the padded image, whether it is mirrored).

    Args:
      run: the model.
      tta: 'flip' adds the mirror image of each view. 'crops' adds to the image itself four that
        are shifted to the corners by the recipe's crop padding, at least 1 pixel of what the
        model sees; black comes in.
    """
    near = crop_padding(run)
    places = [(near, near)]
    if "crops" in tta:
        places += itertools.product((0, 2 * near), repeat=2)
    mirrors = (False, True) if "flip" in tta else (False,)
    return list(itertools.product(np.array(places, np.int32), mirrors))


def crop_padding(run: TrainedRun) -> int:
    """Pixels by which crops are shifted: those of the recipe, at least 1."""
    return max(1, run.config.augment.crop_padding)


def tta_notes(run: TrainedRun, tta: Sequence[str]) -> list[str]:
    """A warning where mirror images are asked for that the recipe does not train on."""
    note = "this recipe trains on no mirror images; --tta flip may do harm"
    return [note] if "flip" in tta and not run.config.augment.flip else []


def check_finite(run: TrainedRun, scores: np.ndarray, what: str = "logits") -> None:
    """Raise a UserError where a run's logits, or what is made of them, are no finite numbers."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"The {what} of {run.folder} are not finite: its training did not converge. Train it "
            "again with a lower config.optim.learning_rate."
        )


class Scorer:
    """What a run says of images: its logits, or, with augmentation, log mean probabilities.

    Args:
      run: the model.
      tta: see `views`.
    """

    def __init__(self, run: TrainedRun, tta: Sequence[str] = ()):
        logits = functools.partial(steps.logits, run.recipe)
        of_view = functools.partial(_view_log_probabilities, run.recipe, crop_padding(run))
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
        parts = (self._of_view(*self._weights, images, *view) for view in self._views)
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


def _view_log_probabilities(recipe, padding: int, params, stats, images, shift, mirror):
    """Log probabilities [B,K] of one view: the crop at `shift` [2], of the mirror image or not."""
    evaluate = recipe.augmentation.evaluate

    def inputs(images):
        whole = evaluate(images)
        whole = jnp.where(mirror, whole[:, :, ::-1], whole)
        shifts = jnp.broadcast_to(shift, (len(images), 2))
        inside = augment.crop_at(jnp.ones_like(whole[:1, :, :, :1]), shifts[:1], padding)
        black = evaluate(0 * images[:1])  # comes in before normalisation: no zeros afterwards
        return jnp.where(inside > 0, augment.crop_at(whole, shifts, padding), black)

    augmentation = recipe.augmentation._replace(evaluate=inputs)
    recipe = dataclasses.replace(recipe, augmentation=augmentation)
    return jax.nn.log_softmax(steps.logits(recipe, params, stats, images))


def _softmax(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32))


def _tally(length: int, sums: metrics.EvalSums, scores, labels: jax.Array, count: jax.Array):
    new = metrics.eval_sums(scores, labels, jnp.arange(len(labels)) < count, length)
    shares = _softmax(scores)
    true = jnp.take_along_axis(shares, labels[:, None], axis=-1)[:, 0]
    parts = scores.argmax(axis=-1).astype(jnp.int32), shares.max(axis=-1), true
    return jax.tree.map(jnp.add, sums, new), parts
