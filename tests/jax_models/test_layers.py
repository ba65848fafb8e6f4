"""The parts of CNNs one by one; their equality with PyTorch inside models is shown in parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_models import conv_layers, cpu, layers, ops
from tests.with_torch import torch


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(1.3, 2.1, shape).astype(np.float32)


# Batch norm


@pytest.mark.parametrize("shape", [(1, 5), (1, 1, 1, 7)])
def test_one_value_per_channel_has_no_variance(shape):
    norm = conv_layers.BatchNorm(shape[-1])
    with pytest.raises(ValueError, match="more than one value per channel") as error:
        norm(jnp.asarray(draw(*shape)), train=True)
    assert str(shape) in str(error.value)
    assert norm(jnp.asarray(draw(*shape)), train=False).shape == shape
    assert norm.num_batches_tracked[...] == 0


@pytest.mark.parametrize("shape", [(2, 5), (1, 2, 1, 5)])
def test_two_values_per_channel_will_do(shape):
    y = conv_layers.BatchNorm(5)(jnp.asarray(draw(*shape)), train=True)
    np.testing.assert_allclose(np.sort(y.reshape(2, 5), 0), [[-1] * 5, [1] * 5], rtol=0.01)


def test_running_statistics_move_by_the_momentum_towards_the_unbiased_ones():
    x = draw(3, 5, 7, 11)
    norm = conv_layers.BatchNorm(11, momentum=0.3)
    norm(jnp.asarray(x), train=True)
    values = x.reshape(-1, 11).astype(np.float64)
    np.testing.assert_allclose(norm.mean[...], 0.3 * values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.7 + 0.3 * values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("in_cpu_ways", [True, False])
def test_a_batch_that_is_spread_over_a_mapped_axis_is_normalised_as_one(in_cpu_ways):
    x = np.random.default_rng(0).normal(size=(3, 5, 2, 2, 7)).astype(np.float32)
    whole = conv_layers.BatchNorm(7)
    graph, state = nnx.split(conv_layers.BatchNorm(7, axis_name="parts"))

    def of_part(state, x):
        norm = nnx.merge(graph, state)
        return norm(x, train=True), norm.mean[...], norm.var[...]

    with cpu.using(in_cpu_ways):
        mapped = jax.vmap(of_part, in_axes=(None, 0), axis_name="parts")
        y, mean, var = mapped(state, x)
        expected = whole(x.reshape(15, 2, 2, 7), train=True).reshape(x.shape)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for found, one in ((mean, whole.mean), (var, whole.var)):
        np.testing.assert_allclose(found, np.broadcast_to(one[...], (3, 7)), atol=1e-6)


def test_batches_are_counted_in_training_only():
    norm, x = conv_layers.BatchNorm(5), jnp.asarray(draw(3, 5))
    for train in (True, False, True, True):
        norm(x, train=train)
    assert norm.num_batches_tracked[...] == 3
    assert norm.num_batches_tracked.dtype == jnp.int32


def test_no_gradient_flows_through_the_running_statistics():
    def after(x):
        norm = conv_layers.BatchNorm(5)
        norm(x, train=True)
        return (norm.mean[...] * norm.var[...]).sum()

    assert not np.asarray(jax.grad(after)(jnp.asarray(draw(7, 5)))).any()


def test_running_statistics_are_no_parameters():
    state = nnx.state(conv_layers.BatchNorm(5), nnx.Param)
    assert set(nnx.to_pure_dict(state)) == {"scale", "bias"}


# Max-pooling

POOLED = [(2, 7, 11, 3), (3, 6, 5, 2), (1, 13, 2, 5), (2, 8, 10, 3)]


@pytest.mark.parametrize("shape", POOLED)
def test_max_pooling_is_torchs(shape):
    x = draw(*shape)
    theirs = torch.nn.functional.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), 2)
    np.testing.assert_array_equal(ops.max_pool2x2(jnp.asarray(x)), theirs.permute(0, 2, 3, 1))


@pytest.mark.parametrize("shape", POOLED)
def test_gradient_of_pooling_after_relu_is_torchs_though_zeros_tie(shape):
    x = draw(*shape) - 3.4  # five of six values are negative
    weights = draw(shape[0], shape[1] // 2, shape[2] // 2, shape[3], seed=1)
    ours = jax.grad(lambda x: (weights * ops.max_pool2x2(jax.nn.relu(x))).sum())(x)
    theirs = torch.from_numpy(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs.relu().permute(0, 3, 1, 2), 2)
    assert (pooled == 0).float().mean() > 0.3  # windows in which all four tie
    (torch.from_numpy(weights) * pooled.permute(0, 2, 3, 1)).sum().backward()
    np.testing.assert_array_equal(ours, theirs.grad)
    assert np.asarray(ours).any()


def pooling_gradients(x, weights):
    """Gradients of the weighted sum of the pooled maps, ours and PyTorch's."""
    ours = jax.grad(lambda x: (weights * ops.max_pool2x2(x)).sum())(jnp.asarray(x))
    theirs = torch.from_numpy(x.copy()).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs.permute(0, 3, 1, 2), 2)
    (torch.from_numpy(weights) * pooled.permute(0, 2, 3, 1)).sum().backward()
    return np.asarray(ours), theirs.grad.numpy()


