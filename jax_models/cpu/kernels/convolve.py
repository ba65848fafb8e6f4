"""Convolutions: x [B,H,W,C], kernel [kh,kw,C/groups,D]."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_models.cpu import onednn
from jax_models.cpu.kernels.project import linear
from jax_models.cpu.onednn import BIAS, DST, GRADIENT, MAPS, SRC, WEIGHTS, Kernel, Operation

# Which axis in memory each axis of oneDNN's is: (D,C,kh,kw) lies as [kh,kw,C,D], and in groups
# (groups,D,C,kh,kw) as [kh,kw,C,groups,D].
_KERNEL, _GROUPS = (3, 2, 0, 1), (3, 4, 2, 0, 1)


class _Geometry(NamedTuple):
    """How a kernel goes over a map; the fields by the order of their names, as in a call."""

    groups: int
    padding: int
    stride: int

    def convolved(self, x: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the result."""
        sides = zip(x[1:3], kernel[:2], strict=True)
        places = ((side + 2 * self.padding - k) // self.stride + 1 for side, k in sides)
        h, w = (max(0, count) for count in places)
        return x[0], h, w, kernel[-1]


def convolution_fits(
    x: jax.Array, kernel: jax.Array, padding: int, stride: int = 1, groups: int = 1
) -> bool:
    """Whether `convolution` takes these and is worth it."""
    how = _Geometry(groups, padding, stride)
    out = how.convolved(x.shape, kernel.shape)
    # XLA works the gradient of one in groups out as of a dense one.
    dense = 2 * math.prod(kernel.shape) * math.prod(out[:3]) * groups
    if not onednn.worth(dense, x, kernel):
        return False
    dtype, x, kernel, how = x.dtype, x.shape, kernel.shape, how._asdict()
    return (
        _convolve.is_fast(dtype, x, kernel, out, **how)
        and _convolution_input_gradient.is_fast(dtype, out, kernel, x, **how)
        and _convolution_kernel_gradient.is_fast(dtype, x, out, kernel, **how)
    )


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    padding: int,
    stride: int = 1,
    groups: int = 1,
) -> jax.Array:
    """x [B,H,W,C], kernel [kh,kw,C/groups,D], bias [D] or None -> [B,H',W',D].

    Padding are zero pixels on each side.
    """
    how = _Geometry(groups, padding, stride)
    if _is_product(x.shape, kernel.shape, how):
        bias = jnp.zeros(kernel.shape[-1], kernel.dtype) if bias is None else bias
        return linear(x, (kernel[0, 0],), (bias,))[0]
    weights = (kernel,) if bias is None else (kernel, bias)
    return _convolution(x, weights, how, x.shape)


