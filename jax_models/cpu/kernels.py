"""Convolutions, Linear layers, layer norm and attention by oneDNN, forward and backward.

XLA's convolutions are several times slower on CPUs, and for the gradient of a kernel XLA first
transposes one of the two large arrays. Sums are added up in another order than XLA's, so results
differ in the last bits. Each function comes with `…_fits`, which says whether it takes the given
arrays and is worth it; where not, use XLA's.
"""

import ctypes
import functools
import math
import struct

import jax

from jax_models.cpu import onednn
from jax_models.cpu.onednn import BIAS, DST, GRADIENT, SRC, WEIGHTS, Kernel, Operation

# Fewer operations take less time than a call does.
LEAST_FLOPS = 4e6


def _like(array):
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


# Convolutions: x [B,H,W,C], kernel [kh,kw,C,D], stride 1.

# Which axis in memory each axis of oneDNN's is: (B,C,H,W) lies as [B,H,W,C], (D,C,kh,kw) as
# [kh,kw,C,D].
_MAPS, _KERNEL = (0, 3, 1, 2), (3, 2, 0, 1)


def convolution_fits(x: jax.Array, kernel: jax.Array, padding: int) -> bool:
    """Whether `convolution` takes these and is worth it."""
    work = 2 * math.prod(kernel.shape) * math.prod(x.shape[:3])
    if work < LEAST_FLOPS or not onednn.usable(x, kernel):
        return False
    x, kernel, out = x.shape, kernel.shape, _convolved(x.shape, kernel.shape, padding)
    return (
        _convolve.is_fast(x, kernel, kernel[-1:], out, padding=padding)
        and _convolution_input_gradient.is_fast(out, kernel, x, padding=padding)
        and _convolution_kernel_gradient.is_fast(x, out, kernel, kernel[-1:], padding=padding)
    )


def _convolved(x, kernel, padding):
    (b, h, w, _), (kh, kw, _, d) = x, kernel
    return b, h + 2 * padding - kh + 1, w + 2 * padding - kw + 1, d


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def convolution(x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: int) -> jax.Array:
    """x [B,H,W,C], kernel [kh,kw,C,D], bias [D] -> [B,H',W',D]; zero pixels on each side."""
    out = jax.ShapeDtypeStruct(_convolved(x.shape, kernel.shape, padding), x.dtype)
    return _convolve(out, x, kernel, bias, padding=padding)


def _convolution_forward(x, kernel, bias, padding):
    return convolution(x, kernel, bias, padding), (x, kernel)


def _convolution_backward(padding, residuals, gradient):
    x, kernel = residuals
    bias = jax.ShapeDtypeStruct(kernel.shape[-1:], kernel.dtype)
    for_x = _convolution_input_gradient(_like(x), gradient, kernel, padding=padding)
    return for_x, *_convolution_kernel_gradient((_like(kernel), bias), x, gradient, padding=padding)


convolution.defvjp(_convolution_forward, _convolution_backward)


class _Convolution:
    """Layouts of a convolution's arrays; `any_kernel` leaves the kernel's to the library."""

    def __init__(self, library, x, kernel, out, padding: int):
        self.x, self.out = library.layout(x, _MAPS), library.layout(out, _MAPS)
        self.kernel, self.bias = library.layout(kernel, _KERNEL), library.layout(kernel[-1:])
        self.any_kernel = library.layout(kernel, _KERNEL, fixed=False)
        strides, dilation = onednn.longs(1, 1), onednn.longs(0, 0)
        sides = onednn.longs(padding, padding)
        self.geometry = strides, dilation, sides, sides
        self.forward = library.new(
            "convolution_forward_primitive_desc_create", library.engine, onednn.TRAINING,
            onednn.DIRECT, self.x, self.any_kernel, self.bias, self.out, *self.geometry, None,
        )  # fmt: skip

    def reordered(self, library, operation, kernel, description):
        """The kernel in the layout a primitive chose: a copy that the operation makes first."""
        chosen = library.chosen(description, onednn.KERNEL_LAYOUT)
        copy = operation.temporary(chosen)
        operation.add_copy(kernel, self.kernel, copy, chosen)
        return copy


