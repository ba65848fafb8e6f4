"""Batches of an evaluation: no larger than the split, even, and counted to the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_train import train as loop
from jax_train.analysis.evaluation import evaluate
from jax_train.engine import feed, metrics, steps
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.runs import trained
from tests import tiny


@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("most", [1, 7, 500])
def test_batches_are_few_and_hardly_filled_up(most, unit):
    for count in (1, 2, 6, 7, 8, 18, 499, 500, 501, 750, 1009, 10_000):
        size = feed.even_batch(count, most, unit)
        batches = -(-count // size)
        largest = -(-most // unit) * unit
        assert size % unit == 0
        assert size <= largest
        assert batches == -(-count // largest)
        assert 0 <= batches * size - count < batches * unit


@pytest.fixture
def sizes(monkeypatch):
    """Sizes of the batches that logits are compiled for."""
    found, logits = [], steps.logits

    def watched(model, params, stats, images):
        found.append(len(images))
        return logits(model, params, stats, images)

    monkeypatch.setattr(steps, "logits", watched)
    return found


@pytest.mark.parametrize(
    ("streamed", "most", "expected"), [(False, 500, {50, 60}), (True, 40, {25, 30})]
)
def test_training_works_out_no_filler(sizes, streamed, most, expected):
    config = tiny.config(**{"eval.batch_size": most, "data.memory_limit": 0.0 if streamed else 8.0})
    splits = loop.load(config)
    program = Program(resolve(config, splits), splits.train)
    weights = program.start().state.reported
    sizes.clear()
    for split in (splits.val, splits.test):
        sums = program.evaluate(weights, feed.create(split, program.layout), 10)
        assert sums.confusion.sum() == len(split)
    assert set(sizes) == expected


def test_neither_do_evaluate_and_logits(sizes, tmp_path):
    loop.train(tiny.config(**{"train.epochs": 1, "eval.batch_size": 500}), tmp_path / "run")
    run = trained.open_run(tmp_path / "run")
    sizes.clear()
    found = evaluate(run, "test[:18]")
    assert run.logits(np.zeros((101, 8, 8, 1), np.uint8)).shape == (101, 10)
    assert found.images_per_sec == 18 / found.seconds
    assert set(sizes) == {18, 51}


def test_the_loss_is_the_same_bits_in_a_smaller_batch():
    random = np.random.default_rng(5)
    eval_sums = jax.jit(metrics.eval_sums, static_argnums=3)
    for count in (1, 18, 90, 360, 499):
        logits = jnp.asarray(random.normal(size=(500, 10)) * 3, jnp.float32)
        labels = jnp.asarray(random.integers(0, 10, 500))
        whole = eval_sums(logits, labels, jnp.arange(500) < count, 0)
        small = eval_sums(logits[:count], labels[:count], jnp.ones(count, bool), 500)
        assert whole.loss == small.loss


def test_a_stream_tells_which_example_an_image_is():
    """Alternating flips, and all else, are those of a split in memory."""
    found = []
    for limit in (0.0, 8.0):
        config = tiny.config(
            **{
                "data.memory_limit": limit,
                "augment.flip": True,
                "augment.flip_mode": "alternating",
                "augment.repeats": 2,
                "augment.mixup": 1.0,
                "optim.name": "sgd",  # Adam would make much of rounded zeros
            }
        )
        splits = loop.load(config)
        program = Program(resolve(config, splits), splits.train)
        training = feed.create_training(splits.train, program.layout, program.config)
        progress = program.start()
        for call in list(program.train_calls(training, 0, 0))[:2]:
            progress = program.train(training, call, progress, lambda line: None)
        found.append(jax.device_get(progress))
    for streamed, resident in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(streamed, resident, rtol=1e-5, atol=1e-6)
