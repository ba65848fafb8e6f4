"""The gradient of 3×3 max-pooling with stride 2 and one pixel of padding, of x [B,H,W,C]."""

import functools

import jax

from jax_models.cpu import functions, onednn
from jax_models.cpu.onednn import DST, GRADIENT, MAPS, SRC, WORKSPACE, Kernel, Operation

_MAX = 0x1FF


def max_pool3x3_fits(x: jax.Array) -> bool:
    """Whether `max_pool3x3` takes this and is worth it."""
    if not onednn.worth(64 * x.size, x):  # as long as so many operations of a product
        return False
    out = jax.eval_shape(functions.max_pool3x3, x).shape
    return _spread.is_fast(x.dtype, out, out, x.shape)


def max_pool3x3(x: jax.Array) -> jax.Array:
    """As `functions.max_pool3x3`; by oneDNN is only the gradient, whose maxima lose NaN."""
    return _max_pool3x3(x, x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool3x3(x, shape):
    return functions.max_pool3x3(x)


def _backward(shape, place, gradient):
    return (_spread(jax.ShapeDtypeStruct(shape, gradient.dtype), place, gradient),)


_max_pool3x3.defvjp(lambda x, _: functions.largest_of_nine(x), _backward)


@Kernel
def _spread(library, shapes):
    """Give each window's gradient to its place, the number of one of its nine pixels."""
    place, out, x = shapes
    small = library.layout(place, MAPS, kind=onednn.UINT8)
    views = small, *(library.layout(shape, MAPS) for shape in (out, x))
    operation = Operation(library, *views)
    (layout, small, whole), (place, out, x) = views, operation.views
    strides, sizes, none, sides = (onednn.longs(n, n) for n in (2, 3, 0, 1))
    arrays = whole, small, strides, sizes, none, sides, sides
    forward = library.describe("pooling_forward", onednn.TRAINING, _MAX, *arrays)
    backward = library.describe("pooling_backward", _MAX, *arrays, forward)
    operation.add(backward, {DST | GRADIENT: out, WORKSPACE: place, SRC | GRADIENT: x})
    operation.is_fast &= library.same(layout, library.chosen(forward, onednn.WORKSPACE_LAYOUT))
    return operation