@Kernel
def _convolve(library, shapes, padding):
    x, kernel, _, out = shapes
    arrays = _Convolution(library, x, kernel, out, padding)
    operation = Operation(library, arrays.x, arrays.kernel, arrays.bias, arrays.out)
    x, kernel, bias, out = operation.views
    kernel = arrays.reordered(library, operation, kernel, arrays.forward)
    operation.add(arrays.forward, {SRC: x, WEIGHTS: kernel, BIAS: bias, DST: out})
    return operation


@Kernel
def _convolution_input_gradient(library, shapes, padding):
    out, kernel, x = shapes
    arrays = _Convolution(library, x, kernel, out, padding)
    description = library.new(
        "convolution_backward_data_primitive_desc_create", library.engine, onednn.DIRECT, arrays.x,
        arrays.any_kernel, arrays.out, *arrays.geometry, arrays.forward, None,
    )  # fmt: skip
    operation = Operation(library, arrays.out, arrays.kernel, arrays.x)
    out, kernel, x = operation.views
    kernel = arrays.reordered(library, operation, kernel, description)
    operation.add(description, {DST | GRADIENT: out, WEIGHTS: kernel, SRC | GRADIENT: x})
    return operation


@Kernel
def _convolution_kernel_gradient(library, shapes, padding):
    x, out, kernel, _ = shapes
    arrays = _Convolution(library, x, kernel, out, padding)
    description = library.new(
        "convolution_backward_weights_primitive_desc_create", library.engine, onednn.DIRECT,
        arrays.x, arrays.any_kernel, arrays.bias, arrays.out, *arrays.geometry, arrays.forward,
        None,
    )  # fmt: skip
    operation = Operation(library, arrays.x, arrays.out, arrays.kernel, arrays.bias)
    x, out, kernel, bias = operation.views
    chosen = library.chosen(description, onednn.KERNEL_GRADIENT_LAYOUT)
    copy = operation.temporary(chosen)
    operation.add(
        description,
        {SRC: x, DST | GRADIENT: out, WEIGHTS | GRADIENT: copy, BIAS | GRADIENT: bias},
    )
    operation.add_copy(copy, chosen, kernel, arrays.kernel)
    return operation


# Linear layers: x [N,D], kernel [D,F].


