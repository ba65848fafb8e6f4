"""airbench: what it starts from, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_models
from jax_models import airbench, conv_layers, image_start, ops
from jax_models.pretrained.adapt import adapt
from jax_models.pretrained.description import Description
from tests.jax_models import small
from tests.with_torch import torch

# Parameters; PFLOP of the recipe by the rule below and as the source prints it; steps of 1024.
PUBLISHED = {
    "airbench94": (1_972_792, 0.360, 0.36, 476),  # 9.9 epochs
    "airbench95": (4_606_520, 1.370, 1.39, 15 * 48),
    "airbench96": (9_918_776, 4.986, 4.91, 37 * 48),
}


@pytest.fixture(scope="module")
def images():
    """Neighbouring pixels and channels that go together, float32 [B,H,W,C]."""
    noise = np.random.default_rng(0).normal(size=(7, 13, 11, 3))
    return (noise.cumsum(1).cumsum(2) @ [[1, 0.3, 0], [0, 1, 0], [0.2, 0, 0.5]]).astype(np.float32)


def test_there_are_no_others():
    assert jax_models.list_families()["airbench"] == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_parameters_number_as_in_the_source(name):
    assert small.count(small.abstract(name)) == PUBLISHED[name][0]


def multiplications(model) -> int:
    """Of an image of 32 pixels, those by padding too."""
    pixels, total = 32, 0
    for part in (model.stem, *model.stages):
        convs = iter([part.conv] if part is model.stem else part.convs)
        for window in part.windows:
            pixels = window.places(pixels)
            if window.size == window.stride:  # a pool
                continue
            total += pixels**2 * next(convs).kernel.size
    return total + model.head.kernel.size


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_operations_are_the_published_ones_but_for_a_fortieth(name):
    """Two a multiplication; the backward pass is twice the forward one; six views of the test."""
    _, expected, printed, steps = PUBLISHED[name]
    forward = 2 * multiplications(small.abstract(name))
    counted = (3 * steps * 1024 + 6 * 10_000) * forward / 1e15
    assert counted == pytest.approx(expected, abs=5e-4)
    assert counted == pytest.approx(printed, rel=1 / 40)


def whitened_by_the_source(images):
    """`get_patches` and `get_whitening_parameters` as the source has them, in float64."""
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double()
    patches = x.unfold(2, 2, 1).unfold(3, 2, 1).transpose(1, 3).reshape(-1, x.shape[1] * 4)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches), UPLO="U")
    filters = (vectors.T / torch.sqrt(values + 5e-4)[:, None]).flip(0)
    return torch.cat([filters, -filters]).reshape(-1, x.shape[1], 2, 2).numpy()


def test_the_whitening_is_the_sources_but_for_the_sign(images):
    ours = airbench.whitening_kernel([images[:3], images[3:]]).transpose(3, 2, 0, 1)
    theirs = whitened_by_the_source(images)
    first, second = np.split(ours, 2)
    np.testing.assert_array_equal(first, -second)
    signs = np.sign((first * theirs[:12]).sum((1, 2, 3), keepdims=True))
    np.testing.assert_allclose(first * signs, theirs[:12], rtol=1e-9, atol=1e-9)


def test_whitened_patches_are_uncorrelated(images):
    model = small.abstract("airbench94")
    (kernel,) = image_start.of_model("airbench94")([images]).values()
    assert kernel.shape == model.stem.conv.kernel.shape
    y = np.asarray(ops.convolution(images, jnp.asarray(kernel, jnp.float32), None, 0))
    y = y[..., :12].reshape(-1, 12)
    moments = y.T @ y / len(y)
    np.testing.assert_allclose(moments - np.diag(np.diag(moments)), 0, atol=1e-3)
    assert (np.diag(moments) > 0.5).all()
    assert (np.diag(moments) < 1.001).all()


def test_models_without_such_parts_start_from_random_numbers():
    assert image_start.of_model("vit") is None


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 5), (5, 3)])
def test_a_convolution_starts_by_handing_its_inputs_on(inputs, outputs):
    how = {"padding": 1, "bias": False, "kernel": conv_layers.identity_start}
    conv = conv_layers.Conv(inputs, outputs, 3, **how, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 7, 6, inputs)).astype(np.float32)
    y, first = conv(x), min(inputs, outputs)
    np.testing.assert_allclose(y[..., :first], x[..., :first], atol=1e-6)
    if outputs > inputs:  # the others are no such thing
        assert (np.abs(y[..., first:] - x[..., :1]) > 1e-3).mean() > 0.9


def test_the_last_map_is_pooled_as_a_whole():
    x = np.random.default_rng(0).normal(size=(5, 3, 3, 7)).astype(np.float32)
    x[0, 1:, :, 0] = x[0, 0, 1, 0] = 9  # ties
    weights = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    ours = jax.value_and_grad(lambda x: (ops.global_max_pool(x) * weights).sum())(jnp.asarray(x))
    given = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    theirs = (torch.nn.functional.max_pool2d(given, 3).flatten(1) * torch.from_numpy(weights)).sum()
    theirs.backward()
    np.testing.assert_allclose(ours[0], theirs.item(), rtol=1e-5)
    np.testing.assert_array_equal(ours[1], given.grad.numpy().transpose(0, 2, 3, 1))


def test_the_head_is_scaled_and_may_start_from_a_deviation_of_one():
    model = jax_models.create_model(
        "airbench94", rngs=nnx.Rngs(0), unit_head=True, head_scale=1 / 256
    )
    assert model.head.kernel[...].std(ddof=1) == pytest.approx(1, rel=1e-5)
    x = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    expected = x @ np.asarray(model.head.kernel[...]) / 256
    np.testing.assert_allclose(model.head(x, train=False, rngs=None), expected, atol=1e-5)


def test_only_the_third_convolution_is_added_to_the_first():
    """Asked of the layers: with both norms shut, what is left is the sum, or nothing."""
    x = np.random.default_rng(0).normal(size=(3, 6, 8, 5)).astype(np.float32)
    for depth in (2, 3):
        stage = airbench.Stage(5, 7, depth, norm_momentum=0.4, norm_eps=1e-12, rngs=nnx.Rngs(0))
        first = ops.gelu(stage.norms[0](ops.max_pool2x2(stage.convs[0](x)), train=False))
        for norm in list(stage.norms)[1:]:
            norm.scale[...] = jnp.zeros(7)
        y, _ = stage(jnp.asarray(x), train=False, rngs=None)
        expected = ops.gelu(first) if depth == 3 else jnp.zeros_like(first)
        np.testing.assert_allclose(y, expected, atol=1e-6)


def test_weights_take_other_classes_and_refuse_other_channels():
    def changed(**changes):
        found = Description("airbench94", small.SMALL["airbench94"].settings, None)
        return adapt(small.build("airbench94"), found, changes, nnx.Rngs(0))

    assert changed(num_classes=7).head.kernel.shape == (11, 7)
    with pytest.raises(ValueError, match=r"airbench94 cannot go to in_channels=1 with its weights"):
        changed(in_channels=1)
