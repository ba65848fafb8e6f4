"""Functions with written gradients, in forms that XLA turns into few passes over memory on CPUs.

What is narrower than float32 is widened within them, and rounded once: XLA would round after each
operation, which takes longer than the operations do.
"""

import functools

import jax
import jax.numpy as jnp


def _widened(x):
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rounded(x, dtype):
    """x in another dtype; float32 becomes bfloat16 in whole numbers, in half of XLA's time."""
    if (x.dtype, dtype) != (jnp.float32, jnp.bfloat16):
        return x.astype(dtype)
    words = jax.lax.bitcast_convert_type(x, jnp.uint32)
    upper = words >> 16
    nearest = (words + 0x7FFF + (upper & 1)) >> 16  # to even, of two
    words = jnp.where(jnp.isnan(x), upper | 0x40, nearest)  # a NaN's only bits may be lower ones
    return jax.lax.bitcast_convert_type(words.astype(jnp.uint16), dtype)


@_rounded.defjvp
def _rounded_jvp(dtype, primals, tangents):
    return _rounded(*primals, dtype), tangents[0].astype(dtype)


# Exact GELU, x·Φ(x). XLA's own goes through erfc, which costs an exponential in each direction.


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, the erf form. Source: https://arxiv.org/abs/1606.08415."""
    wide = _widened(x)
    return _rounded(wide * _normal_cdf(wide), x.dtype)


