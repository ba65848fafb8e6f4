"""The CPU's ways compute what XLA's own do: values, gradients, whole models."""

import functools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_models import conv_layers, cpu, layers, ops
from jax_models.cpu import ffi, functions, kernels, onednn
from tests.jax_models.small import COVERED, build, draw_images

pytestmark = pytest.mark.newest


def has_avx512():
    """Whether this processor has the instructions that oneDNN's fastest code needs."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "avx512bw" in facts.read_text()


with_onednn = pytest.mark.skipif(
    onednn.library() is None, reason="needs the package onednn-cpu-gomp"
)


def has_bfloat16():
    """Whether this processor has the instructions for bfloat16."""
    facts = Path("/proc/cpuinfo")
    return facts.exists() and "avx512_bf16" in facts.read_text()


with_bfloat16 = pytest.mark.skipif(
    onednn.library() is None or not has_bfloat16(), reason="needs oneDNN and avx512_bf16"
)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value_and_gradients(function, *args):
    """Of a weighted sum of the results, so that every entry of the gradient differs."""
    out = jax.eval_shape(function, *args)
    weights = draw(*out.shape, seed=99)

    def total(*args):
        y = function(*args)
        return (y.astype(jnp.float32) * weights).sum(), y

    (_, y), gradients = jax.jit(
        jax.value_and_grad(total, argnums=tuple(range(len(args))), has_aux=True)
    )(*args)
    return [y, *gradients]


def assert_close(ours, plain, relative=2e-6):
    for a, b in zip(ours, plain, strict=True):
        assert float(jnp.abs(a - b).max()) <= relative * max(1.0, float(jnp.abs(b).max()))


# The switch


def test_is_on_where_the_device_is_a_cpu(monkeypatch):
    assert cpu.active()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not cpu.active()
    with cpu.using(True):
        assert cpu.active()
        with cpu.using(False):
            assert not cpu.active()
        assert cpu.active()


@pytest.mark.parametrize("name", COVERED)
def test_both_ways_give_the_same_model(name):
    model, images = build(name), draw_images(name)
    graphdef, *state = nnx.split(model, nnx.Param, ...)
    params, stats = map(nnx.to_pure_dict, state)

    def results(ours):
        @jax.jit
        def run(params):
            def loss(params):
                model = nnx.merge(graphdef, params, stats)
                rngs = nnx.Rngs(dropout=jax.random.key(1))
                logits = model(images, train=True, rngs=rngs)
                return jnp.square(logits).sum(), logits

            gradients, logits = jax.grad(loss, has_aux=True)(params)
            return logits, nnx.merge(graphdef, params, stats)(images), gradients

        with cpu.using(ours):
            return run(params)

    (train, evaluated, gradients), plain = results(True), results(False)
    np.testing.assert_allclose(train, plain[0], atol=1e-5)
    np.testing.assert_allclose(evaluated, plain[1], atol=1e-5)
    whole = np.sqrt(sum(float(jnp.square(g).sum()) for g in jax.tree.leaves(plain[2])))
    for ours, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain[2]), strict=True):
        gap = float(jnp.linalg.norm(ours - theirs))
        assert gap <= 1e-4 * float(jnp.linalg.norm(theirs)) + 1e-6 * whole


# Functions with written gradients


def test_gelu():
    x = jnp.concatenate([draw(1009) * 3, jnp.linspace(-12, 12, 997), jnp.zeros(1)])
    ours = value_and_gradients(ops.gelu, x)
    with cpu.using(False):
        plain = value_and_gradients(ops.gelu, x)
    assert_close(ours, plain, 1e-6)


def test_rounding_to_bfloat16():
    words = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    words[:8] = 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x8000, 0x80000001, 1, 0x7F800000, 0xFF800000
    words[8:11] = 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF  # NaNs
    x = jnp.asarray(words.view(np.float32))
    y = functions._rounded(x, jnp.dtype(jnp.bfloat16))
    plain, known = x.astype(jnp.bfloat16), ~np.isnan(x)
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.asarray(plain, np.float32))
    np.testing.assert_array_equal(jnp.signbit(y)[known], jnp.signbit(plain)[known])
    _, pull = jax.vjp(lambda x: functions._rounded(x, jnp.dtype(jnp.bfloat16)), x)
    np.testing.assert_array_equal(pull(jnp.ones_like(y))[0], np.ones(x.shape, np.float32))


def test_relu_of_every_number_in_bfloat16():
    words = np.arange(2**16, dtype=np.uint16)
    words = words[(words & 0x7F80 > 0) | (words & 0x7FFF == 0)]  # XLA makes 0 of subnormal ones
    x = jax.lax.bitcast_convert_type(jnp.asarray(words), jnp.bfloat16)
    ours = value_and_gradients(ops.relu, x)
    with cpu.using(False):
        plain = value_and_gradients(ops.relu, x)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(np.asarray(one, np.float32), np.asarray(other, np.float32))
    y = ops.relu(x)
    assert jnp.isnan(y).sum() == jnp.isnan(x).sum() > 0
    assert not jnp.signbit(y[~jnp.isnan(y)]).any()


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e-4])
def test_layer_norm(scale):
    norm = layers.LayerNorm(59, rngs=nnx.Rngs(0))
    x, weight, bias = draw(7, 11, 59) * scale + 3 * scale, draw(59, seed=1), draw(59, seed=2)

    def run(x, weight, bias):
        graphdef, state = nnx.split(norm)
        state = {"bias": bias, "scale": weight}
        return nnx.merge(graphdef, state)(x)

    ours = value_and_gradients(run, x, weight, bias)
    with cpu.using(False):
        plain = value_and_gradients(run, x, weight, bias)
    assert_close(ours, plain, 1e-5)


def test_layer_norm_of_float16_has_wide_statistics():
    x, row = 300 * draw(7, 59).astype(jnp.float16), jnp.ones(59, jnp.float16)  # squares overflow
    plain = functions.layer_norm(*(a.astype(jnp.float32) for a in (x, row, row)), 1e-5)
    y = ops.layer_norm(x, row, row, 1e-5)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(y, plain, atol=2e-3)


SECOND_ORDER = {
    "GELU": ops.gelu,
    "ReLU in bfloat16": lambda x: ops.relu(x.astype(jnp.bfloat16)).astype(x.dtype),
    "layer norm": lambda x: ops.layer_norm(x, 1 + x[0, 0, 0], x[0, 0, 0], 1e-5),
    "batch norm": lambda x: ops.batch_norm(x, 1 + x[0, 0, 0], x[0, 0, 0], 1e-5)[0],
    "2x2 pool": ops.max_pool2x2,
    "3x3 pool": ops.max_pool3x3,
}


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_gradients_of_gradients(name):
    x, direction = draw(2, 6, 4, 5), draw(2, 6, 4, 5, seed=1)

    def slope(x):
        gradient = jax.grad(lambda x: (SECOND_ORDER[name](x) ** 3).sum())(x)
        return (gradient * direction).sum()

    ours = jax.grad(slope)(x)
    with cpu.using(False):
        plain = jax.grad(slope)(x)
    assert float(jnp.abs(ours).max()) > 1
    assert_close([ours], [plain], 1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 12, 5), (2, 7, 9, 3), (1, 2, 2, 1)])
def test_max_pool(shape):
    x = draw(*shape).round(1)  # with ties
    ours = value_and_gradients(ops.max_pool2x2, x)
    with cpu.using(False):
        plain = value_and_gradients(ops.max_pool2x2, x)
    assert_close(ours, plain, 0)


@pytest.mark.parametrize("shape", [(2, 1, 5, 3), (2, 5, 1, 3), (2, 1, 1, 3)])
def test_max_pool_without_a_window(shape):
    y, pull = jax.vjp(ops.max_pool2x2, draw(*shape))
    assert y.shape == (2, shape[1] // 2, shape[2] // 2, 3)
    np.testing.assert_array_equal(pull(y)[0], np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(3, 8, 12, 5), (2, 7, 9, 3), (1, 1, 2, 1), (2, 1, 1, 3)])
def test_max_pool_of_three(shape):
    x = draw(*shape).round(1)  # with ties
    ours = value_and_gradients(ops.max_pool3x3, x)
    with cpu.using(False):
        plain = value_and_gradients(ops.max_pool3x3, x)
    assert_close(ours, plain, 1e-6)  # the gradients of windows that overlap are added up


@with_onednn
@pytest.mark.parametrize("shape", [(3, 40, 32, 48), (2, 37, 41, 37)])
def test_gradient_of_max_pool_by_onednn(shape):
    x = draw(*shape).round(1)  # with ties
    assert kernels.max_pool3x3_fits(x)
    ours = value_and_gradients(ops.max_pool3x3, x)
    with cpu.using(False):
        plain = value_and_gradients(ops.max_pool3x3, x)
    assert_close(ours, plain, 1e-6)
    y = ops.max_pool3x3(x.at[0, 5, 5, 0].set(jnp.nan))
    assert jnp.isnan(y[0, 2:4, 2:4, 0]).all()
    assert jnp.isnan(y).sum() == 4


@with_onednn
@pytest.mark.parametrize("shape", [(13, 17, 19, 23), (1, 251, 257, 1), (509, 1, 1, 127)])
def test_channels_first_by_onednn(shape):
    x = draw(*shape).at[0, 0, 0, 0].set(jnp.nan)
    assert kernels.channels_first_fits(x)
    np.testing.assert_array_equal(ops.channels_first(x), x.transpose(0, 3, 1, 2))

    def slope(x, y):
        """Of a product that both gradients go back through."""
        return jax.grad(lambda x: (ops.channels_first(x) ** 2 * y).sum())(x).sum()

    x, y = draw(*shape, seed=1), draw(*shape, seed=2)
    np.testing.assert_array_equal(jax.grad(slope)(x, y.transpose(0, 3, 1, 2)), 2 * y)


# Convolutions by oneDNN

CONVOLUTIONS = [
    # batch, height, width, channels, kernel, outputs, (padding, stride, groups)
    (7, 13, 11, 5, (3, 3), 17, (1, 1, 1)),
    (3, 28, 28, 1, (3, 3), 32, (0, 1, 1)),
    (2, 16, 16, 64, (3, 3), 32, (1, 1, 1)),
    (1, 4, 5, 3, (3, 3), 2, (0, 1, 1)),
    (2, 9, 7, 3, (1, 5), 4, (0, 1, 1)),
    (2, 15, 22, 3, (7, 7), 16, (3, 2, 1)),
    (3, 8, 7, 16, (3, 3), 24, (1, 2, 1)),
    (3, 8, 7, 16, (1, 1), 24, (0, 2, 1)),
    (2, 8, 7, 16, (1, 1), 24, (0, 1, 1)),
    (1, 4, 5, 16, (1, 1), 24, (0, 1, 1)),  # fewer places than channels
    (2, 19, 13, 3, (4, 4), 16, (0, 4, 1)),
    (2, 11, 9, 48, (7, 7), 48, (3, 1, 48)),
    (2, 8, 9, 20, (7, 7), 20, (3, 1, 20)),
    (2, 8, 9, 6, (3, 3), 15, (1, 2, 3)),
]


def plain_convolution(x, kernel, bias, padding, stride=1, groups=1):
    axes = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": groups}
    sides = [(padding, padding)] * 2
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, **axes)
    return y if bias is None else y + bias


@with_onednn
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("b", "h", "w", "c", "size", "d", "how"), CONVOLUTIONS)
def test_convolution_equals_xlas(b, h, w, c, size, d, how, biased):
    args = draw(b, h, w, c), draw(*size, c // how[2], d, seed=1), draw(d, seed=2)
    args, bias = (args, ()) if biased else (args[:2], (None,))
    ours = value_and_gradients(lambda *args: kernels.convolution(*args, *bias, *how), *args)
    plain = value_and_gradients(lambda *args: plain_convolution(*args, *bias, *how), *args)
    assert_close(ours, plain, 1e-5)


@with_onednn
def test_calls_of_different_sizes_do_not_disturb_each_other():
    """They share their temporary memory."""
    small = draw(2, 8, 8, 8), draw(3, 3, 8, 8, seed=1), draw(8)
    large = draw(2, 16, 16, 64), draw(3, 3, 64, 64, seed=1), draw(64)
    alone = [kernels.convolution(*args, 1) for args in (small, large)]

    @jax.jit
    def together(small, large):
        return kernels.convolution(*small, 1), kernels.convolution(*large, 1)

    for _ in range(5):
        for a, b in zip(together(small, large), alone, strict=True):
            np.testing.assert_array_equal(a, b)


@with_onednn
def test_primitives_run_in_threads_that_did_not_make_them():
    # Maps so small that on processors without AVX-512 a gradient needs scratch memory.
    args = draw(64, 2, 2, 64), draw(3, 3, 64, 64, seed=1), draw(64, seed=2)

    @jax.jit
    def ours(*args):
        return value_and_gradients(lambda *args: kernels.convolution(*args, 1), *args)

    assert kernels.convolution_fits(*args[:2], 1)  # makes them here
    compiled = ours.lower(*args).compile()
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(lambda: jax.block_until_ready(compiled(*args))).result()
    plain = value_and_gradients(lambda *args: plain_convolution(*args, 1), *args)
    assert_close(found, plain, 1e-5)


@with_onednn
def test_same_convolution_same_bits():
    args = draw(5, 16, 16, 24), draw(3, 3, 24, 40, seed=1), draw(40, seed=2)
    runs = [
        value_and_gradients(lambda *args: kernels.convolution(*args, 1), *args) for _ in range(3)
    ]
    for again in runs[1:]:
        for a, b in zip(runs[0], again, strict=True):
            np.testing.assert_array_equal(a, b)


@with_onednn
def test_convolution_under_vmap():
    x, kernel, bias = draw(3, 2, 6, 6, 4), draw(3, 3, 4, 5, seed=1), draw(5, seed=2)
    ours = jax.vmap(lambda x: kernels.convolution(x, kernel, bias, 1))(x)
    for one, example in zip(ours, x, strict=True):
        np.testing.assert_array_equal(one, kernels.convolution(example, kernel, bias, 1))


@with_onednn
def test_infinities_and_nans_pass_through():
    x = draw(1, 5, 5, 2).at[0, 0, 0, 0].set(jnp.nan)
    y = kernels.convolution(x, draw(3, 3, 2, 3), draw(3), 1)
    assert jnp.isnan(y[0, :2, :2]).all()
    assert jnp.isfinite(y[0, 2:]).all()


def test_other_dtypes_are_left_to_xla(monkeypatch):
    def usable(*dtypes):
        return onednn.usable(*map(draw(1, 5, 5, 2).astype, dtypes))

    assert not usable(jnp.float16, jnp.float16)
    assert not usable(jnp.float32, jnp.bfloat16)
    if onednn.library() is not None:
        monkeypatch.setattr(onednn.library(), "has_bfloat16", False)
    assert not usable(jnp.bfloat16)
    assert cpu.dtype("bfloat16") == "float32"
    assert cpu.dtype("float64") == "float64"
    with cpu.using(False):
        assert cpu.dtype("bfloat16") == "bfloat16"


@with_bfloat16
def test_processors_with_the_instructions_compute_in_bfloat16():
    assert onednn.usable(draw(1).astype(jnp.bfloat16))
    assert cpu.dtype("bfloat16") == "bfloat16"


# A bfloat16 has 8 bits; several roundings stand one behind the other in attention.
IN_BFLOAT16 = {
    "convolution": (
        lambda x, kernel, bias: ops.convolution(x, kernel, bias, 1),
        [(16, 13, 11, 17), (3, 3, 17, 23), (23,)],
    ),
    "depthwise": (
        lambda x, kernel: ops.convolution(x, kernel, None, 3, groups=37),
        [(5, 23, 19, 37), (7, 7, 1, 37)],
    ),
    "linear": (
        lambda x, kernel, bias: ops.linear(x, (kernel,), (bias,))[0],
        [(131, 257), (257, 127), (127,)],
    ),
    "three of one input": (
        lambda x, *kernels: sum(ops.linear(x, kernels, (None,) * 3)),
        [(131, 257), *[(257, 127)] * 3],
    ),
    "wide": (
        lambda x, kernel, bias: ops.linear(x, (kernel,), (bias,))[0],
        [(131, 31), (31, 3001), (3001,)],
    ),
    "layer norm": (
        lambda x, scale, bias: ops.layer_norm(x, scale, bias, 1e-5),
        [(1009, 67), (67,), (67,)],
    ),
    "attention": (
        lambda q, k, v: ops.attend(q, k, v, scale=0.25, maps=False)[0],
        [(97, 37, 3, 16), *[(97, 41, 3, 16)] * 2],
    ),
    "attention to others": (
        lambda q, k, v: ops.attend(q, k, v, scale=0.25, maps=False, others_only=True)[0],
        [(97, 37, 3, 16), *[(97, 41, 3, 16)] * 2],
    ),
    "3x3 pool": (ops.max_pool3x3, [(8, 37, 41, 37)]),
    "2x2 pool": (ops.max_pool2x2, [(8, 38, 42, 37)]),
    "2x2 pool of odd sides": (ops.max_pool2x2, [(8, 37, 41, 37)]),
    "channels first": (ops.channels_first, [(13, 17, 19, 23)]),
    "GELU": (ops.gelu, [(37, 41)]),
}


@with_bfloat16
@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_bfloat16_follows_float32(name):
    function, shapes = IN_BFLOAT16[name]
    args = [draw(*shape, seed=i).astype(jnp.bfloat16) for i, shape in enumerate(shapes)]
    ours = value_and_gradients(function, *args)
    with cpu.using(False):
        plain = value_and_gradients(function, *(arg.astype(jnp.float32) for arg in args))
    for a, b in zip(ours, plain, strict=True):
        assert a.dtype == jnp.bfloat16
        assert float(jnp.linalg.norm(a.astype(jnp.float32) - b)) <= 5e-3 * float(jnp.linalg.norm(b))


# As where matrices are bfloat16 and the other parameters float32, or weights and images differ.
IN_SEVERAL = {
    "linear": (IN_BFLOAT16["linear"], "bbf"),
    "convolution": (IN_BFLOAT16["convolution"], "bbf"),
    "attention of wide tokens": (
        (
            lambda x, *weights: ops.attention(x, *weights, 3, maps=False)[0],
            [(97, 37, 48), (48, 144), (144,)],
        ),
        "fbb",
    ),
    "attention with a wide scale": (
        (
            lambda x, w, scale: ops.attention(x, w, None, 3, maps=False, scale=scale / 999)[0],
            [(97, 37, 48), (48, 144), (3,)],
        ),
        "bbf",
    ),
}


@with_bfloat16
@pytest.mark.parametrize("name", IN_SEVERAL)
def test_arrays_of_several_dtypes_are_computed_with_as_they_are(name):
    (function, shapes), dtypes = IN_SEVERAL[name]
    dtypes = [{"b": jnp.bfloat16, "f": jnp.float32}[letter] for letter in dtypes]
    args = [draw(*shape, seed=i).astype(dtypes[i]) for i, shape in enumerate(shapes)]
    found = jax.jit(function)(*args)
    with cpu.using(False):
        plain = jax.jit(lambda *args: function(*args))(*(a.astype(jnp.float32) for a in args))
    gap = float(jnp.linalg.norm(found.astype(jnp.float32) - plain))
    assert gap <= 5e-3 * float(jnp.linalg.norm(plain))


@with_bfloat16
def test_a_wide_shortcut_is_added_by_itself():
    x, kernel = (draw(*s).astype(jnp.bfloat16) for s in ((16, 13, 11, 17), (3, 3, 17, 23)))
    affine = functools.partial(map, jnp.ones, (23, 23))
    how = {"stride": 1, "groups": 1, "relu": True}
    for dtype, fits in ((jnp.bfloat16, True), (jnp.float32, False)):
        added = draw(16, 13, 11, 23).astype(dtype)
        y = ops.convolution_affine(x, kernel, affine, 1, added=added, **how)
        assert (y is not None) == fits


@with_bfloat16
def test_attention_with_dropout_in_bfloat16():
    args = [draw(97, 37, 3, 16, seed=i).astype(jnp.bfloat16) for i in range(3)]
    keep = (draw(97, 3, 37, 37, seed=3) > 0.3).astype(jnp.uint8)
    ours = value_and_gradients(lambda *args: kernels.attention(*args, keep), *args)
    wide = (arg.astype(jnp.float32) for arg in args)
    plain = value_and_gradients(lambda *args: plain_attention(*args, keep), *wide)
    for a, b in zip(ours, plain, strict=True):
        assert float(jnp.linalg.norm(a.astype(jnp.float32) - b)) <= 6e-3 * float(jnp.linalg.norm(b))


@with_bfloat16
def test_bfloat16_meets_no_reference_code():
    x = jax.ShapeDtypeStruct((128, 65, 4, 32), jnp.bfloat16)
    assert kernels.attention_fits(x, x, x)
    for side, c, d, size in ((32, 3, 64, 3), (31, 24, 64, 3), (32, 3, 24, 2), (4, 512, 512, 3)):
        x, kernel = (
            draw(*s).astype(jnp.bfloat16) for s in ((16, side, side, c), (size, size, c, d))
        )
        assert kernels.convolution_fits(x, kernel, 1)
    assert kernels.linear_fits(*(draw(*s).astype(jnp.bfloat16) for s in ((8320, 128), (128, 384))))


def test_several_devices_are_left_to_xla(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert not onednn.usable(draw(1, 5, 5, 2), draw(3, 3, 2, 3))


def test_without_the_package_xla_computes(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    monkeypatch.setattr(onednn, "library", onednn.library.__wrapped__)
    assert onednn.library() is None
    x = draw(31, 16, 16, 17)
    conv = conv_layers.Conv(17, 23, 3, padding=1, rngs=nnx.Rngs(0))
    plain = plain_convolution(x, conv.kernel[...], conv.bias[...], 1)
    np.testing.assert_array_equal(conv(x), nnx.Conv.__call__(conv, x))
    np.testing.assert_allclose(conv(x), plain, atol=1e-5)


@with_onednn
def test_where_xla_has_another_interface_it_computes(monkeypatch):
    monkeypatch.setattr(ffi, "_VERSION", (99, 0))
    monkeypatch.setattr(onednn, "library", onednn.library.__wrapped__)
    with pytest.warns(UserWarning, match="cannot call oneDNN, so XLA computes: .*99.0"):
        assert onednn.library() is None


def test_small_work_is_left_to_xla():
    assert not kernels.convolution_fits(draw(1, 5, 5, 2), draw(3, 3, 2, 3), 1)
    assert not kernels.convolution_fits(draw(999, 1, 1, 32), draw(3, 3, 32, 64), 0)  # fits nowhere
    assert not kernels.linear_fits(draw(5, 7), draw(7, 3))
    assert not kernels.attention_fits(*[draw(2, 5, 2, 7)] * 3)
    assert not kernels.layer_norm_fits(draw(5, 7))


@with_onednn
@pytest.mark.parametrize(
    ("n", "d", "widths", "biased"),
    [
        (8320, 128, (512,), True),
        (1009, 131, (127,), True),
        (700, 1, (3001,), True),
        (1009, 31, (29, 37, 2003), True),
        (1009, 131, (127,), False),
        (1009, 31, (29, 37, 2003), False),
    ],
)
def test_linear_equals_xlas(n, d, widths, biased):
    x, count = draw(n, d), len(widths)
    weights = [draw(d, f, seed=i) / d**0.5 for i, f in enumerate(widths)]
    biases = [draw(f, seed=i) for i, f in enumerate(widths)] if biased else []
    assert kernels.linear_fits(x, *weights) == (2 * n * d * sum(widths) >= 4e6)

    def split(rest):
        return rest[:count], rest[count:] or (None,) * count

    def ours(x, *rest):
        return jnp.concatenate(kernels.linear(x, *split(rest)), axis=-1)

    def plain(x, *rest):
        with cpu.using(False):
            return jnp.concatenate(ops.linear(x, *split(rest)), axis=-1)

    args = x, *weights, *biases
    assert_close(value_and_gradients(ours, *args), value_and_gradients(plain, *args), 1e-5)


@with_onednn
@pytest.mark.parametrize(("n", "d"), [(8320, 128), (1009, 59), (257, 3000)])
def test_layer_norm_equals_xlas(n, d):
    args = 2 * draw(n, d) + 3, draw(d, seed=1), draw(d, seed=2)
    ours = value_and_gradients(lambda *args: kernels.layer_norm(*args, 1e-6), *args)
    plain = value_and_gradients(lambda *args: functions.layer_norm(*args, 1e-6), *args)
    assert_close(ours, plain, 1e-5)


# batch, queries, keys, heads, head width; the last but one is that of `vit`, the last is worked on
# in two parts where the maps are not kept
ATTENTIONS = [
    (5, 37, 37, 3, 16),
    (3, 41, 11, 1, 4),
    (97, 37, 37, 3, 16),
    (2, 257, 67, 2, 8),
    (2, 65, 65, 4, 32),
    (5, 1409, 389, 2, 8),
]


def plain_attention(q, k, v, keep, others_only=False):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
    if others_only:
        scores = jnp.where(jnp.eye(*scores.shape[2:]), -jnp.inf, scores)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights if keep is None else weights * keep, v)


@with_onednn
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize(("b", "q", "k", "h", "d"), ATTENTIONS)
def test_attention_equals_xlas(b, q, k, h, d, drops):
    args = draw(b, q, h, d) / 2, draw(b, k, h, d, seed=1), draw(b, k, h, d, seed=2)
    keep = (draw(b, h, q, k, seed=3) > 0.3).astype(jnp.uint8) if drops else None
    plain = value_and_gradients(lambda *args: plain_attention(*args, keep), *args)
    ours = value_and_gradients(lambda *args: kernels.attention(*args, keep), *args)
    assert_close(ours, plain, 1e-5)
    alone = jax.jit(lambda *args: kernels.attention(*args, keep))(*args)
    assert_close([alone], plain[:1], 1e-5)


@with_onednn
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize(("b", "q", "k", "h", "d"), [(5, 37, 37, 3, 16), (97, 37, 41, 3, 16)])
def test_attention_to_others_equals_xlas(b, q, k, h, d, drops):
    args = 3 * draw(b, q, h, d), draw(b, k, h, d, seed=1), draw(b, k, h, d, seed=2)
    keep = (draw(b, h, q, k, seed=3) > 0.3).astype(jnp.uint8) if drops else None
    plain = value_and_gradients(lambda *args: plain_attention(*args, keep, True), *args)
    ours = value_and_gradients(lambda *args: kernels.attention(*args, keep, True), *args)
    assert_close(ours, plain, 1e-5)
    alone = jax.jit(lambda *args: kernels.attention(*args, keep, True))(*args)
    assert_close([alone], plain[:1], 1e-5)


@with_onednn
def test_published_models_meet_no_reference_code():
    """oneDNN's reference code is a thousand times slower; XLA would have to compute instead."""
    for rows, d, f in ((8320, 128, 384), (8320, 512, 128), (544, 3000, 128), (102400, 16, 128)):
        assert kernels.linear_fits(draw(rows, d), draw(d, f))
    for side, c, d in ((32, 3, 64), (16, 128, 128), (4, 512, 512), (32, 256, 128)):
        assert kernels.convolution_fits(draw(16, side, side, c), draw(3, 3, c, d), 1)
    assert kernels.convolution_fits(draw(32, 28, 28, 1), draw(3, 3, 1, 32), 0)
    assert kernels.convolution_fits(draw(1, 7, 7, 768), draw(7, 7, 1, 768), 3, 1, 768)


