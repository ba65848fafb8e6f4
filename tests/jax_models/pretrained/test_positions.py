"""Resized positions, held against the functions of the libraries whose rules they are."""

import jax
import numpy as np
import pytest

from jax_models.pretrained import positions
from tests.with_torch import torch

PAIRS = [(14, 24), (24, 14), (7, 12), (12, 7), (37, 16), (5, 5), (3, 1), (1, 4)]
TORCH = {
    "timm": {"mode": "bicubic", "antialias": True},
    "Hugging Face": {"mode": "bicubic"},
    "torchvision": {"mode": "bicubic", "align_corners": True},
    "Google": {"mode": "bilinear", "align_corners": True},
    "timm's for .npz": {"mode": "bilinear"},
}


def _positions(n, prefix=0, width=3):
    return np.random.default_rng(n).normal(size=(1, prefix + n * n, width))


def _grid(table, n):
    return table.reshape(n, n, -1)


@pytest.mark.parametrize("rule", TORCH)
@pytest.mark.parametrize(("n", "m"), PAIRS)
def test_a_rule_is_torchs_interpolation(rule, n, m):
    table = _positions(n)
    images = torch.from_numpy(_grid(table, n)).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(images, size=(m, m), **TORCH[rule])
    theirs = theirs[0].permute(1, 2, 0).reshape(1, m * m, -1).numpy()
    found = positions.resize(table, m, positions.RULES[rule])
    np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n", "m"), [(14, 24), (24, 14)])
def test_timms_rule_is_jaxs_own_bicubic(n, m):
    table = _positions(n).astype(np.float32)
    theirs = jax.image.resize(_grid(table, n), (m, m, 3), "bicubic", antialias=True)
    found = positions.resize(table, m, positions.timm)
    assert found.dtype == np.float32
    np.testing.assert_allclose(_grid(found, m), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(14, 24), (7, 12), (12, 7)])
def test_googles_rule_is_scipys_zoom(n, m):
    from scipy.ndimage import zoom

    table = _positions(n)
    theirs = zoom(_grid(table, n), (m / n, m / n, 1), order=1)
    found = positions.resize(table, m, positions.google)
    np.testing.assert_allclose(_grid(found, m), theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", positions.RULES)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_prefix_tokens_pass_unchanged(rule, prefix):
    table = _positions(6, prefix)
    found = positions.resize(table, 4, positions.RULES[rule])
    assert found.shape == (1, prefix + 16, 3)
    assert found[:, :prefix].tobytes() == table[:, :prefix].tobytes()
    alone = positions.resize(table[:, prefix:], 4, positions.RULES[rule])
    assert found[:, prefix:].tobytes() == alone.tobytes()


def test_more_tokens_than_patches_are_told_apart_by_the_old_grid():
    table = _positions(2, 5)  # in all as many as 3x3 patches
    found = positions.resize(table, 4, positions.timm, old=2)
    assert found.shape == (1, 5 + 16, 3)
    assert found[:, :5].tobytes() == table[:, :5].tobytes()
    alone = positions.resize(table[:, 5:], 4, positions.timm)
    assert found[:, 5:].tobytes() == alone.tobytes()


@pytest.mark.parametrize("rule", positions.RULES)
def test_the_same_size_changes_nothing(rule):
    table = _positions(7, 1)
    found = positions.resize(table, 7, positions.RULES[rule])
    np.testing.assert_allclose(found, table, rtol=0, atol=1e-14)


def test_the_rules_differ():
    table = _positions(14)
    found = [positions.resize(table, 24, rule) for rule in positions.RULES.values()]
    for i, one in enumerate(found):
        assert all(np.abs(one - other).max() > 0.1 for other in found[:i])
