"""Layer norm over the last axis of x [N,D]; all but x and what it becomes is float32."""

import ctypes
import functools
import struct

import jax
import jax.numpy as jnp

from jax_models.cpu import onednn
from jax_models.cpu.onednn import DST, GRADIENT, SRC, Kernel, Operation

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


def _as_integer(number: float) -> int:
    """The bits of a float, because a call's attributes are integers."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


class _LayerNorm:
    """Layouts of a layer norm's arrays, and an operation on arrays of these shapes."""

    def __init__(self, library, shapes, epsilon: int):
        layouts = [_layout(library, shape) for shape in shapes]
        self.operation, self.x = Operation(library, *layouts), layouts[0]
        number = ctypes.c_float(struct.unpack("<d", struct.pack("<q", epsilon))[0])
        self.rest = _layout(library, shapes[0][:1]), number, _WITH_BOTH
        kind = "layer_normalization_forward", onednn.TRAINING
        self.forward = library.describe(*kind, self.x, self.x, *self.rest)


def _layout(library, shape):
    return library.layout(shape, kind=onednn.FLOAT32 if len(shape) == 1 else None)


@Kernel
def _normalise(library, shapes, epsilon):
    arrays = _LayerNorm(library, shapes, epsilon)
    kinds = SRC, _SCALE, _BIAS, DST, _MEAN, _VARIANCE
    arrays.operation.add(arrays.forward, dict(zip(kinds, arrays.operation.views, strict=True)))
    return arrays.operation


@Kernel
def _normalise_gradient(library, shapes, epsilon):
    arrays = _LayerNorm(library, shapes, epsilon)
    kind, layouts = ("layer_normalization_backward", _BACKWARD), (arrays.x,) * 3
    description = library.describe(*kind, *layouts, *arrays.rest, arrays.forward)
    gradients = DST | GRADIENT, SRC | GRADIENT, _SCALE_GRADIENT, _BIAS_GRADIENT
    kinds = SRC, _SCALE, _BIAS, _MEAN, _VARIANCE, *gradients
    arrays.operation.add(description, dict(zip(kinds, arrays.operation.views, strict=True)))
    return arrays.operation
