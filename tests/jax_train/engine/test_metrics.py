"""Losses and accuracies against PyTorch and numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from jax_train.engine import metrics
from tests.with_torch import torch


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return random.normal(size=(23, 7)).astype(np.float32) * 3, random.integers(0, 7, 23)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.37])
def test_cross_entropy_equals_torch(batch, smoothing):
    logits, labels = batch
    ours = metrics.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(labels),
        label_smoothing=smoothing,
        reduction="none",
    )
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


def timms(logits, targets, smoothing, threshold, weights, sum_classes):
    """`timm.loss.BinaryCrossEntropy`, in PyTorch."""
    if targets.ndim == 1:
        spread = smoothing / logits.shape[-1]
        smooth = torch.full(logits.shape, spread, dtype=logits.dtype)
        targets = smooth.scatter_(1, targets[:, None], 1 - smoothing + spread)
    if threshold is not None:
        targets = targets.gt(threshold).to(dtype=targets.dtype)
    how = {"weight": weights, "reduction": "none" if sum_classes else "mean"}
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, **how)
    return loss.sum(-1).mean() if sum_classes else loss


@pytest.mark.parametrize("sum_classes", [False, True])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize(("kind", "smoothing"), [("labels", 0.1), ("mixed", 0.0), ("mixed", 0.1)])
def test_binary_cross_entropy_and_its_gradient_equal_timms(kind, smoothing, threshold, sum_classes):
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(24, 7)) * 5, random.integers(0, 7, 24)
    weights = random.random(7) + 0.5
    share = random.random((24, 1))
    targets, theirs = labels, torch.from_numpy(labels)
    if kind == "mixed":  # timm smooths both labels of a pair, and then mixes them
        hot = np.eye(7)[labels]
        targets = share * hot + (1 - share) * hot[::-1]
        smooth = (1 - smoothing) * hot + smoothing / 7
        theirs = torch.from_numpy(share * smooth + (1 - share) * smooth[::-1])
    scores = torch.tensor(logits, requires_grad=True)
    expected = timms(scores, theirs, smoothing, threshold, torch.from_numpy(weights), sum_classes)
    expected.backward()
    how = smoothing, weights, threshold, sum_classes
    with jax.enable_x64(True):
        loss, gradient = jax.value_and_grad(
            lambda x: metrics.binary_cross_entropy(x, jnp.asarray(targets), *how).mean()
        )(jnp.asarray(logits))
        assert float(loss) == pytest.approx(expected.item(), rel=1e-10)
        np.testing.assert_allclose(gradient, scores.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_top_k_counts_labels_among_the_k_largest(batch, k):
    logits, labels = batch
    largest = np.argsort(-logits, axis=1)[:, :k]
    expected = (largest == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(metrics.in_top_k(jnp.asarray(logits), labels, k), expected)


def test_of_equal_logits_the_lower_class_is_the_larger():
    logits = jnp.asarray(np.random.default_rng(4).integers(0, 3, (31, 7)), jnp.float32)
    labels = jnp.arange(31) % 7
    for k in (1, 3, 5):
        _, classes = jax.lax.top_k(logits, k)
        expected = (classes == labels[:, None]).any(axis=-1)
        np.testing.assert_array_equal(metrics.in_top_k(logits, labels, k), expected)


def test_logits_that_are_not_numbers_are_not_counted_as_right():
    logits = jnp.full((3, 7), jnp.nan)
    sums = metrics.eval_sums(logits, jnp.asarray([6, 6, 6]), jnp.asarray([True] * 3))
    figures = metrics.eval_figures(sums)
    assert figures["top1"] == figures["top5"] == 0


def test_examples_that_are_not_valid_do_not_count(batch):
    logits, labels = map(jnp.asarray, batch)
    valid = jnp.arange(23) < 19
    masked = metrics.eval_sums(logits, labels, valid)
    short = metrics.eval_sums(logits[:19], labels[:19], jnp.ones(19, bool))
    assert metrics.eval_figures(masked) == pytest.approx(metrics.eval_figures(short))
    assert int(masked.confusion.sum()) == 19


def test_confusion_rows_are_true_classes(batch):
    logits, labels = batch
    sums = metrics.eval_sums(jnp.asarray(logits), jnp.asarray(labels), jnp.ones(23, bool))
    expected = np.zeros((7, 7), int)
    np.add.at(expected, (labels, logits.argmax(axis=1)), 1)
    np.testing.assert_array_equal(sums.confusion, expected)


@pytest.mark.parametrize("classes", [2, 7, 23])
def test_precision_recall_and_f1_equal_scikit_learns(classes):
    random = np.random.default_rng(classes)
    # Of 23 classes some are never true and some never predicted among 29 examples.
    labels, predicted = random.integers(0, classes, (2, 29))
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    figures = metrics.classification_figures(confusion)
    held = {"macro": np.unique(labels), "micro": None}  # the mean is over classes with examples
    for average in held:
        expected = precision_recall_fscore_support(
            labels, predicted, labels=held[average], average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            assert figures[f"{name}_{average}"] == pytest.approx(value, abs=1e-12)


def test_training_sums_add_up_over_batches(batch):
    logits, labels = map(jnp.asarray, batch)
    losses = metrics.cross_entropy(logits, labels)
    whole = metrics.train_sums(losses, logits, labels)
    parts = [
        metrics.train_sums(losses[i], logits[i], labels[i]) for i in (slice(0, 11), slice(11, 23))
    ]
    assert metrics.train_figures(metrics.add_up(parts)) == pytest.approx(
        metrics.train_figures(whole)
    )