@with_onednn
@pytest.mark.skipif(not has_avx512(), reason="without AVX-512 oneDNN has reference code for it")
def test_published_attention_meets_no_reference_code():
    for shape in ((128, 65, 4, 32), (100, 65, 4, 16), (32, 17, 4, 32), (64, 65, 8, 32)):
        assert kernels.attention_fits(*[jax.ShapeDtypeStruct(shape, jnp.float32)] * 3)
    q, k = (jax.ShapeDtypeStruct((100, n, 1, 16), jnp.float32) for n in (1024, 256))
    assert kernels.attention_fits(q, k, k)


def test_batch_norm():
    norm = conv_layers.BatchNorm(13)
    x, scale, bias = 2 * draw(7, 5, 3, 13) + 1, draw(13, seed=1), draw(13, seed=2)
    graphdef, state = nnx.split(norm)
    state = nnx.to_pure_dict(state)

    def run(x, scale, bias):
        norm = nnx.merge(graphdef, state | {"scale": scale, "bias": bias})
        y = norm(x, train=True)
        return jnp.concatenate([y.ravel(), norm.mean[...], norm.var[...]])

    ours = value_and_gradients(run, x, scale, bias)
    with cpu.using(False):
        plain = value_and_gradients(run, x, scale, bias)
    assert_close(ours, plain, 1e-5)