def _normal_cdf(x):
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _gelu_backward(x, gradient):
    wide = _widened(x)
    density = jnp.exp(-0.5 * jnp.square(wide)) * (2 * jnp.pi) ** -0.5
    return (_rounded(_widened(gradient) * (_normal_cdf(wide) + wide * density), x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


# ReLU of bfloat16 as whole numbers, the upper half of which are of negative values: XLA would widen
# each to float32 and round it back.


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0) of bfloat16; NaN stays."""
    words = _words(x)
    negative = (words >= 0x8000) & (words <= 0xFF80)  # from -0 to -inf; beyond are NaNs
    return jax.lax.bitcast_convert_type(jnp.where(negative, 0, words), x.dtype)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, gradient):
    words = _words(y)
    return (_where((words > 0) & (words <= 0x7F80), gradient),)  # above 0, and no NaN


relu.defvjp(_relu_forward, _relu_backward)


def _words(x):
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Layer norm over the last axis. Source: https://arxiv.org/abs/1607.06450."""
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    factor = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    normal = centred * factor
    return normal * scale + bias, (normal, factor, scale)


def _layer_norm_backward(_epsilon, residuals, gradient):
    normal, factor, scale = residuals
    axes = tuple(range(gradient.ndim - 1))
    for_scale, for_bias = (gradient * normal).sum(axes), gradient.sum(axes)
    inner = gradient * scale
    mean = inner.mean(axis=-1, keepdims=True)
    slope = (inner * normal).mean(axis=-1, keepdims=True)
    return factor * (inner - mean - normal * slope), for_scale, for_bias


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise x [..., C] by its own mean and biased variance [C], which it also returns.

    These two pass no gradient on; where x is bfloat16 they, scale and bias are float32.
    """
    return _batch_norm_forward(x, scale, bias, epsilon)[0]


def _batch_norm_forward(x, scale, bias, epsilon):
    axes, wide = tuple(range(x.ndim - 1)), _widened(x)
    mean = wide.mean(axes)
    var = jnp.square(wide - mean).mean(axes)
    factor = jax.lax.rsqrt(var + epsilon)
    y = (wide - mean) * (factor * scale) + bias
    return (_rounded(y, x.dtype), mean, var), (x, mean, factor, scale)


def _batch_norm_backward(_epsilon, residuals, gradients):
    (x, mean, factor, scale), gradient = residuals, _widened(gradients[0])
    axes, wide = tuple(range(x.ndim - 1)), _widened(x)
    count = x.size // x.shape[-1]
    for_bias = gradient.sum(axes)
    for_scale = (gradient * (wide - mean)).sum(axes) * factor
    slope = scale * factor
    inner = slope * factor * for_scale / count
    for_x = slope * gradient - inner * (wide - mean) - slope * for_bias / count
    return _rounded(for_x, x.dtype), for_scale, for_bias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


# 2×2 max-pooling: the gradient of XLA's window reduction is three times slower on a CPU. The place
# of the maximum is kept, and not found again by comparing with it: XLA may compute the input twice
# with different rounding, and then no value would equal the maximum.


def max_pool2x2(x: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2: [B,H,W,C] -> [B,H//2,W//2,C]; an odd last row is left out."""
    return _largest_of_four(x, (x.shape[1] % 2, x.shape[2] % 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _largest_of_four(x, odd):
    """`odd` are the rows and columns that are left out."""
    return _four_and_place(x, odd)[0]


def _four_and_place(x, odd):
    b, h, w, c = x.shape
    end = b, h - odd[0], w - odd[1], c
    # No start beyond the end: a side of one pixel has no windows.
    starts = ((0, min(i, end[1]), min(j, end[2]), 0) for i in (0, 1) for j in (0, 1))
    return _first_largest([jax.lax.slice(x, start, end, (1, 2, 2, 1)) for start in starts])


def _first_largest(values):
    """Maxima, and in which of the arrays each lies, the first one where values tie."""
    dtype, values = values[0].dtype, [_widened(value) for value in values]
    largest = values[0]
    place = jnp.zeros(largest.shape, jnp.uint8)
    for number, value in enumerate(values[1:], start=1):
        larger = (value > largest) | jnp.isnan(value)  # as in PyTorch, NaN stays
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.uint8(number), place)
    return _rounded(largest, dtype), place


def _four_backward(odd, place, gradient):
    numbers = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = place[:, :, None, :, None, :] == numbers
    spread = _where(chosen, gradient[:, :, None, :, None, :])
    b, h, _, w, _, c = spread.shape
    return (jnp.pad(spread.reshape(b, 2 * h, 2 * w, c), ((0, 0), *((0, n) for n in odd), (0, 0))),)


@jax.custom_jvp
def _where(chosen, values):
    """The values that are chosen, and 0 in place of the others.

    As whole numbers: XLA would turn each bfloat16 into a float32 and back to select it. These have
    no derivative, so it is written below, for gradients of gradients.
    """
    return jax.lax.bitcast_convert_type(jnp.where(chosen, _words(values), 0), values.dtype)


_where.defjvps(None, lambda tangent, _, chosen, values: jnp.where(chosen, tangent, 0))


_largest_of_four.defvjp(_four_and_place, _four_backward)


# 3×3 max-pooling with stride 2. A map with a border falls into 2×2 squares, and a window is such a
# square with the row below it and the column beside it.


def max_pool3x3(x: jax.Array) -> jax.Array:
    """3×3 max-pooling, stride 2, one pixel of padding: [B,H,W,C] -> [B,(H+1)//2,(W+1)//2,C]."""
    return _largest_of_nine(_bordered(x))


def _bordered(x):
    sides = [(1, 1 + side % 2) for side in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=-jnp.inf)


def largest_of_nine(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `max_pool3x3` gives, and which of its window's pixels, row by row, each value is."""
    return _nine_and_place(_bordered(x))


@jax.custom_vjp
def _largest_of_nine(x):
    """[B,2H+2,2W+2,C] -> [B,H,W,C]."""
    return _nine_and_place(x)[0]


def _nine_and_place(x):
    b, h, w, c = x.shape
    rows, columns = h // 2 - 1, w // 2 - 1
    squares = x.reshape(b, rows + 1, 2, columns + 1, 2, c)
    return _first_largest(
        [
            squares[:, i // 2 : rows + i // 2, i % 2, j // 2 : columns + j // 2, j % 2]
            for i in range(3)
            for j in range(3)
        ]
    )


def _nine_backward(place, gradient):
    def part(row, column):
        """What each window gives its place, by squares."""
        given = jnp.where(place == 3 * row + column, gradient, 0)
        shift = [(i // 2, 1 - i // 2) for i in (row, column)]
        return jnp.pad(given, ((0, 0), *shift, (0, 0)))

    both = (0, 2), (1,)  # rows, or columns, of windows that lie in the first and second of a square
    quarters = [
        [sum(part(i, j) for i in rows for j in columns) for columns in both] for rows in both
    ]
    squares = jnp.stack([jnp.stack(row, axis=3) for row in quarters], axis=2)
    b, rows, _, columns, _, c = squares.shape
    return (squares.reshape(b, 2 * rows, 2 * columns, c),)


_largest_of_nine.defvjp(_nine_and_place, _nine_backward)
