"""Trained models read back from run folders give what training reported."""

import dataclasses

import jax
import numpy as np
import pytest

from jax_train import data
from jax_train.engine import augment
from jax_train.engine.state import TrainState
from jax_train.errors import UserError
from jax_train.runs import trained
from jax_train.train import train
from tests import tiny


@pytest.fixture(scope="module", params=["vit", "simple_cnn", "bfloat16"])
def finished(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = tiny.config(
        "vit" if request.param == "bfloat16" else request.param, **{"data.test_split": "test[:61]"}
    )
    if request.param == "bfloat16":
        config.dtype = "bfloat16"
    return folder, train(config, folder)


def test_logits_give_the_reported_accuracy(finished):
    folder, results = finished
    run = trained.open_run(folder)
    test = data.load_split(run.config, run.config.data.test_split)
    right = run.logits(test.images, batch_size=25).argmax(axis=1) == test.labels
    assert right.mean() == pytest.approx(results["test"]["top1"])
    assert run.class_names == tuple("0123456789")
    assert run.step == results["reported_epoch"] * 4


def test_the_model_can_be_called_by_itself(finished):
    folder, _ = finished
    run = trained.open_run(folder)
    images = data.load_split(run.config, "test[:7]").images
    logits = run.model(run.recipe.augmentation.evaluate(images))
    atol = 0.1 if run.config.dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(logits, run.logits(images), atol=atol)


@pytest.mark.parametrize(
    ("fields", "size", "atol"),
    [
        ({}, 23, 1e-6),
        ({"augment.crop_size": 17}, 17, 1e-6),
        ({"data.image_size": 23, "augment.crop_size": 17}, 17, 1e-6),
        ({"augment.resize": 19}, 19, 0.02),  # Pillow rounds to levels
        ({"data.image_size": 23, "augment.resize": 19, "augment.crop_size": 13}, 13, 0.02),
    ],
)
def test_the_description_prepares_images_as_evaluation_does(finished, fields, size, atol):
    run = trained.open_run(finished[0])
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict(fields | {"augment.interpolation": "bilinear"})
    steps = augment.build(config.augment, config.data.mean, config.data.std)
    record = run.record._replace(image_shape=(23, 23, 1))
    images = np.random.default_rng(3).integers(0, 256, (5, *record.image_shape), np.uint8)
    made = dataclasses.replace(run, config=config, record=record).description.preprocessing
    assert made.size == size
    scale = max(1 / std for std in config.data.std)
    np.testing.assert_allclose(made(images), steps.evaluate(images), atol=atol * scale)


def test_the_average_of_the_weights_is_what_is_reported(tmp_path):
    folder, seen = tmp_path / "run", []
    config = tiny.config("simple_cnn", **{"train.ema_decay": 0.9, "train.epochs": 1})
    config.checkpoint.report = "last"
    reported = TrainState.reported.fget
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "reported", property(lambda s: seen.append(s) or reported(s)))
        results = train(config, folder)
    run, last = trained.open_run(folder), jax.device_get(seen[-1])
    for ours, theirs in zip(
        *map(jax.tree.leaves, ((run.params, run.stats), last.averaged)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    kernel = run.params["head"]["layers"][0]["kernel"]
    assert not np.array_equal(kernel, last.params["head"]["layers"][0]["kernel"])
    test = data.load_split(run.config, run.config.data.test_split)
    right = run.logits(test.images).argmax(axis=1) == test.labels
    assert right.mean() == pytest.approx(results["test"]["top1"])


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no run folder"):
        trained.open_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        trained.open_run(tmp_path)