@pytest.mark.parametrize("value", [1.7, -2.3])
@pytest.mark.parametrize("shape", POOLED)
def test_the_first_of_a_constant_window_gets_all_of_its_gradient(shape, value):
    weights = draw(shape[0], shape[1] // 2, shape[2] // 2, shape[3], seed=1)
    ours, theirs = pooling_gradients(np.full(shape, value, np.float32), weights)
    np.testing.assert_array_equal(ours, theirs)
    h, w = shape[1] // 2 * 2, shape[2] // 2 * 2
    np.testing.assert_array_equal(ours[:, 0:h:2, 0:w:2], weights)
    assert np.count_nonzero(ours) == weights.size


@pytest.mark.parametrize("shape", POOLED)
def test_gradient_of_pooling_is_torchs_when_any_values_tie(shape):
    x = np.random.default_rng(2).integers(-1, 2, shape).astype(np.float32)
    weights = draw(shape[0], shape[1] // 2, shape[2] // 2, shape[3], seed=1)
    ours, theirs = pooling_gradients(x, weights)
    np.testing.assert_array_equal(ours, theirs)
    assert np.count_nonzero(ours) == weights.size


POOLED_BY_THREE = [(2, 7, 11, 3), (3, 6, 5, 2), (1, 1, 2, 5), (2, 8, 10, 3)]


@pytest.mark.parametrize("of", [lambda x: x, np.round, np.abs])
@pytest.mark.parametrize("shape", POOLED_BY_THREE)
def test_pooling_of_three_is_torchs_with_its_gradient(shape, of):
    x = of(draw(*shape) - 1.3)  # rounded, windows have ties
    theirs = torch.from_numpy(x).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs.permute(0, 3, 1, 2), 3, 2, 1)
    weights = draw(*pooled.permute(0, 2, 3, 1).shape, seed=1)
    (torch.from_numpy(weights) * pooled.permute(0, 2, 3, 1)).sum().backward()
    ours, pull = jax.vjp(ops.max_pool3x3, jnp.asarray(x))
    np.testing.assert_array_equal(ours, pooled.detach().permute(0, 2, 3, 1))
    np.testing.assert_allclose(pull(jnp.asarray(weights))[0], theirs.grad, rtol=1e-6, atol=1e-6)


# Strides, padding and groups

CONVOLUTIONS = [(3, 2, 1, 1), (7, 2, 3, 1), (1, 2, 0, 1), (4, 4, 0, 1), (7, 1, 3, 6), (3, 2, 1, 2)]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("side", [12, 13])
@pytest.mark.parametrize(("size", "stride", "padding", "groups"), CONVOLUTIONS)
def test_convolutions_are_torchs(size, stride, padding, groups, side, plain):
    x, kernel, bias = draw(2, side, 11, 6), draw(size, size, 6 // groups, 12, seed=1), draw(12)
    how = {"stride": stride, "groups": groups}
    with cpu.using(not plain):
        ours = ops.convolution(*map(jnp.asarray, (x, kernel, bias)), padding, **how)
    arrays = x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), bias
    arrays = (torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    theirs = torch.nn.functional.conv2d(*arrays, padding=padding, **how).permute(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


# Attention between convolutions


@pytest.mark.parametrize("channels", [7, 12, 31])
def test_channels_the_reduction_does_not_divide_are_explained(channels):
    message = rf"widths: {channels} channels are not a multiple of 8"
    with pytest.raises(ValueError, match=message):
        conv_layers.SpatialAttention(channels, rngs=nnx.Rngs(0))
    conv_layers.SpatialAttention(channels, reduction=channels, rngs=nnx.Rngs(0))


def test_attention_adds_a_mean_of_pooled_values_by_unscaled_scores():
    """The definition, written out in double precision."""
    layer, x = conv_layers.SpatialAttention(24, rngs=nnx.Rngs(0)), draw(2, 5, 7, 24)
    y, weights = layer(jnp.asarray(x))

    def project(part, x):
        kernel, bias = (np.float64(v[...]) for v in (part.kernel, part.bias))
        return x.astype(np.float64) @ kernel + bias

    def pooled(maps):
        cut = maps[:, :4, :6].reshape(2, 2, 2, 3, 2, 3)
        return cut.max(axis=(2, 4)).reshape(2, 6, 3)

    keys, values = pooled(project(layer.phi, x)), pooled(project(layer.g, x))
    scores = np.exp(project(layer.theta, x).reshape(2, 35, 3) @ keys.transpose(0, 2, 1))
    expected = scores / scores.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights, expected[:, None], atol=1e-5)
    attended = project(layer.o, expected @ values).reshape(x.shape)
    np.testing.assert_allclose(y, x + attended, atol=1e-4)


def test_initial_kernel_and_bias_belong_to_their_fan_in():
    """Bounds 1/sqrt(fan_in) of a Linear of 7 inputs and of a 3x3 convolution of 7 channels."""
    rngs = nnx.Rngs(0)
    for layer, fan_in in (
        (layers.Linear(7, 5003, rngs=rngs), 7),
        (conv_layers.Conv(7, 5003, 3, rngs=rngs), 63),
    ):
        for values in (layer.kernel[...], layer.bias[...]):
            largest = jnp.abs(values).max() * fan_in**0.5
            assert 0.99 < largest <= 1 + 1e-6