def linear_fits(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether `linear` takes these and is worth it."""
    rows, (d, f) = math.prod(x.shape[:-1]), kernel.shape
    if 2 * rows * d * f < LEAST_FLOPS or not onednn.usable(x, kernel):
        return False
    x, out = (rows, d), (rows, f)
    return (
        _linear.is_fast(x, (d, f), (f,), out)
        and _linear_input_gradient.is_fast(out, (d, f), x)
        and _linear_kernel_gradient.is_fast(x, out, (d, f), (f,))
    )


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., D] @ kernel [D,F] + bias [F] -> [..., F]."""
    rows = x.reshape(-1, x.shape[-1])
    return _linear_of_rows(rows, kernel, bias).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def _linear_of_rows(x, kernel, bias):
    out = jax.ShapeDtypeStruct((x.shape[0], kernel.shape[1]), x.dtype)
    return _linear(out, x, kernel, bias)


def _linear_forward(x, kernel, bias):
    return _linear_of_rows(x, kernel, bias), (x, kernel)


def _linear_backward(residuals, gradient):
    x, kernel = residuals
    bias = jax.ShapeDtypeStruct(kernel.shape[1:], kernel.dtype)
    for_x = _linear_input_gradient(_like(x), gradient, kernel)
    return for_x, *_linear_kernel_gradient((_like(kernel), bias), x, gradient)


_linear_of_rows.defvjp(_linear_forward, _linear_backward)


@Kernel
def _linear(library, shapes):
    x, kernel, bias, out = shapes
    layouts = [library.layout(shape) for shape in (x, kernel, (1, *bias), out)]
    operation = Operation(library, *layouts)
    description = library.matmul(layouts[0], layouts[1], layouts[3], bias=layouts[2])
    operation.add(
        description, dict(zip((SRC, WEIGHTS, BIAS, DST), operation.views, strict=True))
    )  # fmt: skip
    return operation


@Kernel
def _linear_input_gradient(library, shapes):
    out, kernel, x = shapes
    layouts = library.layout(out), library.layout(kernel, (1, 0)), library.layout(x)
    operation = Operation(library, *layouts)
    arguments = dict(zip((SRC, WEIGHTS, DST), operation.views, strict=True))
    operation.add(library.matmul(*layouts), arguments)
    return operation


@Kernel
def _linear_kernel_gradient(library, shapes):
    x, out, kernel, bias = shapes
    x, out, bias = library.layout(x), library.layout(out), library.layout(bias)
    kernel = library.layout(kernel, (1, 0))
    kind = "inner_product_forward_primitive_desc_create"
    hint = library.new(kind, library.engine, onednn.TRAINING, x, kernel, bias, out, None)
    kind = "inner_product_backward_weights_primitive_desc_create"
    description = library.new(kind, library.engine, x, kernel, bias, out, hint, None)
    operation = Operation(library, x, out, kernel, bias)
    kinds = SRC, DST | GRADIENT, WEIGHTS | GRADIENT, BIAS | GRADIENT
    operation.add(description, dict(zip(kinds, operation.views, strict=True)))
    return operation


# Layer norm over the last axis of x [N,D].

_SCALE, _BIAS, _MEAN, _VARIANCE = 51, 52, 49, 50
_SCALE_GRADIENT, _BIAS_GRADIENT, _WITH_BOTH, _BACKWARD = 255, 256, 2 | 4, 128


def layer_norm_fits(x: jax.Array) -> bool:
    """Whether `layer_norm` takes this and is worth it."""
    return 8 * x.size >= LEAST_FLOPS / 8 and onednn.usable(x)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm of x [..., D] over its last axis."""
    return _layer_norm_of_rows(x.reshape(-1, x.shape[-1]), scale, bias, epsilon).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm_of_rows(x, scale, bias, epsilon):
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    statistic = jax.ShapeDtypeStruct(x.shape[:1], x.dtype)
    results = _like(x), statistic, statistic
    y, mean, variance = _normalise(results, x, scale, bias, epsilon=_as_integer(epsilon))
    return y, (x, scale, bias, mean, variance)


def _layer_norm_backward(epsilon, residuals, gradient):
    x, scale, bias, *_ = residuals
    results = _like(x), _like(scale), _like(bias)
    return _normalise_gradient(results, *residuals, gradient, epsilon=_as_integer(epsilon))


_layer_norm_of_rows.defvjp(_layer_norm_forward, _layer_norm_backward)


def _as_integer(number: float) -> int:
    """The bits of a float, because a call's attributes are integers."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


class _LayerNorm:
    """Layouts of a layer norm's arrays."""

    def __init__(self, library, x, epsilon: int):
        self.x, self.statistic, self.vector = map(library.layout, (x, x[:1], x[1:]))
        number = ctypes.c_float(struct.unpack("<d", struct.pack("<q", epsilon))[0])
        self.rest = self.statistic, number, _WITH_BOTH
        self.forward = library.new(
            "layer_normalization_forward_primitive_desc_create", library.engine, onednn.TRAINING,
            self.x, self.x, *self.rest, None,
        )  # fmt: skip


@Kernel
def _normalise(library, shapes, epsilon):
    arrays = _LayerNorm(library, shapes[0], epsilon)
    vector, statistic = arrays.vector, arrays.statistic
    operation = Operation(library, arrays.x, vector, vector, arrays.x, statistic, statistic)
    kinds = SRC, _SCALE, _BIAS, DST, _MEAN, _VARIANCE
    operation.add(arrays.forward, dict(zip(kinds, operation.views, strict=True)))
    return operation


@Kernel
def _normalise_gradient(library, shapes, epsilon):
    arrays = _LayerNorm(library, shapes[0], epsilon)
    description = library.new(
        "layer_normalization_backward_primitive_desc_create", library.engine, _BACKWARD,
        arrays.x, arrays.x, arrays.x, *arrays.rest, arrays.forward, None,
    )  # fmt: skip
    x, vector, statistic = arrays.x, arrays.vector, arrays.statistic
    operation = Operation(
        library, x, vector, vector, statistic, statistic, x, x, vector, vector
    )  # fmt: skip
    kinds = (
        SRC, _SCALE, _BIAS, _MEAN, _VARIANCE, DST | GRADIENT, SRC | GRADIENT,
        _SCALE_GRADIENT, _BIAS_GRADIENT,
    )  # fmt: skip
    operation.add(description, dict(zip(kinds, operation.views, strict=True)))
    return operation


# Attention: queries, keys and values lie together in [B,T,3,h,d], or apart in [B,T,h,d] each.


def attention_fits(*parts: jax.Array | jax.ShapeDtypeStruct) -> bool:
    """Whether `attention` takes these and is worth it."""
    out, maps = _results_of_attention(parts)
    if 4 * math.prod(maps.shape) * out.shape[-1] < LEAST_FLOPS or not onednn.usable(*parts):
        return False
    shapes = [part.shape for part in parts]
    out, maps, count = out.shape, maps.shape, len(parts)
    return _attention.is_fast(*shapes, maps, out, maps, maps, parts=count) and (
        _attention_gradient.is_fast(*shapes, maps, maps, out, maps, *shapes, parts=count)
    )


def _results_of_attention(parts):
    """Shapes of the output [B,Q,h,d] and of the maps [B,h,Q,K]."""
    b, queries, *_, h, d = parts[0].shape
    out = jax.ShapeDtypeStruct((b, queries, h, d), parts[0].dtype)
    return out, jax.ShapeDtypeStruct((b, h, queries, parts[-1].shape[1]), parts[0].dtype)


@jax.custom_vjp
def attention(parts: tuple[jax.Array, ...], keep: jax.Array | None) -> jax.Array:
    """Dot-product attention with scores that are not scaled.

    Args:
      parts: (qkv [B,T,3,h,d],), or (q [B,Q,h,d], k [B,K,h,d], v [B,K,h,d]).
      keep: factors of the attention weights [B,h,Q,K] for dropout, or None.

    Returns:
      [B,Q,h,d].
    """
    return _attention_forward(parts, keep)[0]


def _attention_forward(parts, keep):
    out, maps = _results_of_attention(parts)
    if keep is None:
        y, weights = _attention((out, maps), *parts, parts=len(parts))
        return y, (parts, weights, weights, ())
    y, weights, dropped = _attention((out, maps, maps), *parts, keep, parts=len(parts))
    return y, (parts, weights, dropped, (keep,))


def _attention_backward(residuals, gradient):
    parts, weights, dropped, keep = residuals
    results = tuple(map(_like, parts))
    args = *parts, weights, dropped, gradient, *keep
    return tuple(_attention_gradient(results, *args, parts=len(parts))), None


attention.defvjp(_attention_forward, _attention_backward)


class _Attention:
    """Layouts of an attention's arrays, as stacks [B,h] of matrices."""

    def __init__(self, library, parts: tuple):
        (b, queries, *_, h, d), keys = parts[0], parts[-1][1]
        self._library, self._packed, self._width = library, len(parts) == 1, h * d
        between = (3 if self._packed else 1) * h * d
        self.q, _ = self._stack(b, queries, h, d, between)
        self.kv, self.kv_transposed = self._stack(b, keys, h, d, between)
        self.out, _ = self._stack(b, queries, h, d, h * d)
        self.maps = library.layout((b, h, queries, keys))
        self.maps_transposed = library.layout((b, h, queries, keys), (0, 1, 3, 2))

    def _stack(self, b, rows, h, d, between):
        lie = {"strides": (rows * between, d, between, 1)}
        shape, transposed = (b, h, rows, d), (0, 1, 3, 2)
        return (
            self._library.layout(shape, range(4), **lie),
            self._library.layout(shape, transposed, **lie),
        )

    def views(self, first: int, *layouts):
        """Views of queries, keys and values whose buffers begin with number `first`."""
        for i, layout in enumerate(layouts):
            yield (layout, first, i * self._width) if self._packed else (layout, first + i, 0)

    def softmax(self):
        """Describe the softmax of the scores."""
        return self._library.new(
            "softmax_forward_primitive_desc_create", self._library.engine, onednn.TRAINING,
            onednn.SOFTMAX, self.maps, self.maps, 3, None,
        )  # fmt: skip

    def softmax_gradient(self):
        """Describe the softmax's gradient."""
        return self._library.new(
            "softmax_backward_primitive_desc_create", self._library.engine, onednn.SOFTMAX,
            self.maps, self.maps, self.maps, 3, self.softmax(), None,
        )  # fmt: skip


@Kernel
def _attention(library, shapes, parts):
    lie = _Attention(library, shapes[:parts])
    rest = [lie.out, lie.maps]
    if len(shapes) - parts == 4:  # with dropout
        rest = [lie.maps, *rest, lie.maps]
    operation = Operation(
        library, *lie.views(0, lie.q, lie.kv_transposed, lie.kv),
        *((layout, parts + i, 0) for i, layout in enumerate(rest)),
    )  # fmt: skip
    q, k, v, *rest = operation.views
    *keep, out, weights, dropped = [*rest, rest[-1]] if len(rest) == 2 else rest
    operation.add(
        library.matmul(lie.q, lie.kv_transposed, lie.maps), {SRC: q, WEIGHTS: k, DST: weights}
    )
    operation.add(lie.softmax(), {SRC: weights, DST: weights})
    if keep:
        kind = "binary_primitive_desc_create"
        three = lie.maps, lie.maps, lie.maps
        product = library.new(kind, library.engine, onednn.MULTIPLY, *three, None)
        operation.add(product, {SRC: weights, SRC + 1: keep[0], DST: dropped})
    operation.add(
        library.matmul(lie.maps, lie.kv, lie.out), {SRC: dropped, WEIGHTS: v, DST: out}
    )  # fmt: skip
    return operation


@Kernel
def _attention_gradient(library, shapes, parts):
    lie = _Attention(library, shapes[:parts])
    has_keep = len(shapes) - 2 * parts == 4
    rest = [lie.maps, lie.maps_transposed, lie.out, *[lie.maps] * has_keep]
    operation = Operation(
        library, *lie.views(0, lie.q, lie.kv, lie.kv_transposed),
        *((layout, parts + i, 0) for i, layout in enumerate(rest)),
        *lie.views(parts + len(rest), lie.q, lie.kv, lie.kv),
    )  # fmt: skip
    q, k, v, weights, dropped, y, *keep, for_q, for_k, for_v = operation.views
    inner = operation.temporary(lie.maps)
    for_weights = library.matmul(
        lie.out, lie.kv_transposed, lie.maps, factor=lie.maps if keep else None
    )
    factor = {onednn.FACTOR: keep[0]} if keep else {}
    operation.add(for_weights, {SRC: y, WEIGHTS: v, DST: inner} | factor)
    operation.add(
        lie.softmax_gradient(), {DST: weights, DST | GRADIENT: inner, SRC | GRADIENT: inner}
    )
    operation.add(
        library.matmul(lie.maps, lie.kv, lie.q), {SRC: inner, WEIGHTS: k, DST: for_q}
    )  # fmt: skip
    operation.add(
        library.matmul(lie.maps_transposed, lie.q, lie.kv), {SRC: inner, WEIGHTS: q, DST: for_k}
    )
    operation.add(
        library.matmul(lie.maps_transposed, lie.out, lie.kv), {SRC: dropped, WEIGHTS: y, DST: for_v}
    )
    return operation
