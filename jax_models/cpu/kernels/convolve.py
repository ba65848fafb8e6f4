"""Convolutions: x [B,H,W,C], kernel [kh,kw,C,D], stride 1."""

import functools
import math

import jax

from jax_models.cpu import onednn
from jax_models.cpu.onednn import BIAS, DST, GRADIENT, SRC, WEIGHTS, Kernel, Operation

# Which axis in memory each axis of oneDNN's is: (B,C,H,W) lies as [B,H,W,C], (D,C,kh,kw) as
# [kh,kw,C,D].
_MAPS, _KERNEL = (0, 3, 1, 2), (3, 2, 0, 1)


def convolution_fits(x: jax.Array, kernel: jax.Array, padding: int) -> bool:
    """Whether `convolution` takes these and is worth it."""
    if not onednn.worth(2 * math.prod(kernel.shape) * math.prod(x.shape[:3]), x, kernel):
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
    for_x = _convolution_input_gradient(x, gradient, kernel, padding=padding)
    return for_x, *_convolution_kernel_gradient((kernel, bias), x, gradient, padding=padding)


convolution.defvjp(_convolution_forward, _convolution_backward)


class _Convolution:
    """Layouts of a convolution's arrays; `any_kernel` leaves the kernel's to the library."""

    def __init__(self, library, x, kernel, out, padding: int):
        self.x, self.out = library.layout(x, _MAPS), library.layout(out, _MAPS)
        self.kernel, self.bias = library.layout(kernel, _KERNEL), library.layout(kernel[-1:])
        self.any_kernel = library.layout(kernel, _KERNEL, fixed=False)
        sides = (onednn.longs(padding, padding),) * 2
        self.geometry = onednn.longs(1, 1), onednn.longs(0, 0), *sides  # strides, dilation, padding
        kind = "convolution_forward", onednn.TRAINING, onednn.DIRECT
        arrays = self.x, self.any_kernel, self.bias, self.out
        self.forward = library.describe(*kind, *arrays, *self.geometry)


def _reordered(library, operation, kernel, description):
    """The kernel in the layout a primitive chose: a copy that the operation makes first."""
    copy = operation.temporary(library.chosen(description, onednn.KERNEL_LAYOUT))
    operation.copy(kernel, copy)
    return copy


@Kernel
def _convolve(library, shapes, padding):
    x, kernel, _, out = shapes
    arrays = _Convolution(library, x, kernel, out, padding)
    operation = Operation(library, arrays.x, arrays.kernel, arrays.bias, arrays.out)
    x, kernel, bias, out = operation.views
    kernel = _reordered(library, operation, kernel, arrays.forward)
    operation.add(arrays.forward, {SRC: x, WEIGHTS: kernel, BIAS: bias, DST: out})
    return operation


@Kernel
def _convolution_input_gradient(library, shapes, padding):
    out, kernel, x = shapes
    arrays = _Convolution(library, x, kernel, out, padding)
    kind, layouts = "convolution_backward_data", (arrays.x, arrays.any_kernel, arrays.out)
    rest = *arrays.geometry, arrays.forward
    description = library.describe(kind, onednn.DIRECT, *layouts, *rest)
    operation = Operation(library, arrays.out, arrays.kernel, arrays.x)
    out, kernel, x = operation.views
    kernel = _reordered(library, operation, kernel, description)
    operation.add(description, {DST | GRADIENT: out, WEIGHTS: kernel, SRC | GRADIENT: x})
    return operation


@Kernel
def _convolution_kernel_gradient(library, shapes, padding):
    x, out, kernel, _ = shapes
    arrays = _Convolution(library, x, kernel, out, padding)
    kind, rest = "convolution_backward_weights", (*arrays.geometry, arrays.forward)
    layouts = arrays.x, arrays.any_kernel, arrays.bias, arrays.out
    description = library.describe(kind, onednn.DIRECT, *layouts, *rest)
    operation = Operation(library, arrays.x, arrays.out, arrays.kernel, arrays.bias)
    x, out, kernel, bias = operation.views
    copy = operation.temporary(library.chosen(description, onednn.KERNEL_GRADIENT_LAYOUT))
    results = {WEIGHTS | GRADIENT: copy, BIAS | GRADIENT: bias}
    operation.add(description, {SRC: x, DST | GRADIENT: out, **results})
    operation.copy(copy, kernel)
    return operation
