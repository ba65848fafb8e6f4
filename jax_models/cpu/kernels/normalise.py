"""Layer norm of x [N,D] over the last axis, batch norm of x [B,H,W,C] over the others.

All but x and what it becomes is float32.
"""

import ctypes
import functools
import struct

import jax
import jax.numpy as jnp

from jax_models.cpu import onednn
from jax_models.cpu.onednn import DST, GRADIENT, SRC, Kernel, Operation

_MAPS = 0, 3, 1, 2  # (B,C,H,W) lies as [B,H,W,C]
_SCALE, _BIAS, _MEAN, _VARIANCE = 51, 52, 49, 50
_SCALE_GRADIENT, _BIAS_GRADIENT, _WITH_BOTH, _BACKWARD = 255, 256, 2 | 4, 128


def layer_norm_fits(x: jax.Array) -> bool:
    """Whether `layer_norm` takes this and is worth it."""
    return onednn.worth(64 * x.size, x)  # as long as so many operations of a product


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm of x [..., D] over its last axis."""
    rows, (scale, bias) = x.reshape(-1, x.shape[-1]), (a.astype(jnp.float32) for a in (scale, bias))
    return _layer_norm_of_rows(rows, scale, bias, epsilon).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm_of_rows(x, scale, bias, epsilon):
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    statistic = jax.ShapeDtypeStruct(x.shape[:1], jnp.float32)
    number = _as_integer(epsilon)
    y, *statistics = _normalise((x, statistic, statistic), x, scale, bias, epsilon=number)
    return y, (x, scale, bias, *statistics)


def _layer_norm_backward(epsilon, residuals, gradient):
    number = _as_integer(epsilon)
    return tuple(_normalise_gradient(residuals[:3], *residuals, gradient, epsilon=number))


_layer_norm_of_rows.defvjp(_layer_norm_forward, _layer_norm_backward)


def batch_norm_fits(x: jax.Array) -> bool:
    """Whether `batch_norm` takes this and is worth it."""
    if x.ndim != 4 or not onednn.worth(64 * x.size, x):
        return False
    each, two = x.shape[-1:], [x.shape[-1:]] * 2
    return _normalise.is_fast(
        x.dtype, x.shape, *two, x.shape, *two, epsilon=0
    ) and _normalise_gradient.is_fast(
        x.dtype, x.shape, *two, *two, x.shape, x.shape, each, each, epsilon=0
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `functions.batch_norm`, of x [B,H,W,C]."""
    return _batch_norm_forward(x, scale, bias, epsilon)[0]


def _batch_norm_forward(x, scale, bias, epsilon):
    statistic = jax.ShapeDtypeStruct(x.shape[-1:], jnp.float32)
    number = _as_integer(epsilon)
    y, *statistics = _normalise((x, statistic, statistic), x, scale, bias, epsilon=number)
    return (y, *statistics), (x, scale, bias, *statistics)


def _batch_norm_backward(epsilon, residuals, gradients):
    return _layer_norm_backward(epsilon, residuals, gradients[0])


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _as_integer(number: float) -> int:
    """The bits of a float, because a call's attributes are integers."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


class _Norm:
    """An operation on arrays of these shapes, and the primitive by the first one's rank."""

    def __init__(self, library, shapes, epsilon: int):
        layouts = [_layout(library, shape) for shape in shapes]
        self.operation, self.x = Operation(library, *layouts), layouts[0]
        self.rest = ctypes.c_float(struct.unpack("<d", struct.pack("<q", epsilon))[0]), _WITH_BOTH
        self.kind, self.of_layers = "batch_normalization", len(shapes[0]) == 2
        if self.of_layers:
            statistic = _layout(library, shapes[0][:1])
            self.kind, self.rest = "layer_normalization", (statistic, *self.rest)
        kind = f"{self.kind}_forward", onednn.TRAINING
        self.forward = library.describe(*kind, self.x, self.x, *self.rest)

    def add(self, description, *kinds: int | None) -> Operation:
        """Add the primitive, each view as its kind; None for one that it does not take."""
        views = dict(zip(kinds, self.operation.views, strict=True))
        views.pop(None, None)
        self.operation.add(description, views)
        return self.operation


def _layout(library, shape):
    if len(shape) == 1:
        return library.layout(shape, kind=onednn.FLOAT32)
    return library.layout(shape, _MAPS if len(shape) == 4 else None)


@Kernel
def _normalise(library, shapes, epsilon):
    norm = _Norm(library, shapes, epsilon)
    return norm.add(norm.forward, SRC, _SCALE, _BIAS, DST, _MEAN, _VARIANCE)


@Kernel
def _normalise_gradient(library, shapes, epsilon):
    norm = _Norm(library, shapes, epsilon)
    kind, layouts = (f"{norm.kind}_backward", _BACKWARD), (norm.x,) * 3
    description = library.describe(*kind, *layouts, *norm.rest, norm.forward)
    bias = _BIAS if norm.of_layers else None
    gradients = DST | GRADIENT, SRC | GRADIENT, _SCALE_GRADIENT, _BIAS_GRADIENT
    return norm.add(description, SRC, _SCALE, bias, _MEAN, _VARIANCE, *gradients)