@with_onednn
@pytest.mark.parametrize("shape", [(31, 19, 17, 13), (7, 16, 16, 64)])
def test_batch_norm_equals_xlas(shape):
    x, scale, bias = 2 * draw(*shape) + 1, draw(shape[-1], seed=1), draw(shape[-1], seed=2)
    assert kernels.batch_norm_fits(x)

    def run(norm):
        def all_of(*args):
            y, mean, var = norm(*args, 1e-5)
            statistics = jax.lax.stop_gradient(jnp.stack([mean, var]))
            return jnp.concatenate([y.ravel().astype(jnp.float32), statistics.ravel()])

        return all_of

    plain = value_and_gradients(run(functions.batch_norm), x, scale, bias)
    assert_close(value_and_gradients(run(kernels.batch_norm), x, scale, bias), plain, 1e-5)
    if onednn.usable(low := x.astype(jnp.bfloat16)):
        plain = value_and_gradients(run(functions.batch_norm), low.astype(jnp.float32), scale, bias)
        for a, b in zip(
            value_and_gradients(run(kernels.batch_norm), low, scale, bias), plain, strict=True
        ):
            gap = float(jnp.linalg.norm(a.astype(jnp.float32) - b))
            assert gap <= 5e-3 * float(jnp.linalg.norm(b))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(31, 19, 17, 13), (7, 16, 16, 64)])
