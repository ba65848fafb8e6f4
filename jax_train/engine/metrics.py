"""Sums that stay on the device, and the figures made of them on the host."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

_RATIOS = ("precision", "recall", "f1")
# Names of the figures of an evaluation.
FIGURES = ("loss", "top1", "top5")
FIGURES += tuple(f"{name}_{mean}" for mean in ("macro", "micro") for name in _RATIOS)


class TrainSums(NamedTuple):
    """Sums over training examples, and of steps that were skipped; all scalars."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    count: jax.Array
    skipped: jax.Array  # steps whose loss or gradient was not finite; not in the sums above
    bad_step: jax.Array  # the first of them


class EvalSums(NamedTuple):
    """Sums over an evaluation: `confusion[true, predicted]` counts, int32 [K,K]."""

    loss: jax.Array
    confusion: jax.Array
    top5: jax.Array


def zero_train_sums() -> TrainSums:
    """Sums over no example."""
    return TrainSums(jnp.zeros(()), *(jnp.zeros((), jnp.int32) for _ in range(5)))


def zero_eval_sums(num_classes: int) -> EvalSums:
    """Sums over no example."""
    confusion = jnp.zeros((num_classes, num_classes), jnp.int32)
    return EvalSums(jnp.zeros(()), confusion, jnp.zeros((), jnp.int32))


def cross_entropy(
    logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0, weights=None
) -> jax.Array:
    """Softmax cross-entropy of each example, as torch.nn.CrossEntropyLoss computes it.

    Args:
      logits: [B,K].
      targets: class indices int [B], or shares of the classes [B,K].
      label_smoothing: share of the target spread evenly over all K classes.
      weights: of the classes, [K]; None: all 1.

    Returns:
      [B], in nats. With weights their mean is to be divided by `mean_weight`.
    """
    if weights is not None:
        return _weighted_cross_entropy(logits, targets, label_smoothing, weights)
    if targets.ndim == 1:
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    else:
        loss = optax.losses.softmax_cross_entropy(logits, targets)
    if label_smoothing:
        uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def _weighted_cross_entropy(logits, targets, label_smoothing, weights):
    shares = _smoothed_shares(logits, targets, label_smoothing)
    weights = jnp.asarray(weights, logits.dtype)
    return -(shares * weights * jax.nn.log_softmax(logits)).sum(axis=-1)


def _smoothed_shares(logits, targets, label_smoothing):
    """The shares of the classes [B,K] that targets come to, with a part spread over all classes."""
    classes = logits.shape[-1]
    shares = jax.nn.one_hot(targets, classes, dtype=logits.dtype) if targets.ndim == 1 else targets
    return (1 - label_smoothing) * shares + label_smoothing / classes


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    label_smoothing: float = 0.0,
    weights=None,
    threshold: float | None = None,
    sum_classes: bool = False,
) -> jax.Array:
    """Sigmoid cross-entropy of each example, as timm.loss.BinaryCrossEntropy computes it.

    Each class is a question of its own, of which its share is the probability of a yes.

    Args:
      logits, targets, label_smoothing, weights: as of `cross_entropy`; the mean is not to be
        divided by anything.
      threshold: shares above it, after smoothing, count as 1 and others as 0; None: as they are.
      sum_classes: add the losses of the classes up, instead of taking their mean.

    Returns:
      [B], in nats.
    """
    shares = _smoothed_shares(logits, targets, label_smoothing)
    if threshold is not None:
        shares = (shares > threshold).astype(logits.dtype)
    losses = optax.losses.sigmoid_binary_cross_entropy(logits, shares)
    if weights is not None:
        losses = losses * jnp.asarray(weights, logits.dtype)
    return losses.sum(axis=-1) if sum_classes else losses.mean(axis=-1)


