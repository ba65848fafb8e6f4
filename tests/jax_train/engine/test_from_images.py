"""Runs whose model starts from training images."""

import jax
import numpy as np
import pytest

from jax_models.airbench import whitening_kernel
from jax_train.engine import from_images
from jax_train.engine.program import Program
from jax_train.engine.recipe import initial_state, resolve
from jax_train.engine.state import leaf_paths
from jax_train.runs import trained
from jax_train.train import load, train
from tests import tiny

KERNEL = "stem.conv.kernel"


def config_of(**changes):
    """airbench on digits: stages of 5 and 7 channels."""
    freeze = (r"^stem\.conv\.kernel$", r"\.norms\.\d+\.scale$")
    how = {"model.init_images": 70, "train.freeze": freeze, "train.epochs": 1}
    return tiny.config("airbench94", **{"model.depths": (2, 3), **how, **changes})


def program_of(config):
    splits = load(config)
    return Program(resolve(config, splits), splits.train), splits


def params_by_path(state):
    return dict(zip(leaf_paths(state.params), jax.tree.leaves(state.params), strict=True))


@pytest.mark.parametrize("at_once", [23, 500])
def test_the_first_images_as_evaluation_sees_them_are_whitened(at_once, monkeypatch):
    monkeypatch.setattr(from_images, "_AT_ONCE", at_once)
    program, splits = program_of(config_of())
    found = params_by_path(program.start().state)
    plain = params_by_path(initial_state(program.config, program.recipe.optimizer))
    first = splits.train.take(np.arange(70))[0]
    mean, std = (np.float32(program.config.data[key]) for key in ("mean", "std"))
    expected = whitening_kernel([(np.float32(first) / 255 - mean) / std])
    np.testing.assert_allclose(found.pop(KERNEL), expected, rtol=1e-4, atol=1e-4)
    plain.pop(KERNEL)
    jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_without_images_all_is_drawn_from_the_seed():
    program, _ = program_of(config_of(**{"model.init_images": 0}))
    assert not program.keeps_start
    plain = params_by_path(initial_state(program.config, program.recipe.optimizer))
    np.testing.assert_array_equal(params_by_path(program.start().state)[KERNEL], plain[KERNEL])


def test_more_images_than_there_are_will_do():
    program, splits = program_of(config_of(**{"model.init_images": 10**6}))
    whole, _ = program_of(config_of(**{"model.init_images": len(splits.train)}))
    kernels = (params_by_path(p.start().state)[KERNEL] for p in (program, whole))
    np.testing.assert_array_equal(*kernels)


def test_other_models_start_as_ever():
    program, _ = program_of(tiny.config("simple_cnn"))
    assert not program.keeps_start


def test_a_run_keeps_what_it_began_with_and_goes_on_without_the_images(tmp_path, monkeypatch):
    config, folder = config_of(), tmp_path / "run"
    program, _ = program_of(config)
    expected = params_by_path(program.start().state)
    train(config, folder)
    assert (folder / "checkpoints" / "0").is_dir()

    def refuse(*_):
        raise AssertionError("the images were asked for again")

    monkeypatch.setattr(from_images, "weights", refuse)
    train(config_of(**{"train.epochs": 2}), folder, extend=True)
    found = params_by_path(trained.open_run(folder))
    np.testing.assert_array_equal(found[KERNEL], expected[KERNEL])
    for path, values in found.items():
        frozen = path == KERNEL or path.endswith("scale")
        assert frozen == np.array_equal(values, expected[path]), path