def test_batch_norm_and_relu_in_one(shape, dtype):
    x, scale, bias = draw(*shape).astype(dtype), draw(shape[-1], seed=1), draw(shape[-1], seed=2)
    if not onednn.usable(x):
        pytest.skip("oneDNN does not compute in this dtype here")

    def after(x, scale, bias):
        y, *statistics = ops.batch_norm(x, scale, bias, 1e-5)
        return ops.relu(y), *statistics

    def at_once(x, scale, bias):
        return ops.batch_norm_relu(x, scale, bias, 1e-5)

    assert "relu = 1 : i64" in jax.jit(at_once).lower(x, scale, bias).as_text()
    for a, b in zip(at_once(x, scale, bias), after(x, scale, bias), strict=True):
        np.testing.assert_array_equal(a, b)
    gradients = [
        value_and_gradients(lambda *args, f=f: f(*args)[0], x, scale, bias)
        for f in (at_once, after)
    ]
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)
    y, mean, _ = at_once(x.at[1, 2, 3, 4].set(jnp.nan), scale, bias)
    assert jnp.isnan(mean[4])
    assert jnp.isnan(y[0, 0, 0]).nonzero()[0].tolist() == [4]


@with_onednn
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(("size", "stride", "groups"), [(3, 1, 1), (1, 2, 1), (7, 1, 37)])
def test_convolution_norm_sum_and_relu_in_one(size, stride, groups, adds, relu):
    inner = {"stride": stride, "padding": size // 2, "groups": groups, "rngs": nnx.Rngs(0)}
    conv, norm = conv_layers.Conv(37, 37, size, **inner), conv_layers.BatchNorm(37)
    for name, seed in (("scale", 1), ("bias", 2), ("mean", 3)):
        getattr(norm, name).set_value(draw(37, seed=seed))
    norm.var.set_value(1 + jnp.square(draw(37, seed=4)))
    x = draw(11, 23, 19, 37)
    added = draw(*jax.eval_shape(conv, x).shape, seed=5) if adds else None

    def run(x, added):
        return conv_layers.conv_norm(conv, norm, x, train=False, added=added, relu=relu)

    args = (x, added) if adds else (x,)
    function = run if adds else functools.partial(run, added=None)
    y = jax.jit(function)(*args)
    ours = value_and_gradients(function, *args)
    with cpu.using(False):
        plain = value_and_gradients(function, *args)
    assert_close([y, *ours], [plain[0], *plain], 1e-5)
    assert jnp.isnan(jax.jit(function)(x.at[0, 0, 0].set(jnp.nan), *args[1:])[0]).any()


# Python functions as custom calls


def test_custom_call_gets_shapes_addresses_and_integers():
    import ctypes

    seen = []

    def double(dtype, shapes, addresses, integers):
        seen.append((dtype, shapes, integers))
        source, target = ((ctypes.c_float * 6).from_address(address) for address in addresses)
        target[:] = [2 * value for value in source]

    ffi.register("test_double", double)
    x = draw(2, 3)
    result = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    y = jax.jit(lambda x: jax.ffi.ffi_call("test_double", result)(x, b=np.int64(7), a=np.int64(5)))(
        x
    )
    np.testing.assert_array_equal(y.ravel(), 2 * x.ravel())
    assert seen == [(11, ((2, 3), (3, 2)), [5, 7])]  # XLA's number for float32


_UNFINISHED = """
import jax, jax.numpy as jnp, flax.nnx, jax_models  # together they leave JAX's client to the end
from jax_models.cpu import kernels
# Begun and left alone; the convolution by itself would be waited for.
step = jax.jit(lambda x, kernel: kernels.convolution(x, kernel, None, 1) @ kernel[1, 1])
x, kernel = jnp.ones((64, 32, 32, 64)), jnp.ones((3, 3, 64, 64))
step(x, kernel).block_until_ready()
{begun}
print("begun", flush=True)
"""


@with_onednn
@pytest.mark.parametrize(
    "begun", ["for _ in range(9): step(x, kernel)", "ys = [step(x, kernel) for _ in range(9)]"]
)
def test_a_process_ends_while_calls_are_under_way(begun):
    command = [sys.executable, "-c", _UNFINISHED.format(begun=begun)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "begun\n"), done.stderr


def test_what_a_custom_call_raises_is_told():
    def fail(_dtype, shapes, addresses, integers):
        raise KeyError("no such layout")

    ffi.register("test_fail", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="test_fail: KeyError: 'no such layout'"):
        jax.ffi.ffi_call("test_fail", jax.ShapeDtypeStruct((1,), jnp.float32))(draw(1))
