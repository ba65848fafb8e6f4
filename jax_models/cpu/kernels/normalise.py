"""Layer norm of x [N,D] over the last axis, batch norm of x [B,H,W,C] over the others.

All but x and what it becomes is float32.
"""

import ctypes
import functools
import struct

import jax
import jax.numpy as jnp

from jax_models.cpu import onednn
from jax_models.cpu.onednn import DST, GRADIENT, MAPS, SRC, Kernel, Operation, View

_SCALE, _BIAS, _MEAN, _VARIANCE = 51, 52, 49, 50
_SCALE_GRADIENT, _BIAS_GRADIENT, _BACKWARD = 255, 256, 128
_WITH_BOTH, _WITH_RELU = 2 | 4, 8


def layer_norm_fits(x: jax.Array) -> bool:
    """Whether `layer_norm` takes this and is worth it."""
    return onednn.worth(64 * x.size, x)  # as long as so many operations of a product


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm of x [..., D] over its last axis."""
    rows, (scale, bias) = x.reshape(-1, x.shape[-1]), (a.astype(jnp.float32) for a in (scale, bias))
    return _normed(rows, scale, bias, epsilon, False)[0].reshape(x.shape)


def batch_norm_fits(x: jax.Array) -> bool:
    """Whether `batch_norm` takes this and is worth it."""
    if x.ndim != 4 or not onednn.worth(64 * x.size, x):
        return False
    each, two = x.shape[-1:], [x.shape[-1:]] * 2
    how = {"epsilon": 0, "relu": False}
    return _normalise.is_fast(
        x.dtype, x.shape, *two, x.shape, *two, **how
    ) and _normalise_gradient.is_fast(
        x.dtype, x.shape, *two, *two, x.shape, x.shape, each, each, **how
    )


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `functions.batch_norm`, of x [B,H,W,C]; with `relu` the first is ReLU of that.

    NaN then stays in the first pixel of a channel alone.
    """
    return _normed(x, scale, bias, epsilon, relu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normed(x, scale, bias, epsilon, relu):
    """(y, mean, variance)."""
    return _forward(x, scale, bias, epsilon, relu)[0]


def _forward(x, scale, bias, epsilon, relu):
    size = x.shape[:1] if x.ndim == 2 else x.shape[-1:]
    outs = [x, *[jax.ShapeDtypeStruct(size, jnp.float32)] * 2]
    if relu:
        outs.append(jax.ShapeDtypeStruct((_signs(x.dtype, x.shape),), jnp.uint8))
    how = {"epsilon": _as_integer(epsilon), "relu": relu}
    y, mean, variance, *signs = _normalise(outs, x, scale, bias, **how)
    return (y, mean, variance), (x, scale, bias, mean, variance, *signs)


def _backward(epsilon, relu, residuals, gradients):
    how = {"epsilon": _as_integer(epsilon), "relu": relu}
    arrays, signs = residuals[:5], residuals[5:]
    return tuple(_normalise_gradient(residuals[:3], *arrays, gradients[0], *signs, **how))


_normed.defvjp(_forward, _backward)


def _as_integer(number: float) -> int:
    """The bits of a float, because a call's attributes are integers."""
    return struct.unpack("<q", struct.pack("<d", number))[0]


class _Norm:
    """How arrays of a shape are normalised, by their rank over layers or over a batch."""

    def __init__(self, library, shape, epsilon: int, relu: int):
        self.library, self.x = library, _layout(library, shape)
        number = ctypes.c_float(struct.unpack("<d", struct.pack("<q", epsilon))[0])
        self.rest = number, _WITH_BOTH | _WITH_RELU * relu
        self.kind, self.of_layers = "batch_normalization", len(shape) == 2
        if self.of_layers:
            statistic = _layout(library, shape[:1])
            self.kind, self.rest = "layer_normalization", (statistic, *self.rest)
        kind = f"{self.kind}_forward", onednn.TRAINING
        self.forward = library.describe(*kind, self.x, self.x, *self.rest)
        self.signs = library.chosen(self.forward, onednn.WORKSPACE_LAYOUT) if relu else None

    def operation(self, shapes, *kinds: int | None) -> tuple[Operation, dict]:
        """An operation on arrays of these shapes, and their views by kind.

        None as a kind is for an array that the primitive does not take.
        """
        kinds = kinds[: len(shapes)]
        layouts = (
            self.signs if kind == onednn.WORKSPACE else _layout(self.library, shape)
            for kind, shape in zip(kinds, shapes, strict=True)
        )
        operation = Operation(self.library, *layouts)
        views = dict(zip(kinds, operation.views, strict=True))
        views.pop(None, None)
        return operation, views


def _layout(library, shape):
    if len(shape) == 1:
        return library.layout(shape, kind=onednn.FLOAT32)
    return library.layout(shape, MAPS if len(shape) == 4 else None)


@functools.cache
def _signs(dtype, shape) -> int:
    """Bytes of what the gradient of a ReLU is told of the values."""
    library = onednn.library().of_dtype(dtype)
    return library.size(_Norm(library, shape, 0, 1).signs)


@Kernel
def _normalise(library, shapes, epsilon, relu):
    norm = _Norm(library, shapes[0], epsilon, relu)
    kinds = SRC, _SCALE, _BIAS, DST, _MEAN, _VARIANCE, onednn.WORKSPACE
    operation, views = norm.operation(shapes, *kinds)
    operation.add(norm.forward, views)
    if relu:
        _keep_nan(library, operation, views, (1, 1, 1, shapes[0][-1]))
    return operation


def _keep_nan(library, operation, views, shape):
    """Add 0 times the mean to a batch's first pixel, as the library's ReLU makes 0 of NaN.

    Where one value is none, the mean is none, and all that are normalised by it.
    """
    mean = View(views[_MEAN].memory, library.layout(shape, MAPS, kind=onednn.FLOAT32))
    pixel = View(views[DST].memory, library.layout(shape, MAPS))
    operation.multiply(mean, operation.filled((1, 1, 1, 1), 0, onednn.FLOAT32), pixel, plus=[pixel])


@Kernel
def _normalise_gradient(library, shapes, epsilon, relu):
    norm = _Norm(library, shapes[0], epsilon, relu)
    kind, layouts = (f"{norm.kind}_backward", _BACKWARD), (norm.x,) * 3
    description = library.describe(*kind, *layouts, *norm.rest, norm.forward)
    bias = _BIAS if norm.of_layers else None
    signs = (onednn.WORKSPACE,) if relu else ()
    results = SRC | GRADIENT, _SCALE_GRADIENT, _BIAS_GRADIENT
    kinds = SRC, _SCALE, bias, _MEAN, _VARIANCE, DST | GRADIENT, *signs, *results
    operation, views = norm.operation(shapes, *kinds)
    operation.add(description, views)
    return operation
