"""Classifiers on the features of a frozen model: nearest neighbours, and a linear one.

Nothing is chosen on the test images. Letters in shapes: N training and M test images, F features,
K classes.
"""

import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.analysis.evaluation import Evaluation
from jax_train.analysis.features import Features
from jax_train.engine import metrics
from jax_train.errors import UserError
from jax_train.printing import counted, listing

VOTES = ("weighted", "equal")
# What the linear classifier's C is chosen from, of features with mean 0 and variance 1.
STRENGTHS = tuple(10.0**power for power in range(-6, 4))
_PARTS = 5  # of the training images one is held out to choose C on
_MOST_ITERATIONS = 1000
_BATCH = 256  # test images whose neighbours are looked for at once


@dataclass(frozen=True, eq=False)
class Probed(Evaluation):
    """What a classifier on features makes of test images.

    Attributes:
      method: what it is, for people.
      notes: what its figures have to be read with.
    """

    method: str
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, float]:
        """As of `Evaluation`; the loss alone is nan where a true class has no probability."""
        return metrics.eval_figures(self.sums)


def check(train: Features, test: Features, names: Sequence[str] = ("train", "test")) -> None:
    """Check that a classifier can be made of the first features and tried on the others.

    Raises:
      UserError: they are of different models, or not pooled; labels are missing, or a class of the
        test images is none of the training images'; or these have one class.
    """
    one, other = names
    for name, of in zip(names, (train, test), strict=True):
        if of.labels is None:
            raise UserError(
                f"{name} has no labels: its images were not in folders of classes. Sort them into "
                "one folder per class, or name a data set, and write the features again."
            )
        if of.features.ndim != 2:
            raise UserError(
                f"{name} holds tokens or maps {of.features.shape}; expected pooled features [N,F]. "
                "Write them again without --tokens."
            )
    if train.features.shape[1] != test.features.shape[1] or train.weights != test.weights:
        raise UserError(
            f"{one} and {other} are features of different models: {_described(train)} there, "
            f"{_described(test)} here. Write both with the same model."
        )
    if len(np.unique(train.labels)) < 2:
        raise UserError(
            f"The training images of {one} are all of one class, "
            f"{train.class_names[train.labels[0]]!r}: nothing can be told apart. Add images of "
            "another class."
        )
    shown = [test.class_names[k] for k in np.unique(test.labels)]
    if unknown := [name for name in shown if name not in train.class_names]:
        raise UserError(
            f"{other} has the {'class' if len(unknown) == 1 else 'classes'} "
            f"{listing(unknown, 60)}, and the training images of {one} have "
            f"{listing(train.class_names, 60)}. Take features of data with the same classes."
        )


def _described(of: Features) -> str:
    return f"{of.model} of {of.source} ({of.features.shape[1]} features, {of.weights[:8]})"


def nearest_neighbours(
    train: Features, test: Features, k: int = 20, temperature: float = 0.07, votes: str = "weighted"
) -> Probed:
    """Classify each test image by the votes of its k nearest training images.

    Nearest is what has the largest cosine similarity; of equals the first counts. A vote weighs
    exp(similarity / temperature), or each the same. Of classes with equal votes the first wins.
    Source: Caron et al. 2021, https://arxiv.org/abs/2104.14294, after Wu et al. 2018,
    https://arxiv.org/abs/1805.01978.

    Args:
      train, test: see `check`.
      k: how many vote, from 1 to N.
      temperature: above 0; for 'weighted' votes.
      votes: one of `VOTES`.

    Raises:
      UserError: k is more than there are training images.
    """
    count = len(train.features)
    if k > count:
        raise UserError(
            f"--k {k}: there are only {counted(count, 'training image')} to be neighbours. Give "
            f"--k {min(5, count)}, for example."
        )
    shares = []
    for near, who in neighbours(train.features, test.features, k):
        # The nearest one's weight is 1, so that no temperature is too low.
        weights = np.ones_like(near)
        if votes == "weighted":
            weights = np.exp((near - near[:, :1]) / temperature)
        of_classes = np.zeros((len(near), len(train.class_names)))
        np.add.at(of_classes, (np.arange(len(near))[:, None], train.labels[who]), weights)
        shares.append(of_classes / of_classes.sum(axis=1, keepdims=True))
    weighing = f"weighted with temperature {temperature:g}" if votes == "weighted" else "equal"
    method = f"{counted(k, 'nearest neighbour')} of {count:,} by cosine, votes {weighing}"
    return _probed(train, test, np.concatenate(shares), method)