def _is_product(x: tuple[int, ...], kernel: tuple[int, ...], how: _Geometry) -> bool:
    """Whether this is a product of matrices, and the larger of them is the kernel.

    A convolution would first put it, and its gradient, into an order of its own.
    """
    places = math.prod(x[:3])
    return kernel[:2] == (1, 1) and how == (1, 0, 1) and places < max(kernel[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x, weights, how, shape):
    out = jax.ShapeDtypeStruct(how.convolved(shape, weights[0].shape), x.dtype)
    return _convolve(out, x, *weights, **how._asdict())


def _convolution_forward(x, weights, how, shape):
    x, (kernel,), others, kernel_trains = onednn.trained(x, weights[:1], weights[1:])
    weights = (kernel, *others)
    return _convolution(x, weights, how, shape), (x if kernel_trains else None, weights)


def _convolution_backward(how, shape, residuals, gradient):
    (x, weights), how = residuals, how._asdict()
    (gradient,) = onednn.instantiated((gradient,))
    like_x = jax.ShapeDtypeStruct(shape, gradient.dtype)
    for_x = _convolution_input_gradient(like_x, gradient, weights[0], **how)
    if x is not None and how["groups"] == 1:
        return for_x, tuple(_convolution_kernel_gradient(weights, x, gradient, **how))
    # The work for a frozen kernel would be done for the bias's sake; in groups the library takes a
    # fifth of the time for the bias.
    kernel = (None,) if x is None else _convolution_kernel_gradient(weights[:1], x, gradient, **how)
    return for_x, (*kernel, *(gradient.sum((0, 1, 2)) for _ in weights[1:]))


_convolution.defvjp(_convolution_forward, _convolution_backward, symbolic_zeros=True)


def affine_fits(
    x: jax.Array, kernel: jax.Array, padding: int, stride: int = 1, groups: int = 1
) -> bool:
    """Whether `convolution_affine` takes these and is worth it."""
    how = _Geometry(groups, padding, stride)
    out = how.convolved(x.shape, kernel.shape)
    if _is_product(x.shape, kernel.shape, how):
        return False
    if not convolution_fits(x, kernel, padding, stride, groups):
        return False
    each, how = kernel.shape[-1:], how._asdict()
    shapes = x.shape, kernel.shape, each, each, out, out
    return _convolve_affine.is_fast(x.dtype, *shapes, **how, relu=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def convolution_affine(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array,
    offset: jax.Array,
    added: jax.Array | None,
    how: tuple[int, int, int],
    relu: bool,
) -> jax.Array:
    """The convolution, times scale [D], plus offset [D], plus what is `added`, then ReLU.

    x [B,H,W,C], kernel [kh,kw,C/groups,D] -> [B,H',W',D], which is the shape of what is added;
    scale and offset are float32. `how` are padding, stride and groups.
    """
    padding, stride, groups = how
    how = _Geometry(groups, padding, stride)
    out = jax.ShapeDtypeStruct(how.convolved(x.shape, kernel.shape), x.dtype)
    arrays = (x, kernel, scale, offset) + (() if added is None else (added,))
    return _convolve_affine(out, *arrays, **how._asdict(), relu=relu)


def _affine_forward(x, kernel, scale, offset, added, how, relu):
    """Where a gradient is wanted, step by step."""

    def in_steps(x, kernel, scale, offset, added):
        y = convolution(x, kernel, None, *how) * scale + offset
        y = y if added is None else y + added
        return (jax.nn.relu(y) if relu else y).astype(x.dtype)

    return jax.vjp(in_steps, x, kernel, scale, offset, added)


convolution_affine.defvjp(
    _affine_forward, lambda _how, _relu, gradient_of, gradient: gradient_of(gradient)
)


class _Convolution:
    """Layouts of a convolution's arrays; `any_kernel` leaves the kernel's to the library."""

    def __init__(self, library, x, kernel, out, bias, how: _Geometry):
        self.x, self.out = library.layout(x, MAPS), library.layout(out, MAPS)
        self.bias = library.layout(kernel[-1:]) if bias else None
        order = _KERNEL
        if how.groups > 1:
            kernel, order = (*kernel[:3], how.groups, kernel[3] // how.groups), _GROUPS
        self.kernel = library.layout(kernel, order)
        self.any_kernel = library.layout(kernel, order, fixed=False)
        strides, sides = onednn.longs(how.stride, how.stride), onednn.longs(*(how.padding,) * 2)
        self.geometry = strides, onednn.longs(0, 0), sides, sides  # the second is dilation
        kind = "convolution_forward", onednn.TRAINING, onednn.DIRECT
        arrays = self.x, self.any_kernel, self.bias, self.out
        self.describe = functools.partial(library.describe, *kind, *arrays, *self.geometry)
        self.forward = self.describe()


@Kernel
def _convolve(library, shapes, *how):
    x, kernel, *bias, out = shapes
    arrays = _Convolution(library, x, kernel, out, bias, _Geometry(*how))
    layouts = [arrays.bias] if bias else []
    operation = Operation(library, arrays.x, arrays.kernel, *layouts, arrays.out)
    x, kernel, *bias, out = operation.views
    kernel = operation.lying(kernel, library.chosen(arrays.forward, onednn.KERNEL_LAYOUT))
    others = {BIAS: bias[0]} if bias else {}
    operation.add(arrays.forward, {SRC: x, WEIGHTS: kernel, DST: out} | others)
    return operation


@Kernel
def _convolve_affine(library, shapes, *how):
    """As `_convolve`, and what comes after it; `how` by the order of the names: relu is third."""
    x, kernel, *each, out = shapes
    groups, padding, relu, stride = how
    arrays = _Convolution(library, x, kernel, out, False, _Geometry(groups, padding, stride))
    row = library.layout((1, 1, 1, out[-1]), MAPS, kind=onednn.FLOAT32)
    layouts = [row, row, *[arrays.out] * (len(each) - 2)]
    operation = Operation(library, arrays.x, arrays.kernel, *layouts, arrays.out)
    x, kernel, scale, *plus, out = operation.views
    after, views = operation.after(times=scale, plus=plus, relu=bool(relu))
    description = arrays.describe(after=after)
    kernel = operation.lying(kernel, library.chosen(description, onednn.KERNEL_LAYOUT))
    operation.add(description, {SRC: x, WEIGHTS: kernel, DST: out} | views)
    return operation


@Kernel
def _convolution_input_gradient(library, shapes, *how):
    out, kernel, x = shapes
    arrays = _Convolution(library, x, kernel, out, True, _Geometry(*how))
    kind, layouts = "convolution_backward_data", (arrays.x, arrays.any_kernel, arrays.out)
    rest = *arrays.geometry, arrays.forward
    description = library.describe(kind, onednn.DIRECT, *layouts, *rest)
    operation = Operation(library, arrays.out, arrays.kernel, arrays.x)
    out, kernel, x = operation.views
    kernel = operation.lying(kernel, library.chosen(description, onednn.KERNEL_LAYOUT))
    operation.add(description, {DST | GRADIENT: out, WEIGHTS: kernel, SRC | GRADIENT: x})
    return operation


@Kernel
def _convolution_kernel_gradient(library, shapes, *how):
    (x, out, kernel, *bias), how = shapes, _Geometry(*how)
    given = _Convolution(library, x, kernel, out, bias, how)
    operation = Operation(library, given.x, given.out, given.kernel, *[given.bias] * len(bias))
    if how.groups > 1 and not bias:
        # The library's code for bfloat16 takes half as long again as that for float32.
        library = library.of(onednn.FLOAT32)
    arrays = _Convolution(library, x, kernel, out, bias, how)
    kind, rest = "convolution_backward_weights", (*arrays.geometry, arrays.forward)
    layouts = arrays.x, arrays.any_kernel, arrays.bias, arrays.out
    description = library.describe(kind, onednn.DIRECT, *layouts, *rest)
    x, out, kernel, *bias = operation.views
    x, out = operation.lying(x, arrays.x), operation.lying(out, arrays.out)
    copy = operation.temporary(library.chosen(description, onednn.KERNEL_GRADIENT_LAYOUT))
    results = {WEIGHTS | GRADIENT: copy} | ({BIAS | GRADIENT: bias[0]} if bias else {})
    operation.add(description, {SRC: x, DST | GRADIENT: out} | results)
    operation.copy(copy, kernel)
    return operation
