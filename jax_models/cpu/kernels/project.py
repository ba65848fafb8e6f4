"""Linear layers: x [N,D], kernel [D,F]; several of one input in one call."""

import math

import jax

from jax_models.cpu import onednn
from jax_models.cpu.onednn import Kernel, Operation

# Gradients of wider kernels are worked out in parts: above it oneDNN's product is half as fast.
_WIDEST = 1536


def linear_fits(x: jax.Array, *kernels: jax.Array) -> bool:
    """Whether `linear` takes these and is worth it."""
    rows, d = math.prod(x.shape[:-1]), x.shape[-1]
    shapes = [kernel.shape for kernel in kernels]
    if not onednn.worth(2 * rows * d * sum(f for _, f in shapes), x, *kernels):
        return False
    dtype, outs, biases = x.dtype, [(rows, f) for _, f in shapes], [(f,) for _, f in shapes]
    return (
        _linear.is_fast(dtype, (rows, d), *shapes, *biases, *outs)
        and _input_gradient.is_fast(dtype, *outs, *shapes, (rows, d))
        and _kernel_gradient.is_fast(dtype, (rows, d), *outs, *shapes, *biases)
    )


def linear(
    x: jax.Array, kernels: tuple[jax.Array, ...], biases: tuple[jax.Array | None, ...]
) -> tuple[jax.Array, ...]:
    """x [..., D] @ kernel [D,F] + bias [F] -> [..., F], for each kernel and bias.

    Biases are all None where there are none.
    """
    biases = tuple(bias for bias in biases if bias is not None)
    outs = _linear_of_rows(x.reshape(-1, x.shape[-1]), kernels, biases)
    return tuple(out.reshape(*x.shape[:-1], -1) for out in outs)


@jax.custom_vjp
def _linear_of_rows(x, kernels, biases):
    outs = [jax.ShapeDtypeStruct((x.shape[0], kernel.shape[1]), x.dtype) for kernel in kernels]
    return tuple(_linear(outs, x, *kernels, *biases))


def _linear_forward(x, kernels, biases):
    x, kernels, biases, kernels_train = onednn.trained(x, kernels, biases)
    return _linear_of_rows(x, kernels, biases), (x if kernels_train else None, kernels, biases)


def _linear_backward(residuals, gradients):
    x, kernels, biases = residuals
    gradients = onednn.instantiated(gradients)
    rows = jax.ShapeDtypeStruct((len(gradients[0]), len(kernels[0])), kernels[0].dtype)
    for_x = _input_gradient(rows, *gradients, *kernels)
    if x is None:  # the product for frozen kernels would be worked out for the biases' sake
        sums = (gradient.sum(axis=0) for gradient in gradients)
        return for_x, None, tuple(sums) if biases else ()
    others = tuple(_kernel_gradient((*kernels, *biases), x, *gradients))
    return for_x, others[: len(kernels)], others[len(kernels) :]


_linear_of_rows.defvjp(_linear_forward, _linear_backward, symbolic_zeros=True)


def _groups(views, parts: int):
    """(kernel, bias, …) of each layer, from views of all kernels, then all biases, and so on."""
    return zip(*(views[i : i + parts] for i in range(0, len(views), parts)), strict=True)


def _kinds(shapes) -> int:
    """How many arrays a layer has: its kernel, its output and, if any, its bias."""
    return 3 if any(len(shape) == 1 for shape in shapes) else 2


@Kernel
def _linear(library, shapes):
    operation = Operation(library, *map(library.rows, shapes))
    x, *rest = operation.views
    for kernel, *bias, out in _groups(rest, len(rest) // _kinds(shapes)):
        operation.product(x, kernel, out, bias=bias[0] if bias else None)
    return operation


@Kernel
def _input_gradient(library, shapes):
    operation = Operation(library, *map(library.rows, shapes))
    *rest, x = operation.views
    for i, (out, kernel) in enumerate(_groups(rest, len(rest) // 2)):
        operation.product(out, library.turned(kernel), x, add=i > 0)
    return operation


@Kernel
def _kernel_gradient(library, shapes):
    ((rows, d), *rest), kinds = shapes, _kinds(shapes)
    views = [library.rows((rows, d))]
    for numbers in _groups(range(1, len(shapes)), len(rest) // kinds):  # of out, kernel, bias
        f = shapes[numbers[0]][1]
        for first in range(0, f, _WIDEST):
            width = min(_WIDEST, f - first)
            for height, number in zip((rows, d, 1)[:kinds], numbers, strict=True):
                layout = library.layout((height, width), strides=(f, 1))
                views.append((layout, number, library.bytes * first))
    operation = Operation(library, *views)
    x, *views = operation.views
    ones = operation.filled((1, rows), 1)
    for out, kernel, *bias in zip(*(views[kind::kinds] for kind in range(kinds)), strict=True):
        operation.product(library.turned(x), out, kernel)
        if bias:
            operation.product(ones, out, *bias)
    return operation