def neighbours(
    known: np.ndarray, new: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, of some images after others, the cosines [n,k] and places [n,k] of the k nearest.

    Args:
      known: features [N,F] among which they are looked for, k or more.
      new: features [M,F].
      k: how many; of equals the first counts.
    """
    unit = jnp.asarray(_unit(known))
    for start in range(0, len(new), _BATCH):
        near, who = _nearest(unit, _unit(new[start:][:_BATCH]), k)
        yield np.asarray(near), np.asarray(who)


def _unit(features: np.ndarray) -> np.ndarray:
    """Features [n,F] with length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(known: jax.Array, new: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Cosines [B,k] of the k nearest of unit features [N,F] to others [B,F], and places [B,k]."""
    # No more in one program: XLA for CPUs would then sort all of them, many times slower.
    return jax.lax.top_k(jnp.matmul(new, known.T, precision="highest"), k)


def linear(train: Features, test: Features) -> Probed:
    """Classify test images by multinomial logistic regression (scikit-learn, L-BFGS).

    Each feature is scaled to mean 0 and variance 1 on the training images. The inverse strength C
    of the L2 penalty is the one of `STRENGTHS` with which the classifier is best on a fifth of the
    training images, of each class alike, held out for that (of equally many right ones, that of the
    lower loss); it is then fitted to all of them.

    Args:
      train, test: see `check`.
    """
    mean, std = train.features.mean(axis=0, dtype=np.float64), train.features.std(axis=0)
    std = np.where(std > 0, std, 1)
    known, new = ((of.features - mean) / std for of in (train, test))
    fit, held = _held_out(train.labels)
    notes = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        strength = 1.0
        if len(held):
            strength = _best_strength(known, train.labels, fit, held)
        model = _regression(strength).fit(known, train.labels)
    if any("converge" in str(warning.message) for warning in caught):
        notes.append(f"a fit did not converge in {_MOST_ITERATIONS:,} iterations")
    if not len(held):
        notes.append("no class has two training images to choose C with: it is 1")
    elif strength in (STRENGTHS[0], STRENGTHS[-1]):
        notes.append(f"C={strength:g} is at the end of what was tried")
    shares = np.zeros((len(new), len(train.class_names)))
    shares[:, model.classes_] = model.predict_proba(new)
    chosen = f", chosen on {len(held):,} of {len(train.labels):,} training images"
    method = f"logistic regression with C={strength:g}{chosen if len(held) else ''}"
    return _probed(train, test, shares, method, notes)


def _held_out(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the images to fit to and of those held out: a fifth of each class of two or more.

    At least one of a class; which ones follows from nothing but the number of images.
    """
    random, held = np.random.default_rng(0), []
    for label in np.unique(labels):
        of_class = random.permutation(np.flatnonzero(labels == label))
        some = max(1, len(of_class) // _PARTS) if len(of_class) > 1 else 0
        held += of_class[:some].tolist()
    held = np.array(sorted(held), int)
    return np.setdiff1d(np.arange(len(labels)), held), held


def _best_strength(features, labels, fit: np.ndarray, held: np.ndarray) -> float:
    def badness(strength: float, model) -> tuple[int, float]:
        shares = model.predict_log_proba(features[held])
        true = np.searchsorted(model.classes_, labels[held])
        wrong = (shares.argmax(axis=1) != true).sum()
        return wrong, -shares[np.arange(len(held)), true].mean()

    models = _path(features[fit], labels[fit])
    found = {strength: badness(strength, model) for strength, model in models}
    return min(found, key=found.get)


def _path(features, labels) -> Iterator:
    """Yield each strength and the model that it gives; each fit goes on from the one before."""
    model = _regression(STRENGTHS[0], warm_start=True)
    for strength in STRENGTHS:
        yield strength, model.set_params(C=strength).fit(features, labels)


def _regression(strength: float, **how):
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS, **how)


def _probed(train: Features, test: Features, shares, method: str, notes=()) -> Probed:
    """The result of a classifier that gives test images shares [M,K] of the training's classes."""
    # Classes that no test image is of may be missing in training.
    known = {name: k for k, name in enumerate(train.class_names)}
    to_train = np.array([known.get(name, 0) for name in test.class_names], np.int32)
    labels, classes = to_train[test.labels], len(train.class_names)
    predictions = shares.argmax(axis=1).astype(np.int32)
    confusion = np.zeros((classes, classes), np.int32)
    np.add.at(confusion, (labels, predictions), 1)
    true = shares[np.arange(len(labels)), labels]
    loss = 0.0 - np.log(true).sum() if true.all() else np.nan
    top5 = np.asarray(metrics.in_top_k(jnp.asarray(shares), jnp.asarray(labels), 5)).sum()
    return Probed(
        data=test.data,
        split="",
        class_names=train.class_names,
        tta=(),
        labels=labels,
        predictions=predictions,
        confidences=shares.max(axis=1).astype(np.float32),
        true_probabilities=true.astype(np.float32),
        sums=metrics.EvalSums(loss, confusion, top5),
        seconds=None,
        method=method,
        notes=(*notes, *_shared(train, test)),
    )


def _shared(train: Features, test: Features) -> list[str]:
    """A note where test images have to the bit the features of training images."""
    known = {row.tobytes() for row in train.features}
    shared = sum(row.tobytes() in known for row in test.features)
    of_these = counted(shared, "test image is", "test images are")
    return [f"{of_these} among the training images, by their features"] if shared else []