def mean_weight(labels: jax.Array, weights) -> jax.Array:
    """Mean of the weights [K] of labels int [...]: PyTorch divides a weighted mean loss by it."""
    return jnp.asarray(weights, jnp.zeros(()).dtype)[labels].mean()


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether the true class is among the k largest logits: [B,K], [B] -> bool [B].

    Of equal logits the one of the lower class counts as larger, as in `jax.lax.top_k`, which is
    not used because XLA would gather the whole batch on every device for it.
    """
    true = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    lower = jnp.arange(logits.shape[-1]) < labels[:, None]
    ahead = (logits > true) | ((logits == true) & lower)
    return (ahead.sum(axis=-1) < k) & ~jnp.isnan(true[:, 0])


def train_sums(losses: jax.Array, logits: jax.Array, targets: jax.Array) -> TrainSums:
    """Sums of a training batch: losses [B], logits [B,K], targets as in `cross_entropy`.

    Of shared targets the class with the largest share counts as the true one.
    """
    labels = targets if targets.ndim == 1 else targets.argmax(axis=-1)
    return TrainSums(
        losses.sum(),
        (logits.argmax(axis=-1) == labels).sum(dtype=jnp.int32),
        in_top_k(logits, labels, 5).sum(dtype=jnp.int32),
        *map(jnp.int32, (labels.size, 0, 0)),
    )


def eval_sums(logits: jax.Array, labels: jax.Array, valid: jax.Array, length: int = 0) -> EvalSums:
    """Sums of an evaluation batch of which only the examples with `valid` [B] count.

    The losses are summed as those of at least `length` examples: in which order XLA adds, and so
    the last bit, follows from their number.
    """
    classes = logits.shape[-1]
    losses = jnp.where(valid, cross_entropy(logits, labels), 0)
    confusion = jnp.zeros((classes, classes), jnp.int32)
    return EvalSums(
        jnp.pad(losses, (0, max(0, length - len(losses)))).sum(),
        confusion.at[labels, logits.argmax(axis=-1)].add(valid.astype(jnp.int32)),
        (in_top_k(logits, labels, 5) & valid).sum(dtype=jnp.int32),
    )


def add_up(parts: list[TrainSums]) -> TrainSums:
    """Add host copies of sums; there may be none, where all steps were skipped."""
    nothing = TrainSums(*[0] * len(TrainSums._fields))
    return TrainSums(*(sum(column) for column in zip(nothing, *parts, strict=True)))


def train_figures(sums: TrainSums) -> dict[str, float]:
    """Mean loss and top-1 and top-5 accuracy, in [0, 1], of host copies of the sums.

    All are nan where nothing was counted.
    """
    count = int(sums.count) or math.nan
    return {name: float(getattr(sums, name)) / count for name in ("loss", "top1", "top5")}


def eval_figures(sums: EvalSums) -> dict[str, float]:
    """Figures of a whole evaluation, of host copies of the sums; all but the loss in [0, 1].

    Returns:
      loss (mean, nats), top1, top5, and precision, recall and F1: `macro` is the mean over the
      classes that have examples, `micro` counts all examples alike. With one label an example the
      three micro figures equal top1; they are given because recipes report them.
    """
    confusion = np.asarray(sums.confusion)
    count, right = confusion.sum(), np.trace(confusion)
    totals = {"loss": sums.loss, "top1": right, "top5": sums.top5}
    figures = {name: float(total) / int(count) for name, total in totals.items()}
    return figures | classification_figures(confusion)


def reported_figures(sums: EvalSums) -> dict[str, float]:
    """As `eval_figures`, but all nan where the loss is not finite.

    Predictions by logits that are no numbers mean nothing, however many happen to be right.
    """
    figures = eval_figures(sums)
    return figures if math.isfinite(figures["loss"]) else dict.fromkeys(figures, math.nan)


def class_figures(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 [K] of a confusion matrix [true, predicted].

    They are nan of a class without a true example, where nothing could be right; else the precision
    of a class that is never predicted counts as 0.
    """
    predicted, true = confusion.sum(axis=0), confusion.sum(axis=1)
    right = np.where(true > 0, np.diag(confusion), np.nan)
    return {
        "precision": right / np.maximum(predicted, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(predicted + true, 1),
    }


def classification_figures(confusion: np.ndarray) -> dict[str, float]:
    """Macro and micro precision, recall and F1 of a confusion matrix [true, predicted].

    Classes without a true example are left out of the means: nothing can be right there. So does
    `sklearn.metrics.precision_recall_fscore_support(labels=np.unique(true), zero_division=0)`.
    """
    by_class = class_figures(confusion)
    there = confusion.sum(axis=1) > 0
    figures = {f"{name}_macro": float(values[there].mean()) for name, values in by_class.items()}
    micro = float(np.trace(confusion) / confusion.sum())
    return figures | {f"{name}_micro": micro for name in by_class}
