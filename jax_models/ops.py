"""The operations models are made of: XLA's form, and one guard each into `cpu/`.

This is the one door to `cpu/`. Without that folder the guards go, and nothing else.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax.nnx.nn.dtypes import promote_dtype
from jax import Array

from jax_models import cpu
from jax_models.cpu import functions, kernels
from jax_models.dropout import Drop


def _alike(*arrays: Array | None) -> bool:
    """Whether all that there are have one dtype: the CPU's ways read memory as if they had."""
    return len({array.dtype for array in arrays if array is not None}) == 1


def linear(x: Array, weights: Sequence[Array], biases: Sequence[Array | None]) -> tuple[Array, ...]:
    """x [..., D] @ kernel [D,F] + bias [F] -> [..., F], for each kernel and bias.

    Biases are all None where there are none.
    """
    if cpu.active() and _alike(*weights, *biases) and kernels.linear_fits(x, *weights):
        return kernels.linear(x, tuple(weights), tuple(biases))
    pairs = zip(weights, biases, strict=True)
    return tuple(x @ kernel if bias is None else x @ kernel + bias for kernel, bias in pairs)


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Layer norm of x [..., D] over its last axis. Source: https://arxiv.org/abs/1607.06450.

    The variance is taken of the centred values: E[x²] - E[x]² loses half the digits. Statistics
    are taken in float32 at least, whatever the input.
    """
    if cpu.active() and kernels.layer_norm_fits(x):
        return kernels.layer_norm(x, scale, bias, epsilon)
    if cpu.active() and _alike(x, scale, bias) and x.dtype.itemsize >= 4:
        return functions.layer_norm(x, scale, bias, epsilon)
    x, scale, bias = promote_dtype((x, scale, bias))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(-1)
    var = jnp.square(wide - mean[..., None]).mean(-1)
    mean, var = (statistic.reshape(*x.shape[:-1], 1) for statistic in (mean, var))
    scale, bias = (array.reshape(*(1,) * (x.ndim - 1), -1) for array in (scale, bias))
    return ((x - mean) * (jax.lax.rsqrt(var + epsilon) * scale) + bias).astype(x.dtype)


def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None = None
) -> tuple[Array, Array, Array]:
    """Normalise x [..., C] by its own mean and biased variance [C], which it also returns.

    With `axis_name`, a mapped axis, these are of the whole batch that is spread over it. All but x
    is float32 where x is bfloat16.
    """
    if cpu.active() and jax.device_count() == 1 and not _is_spread(axis_name):
        norm = kernels.batch_norm if kernels.batch_norm_fits(x) else functions.batch_norm
        return norm(x, scale, bias, epsilon)

    wide = x.astype(scale.dtype)

    def average(x):
        mean = x.mean(tuple(range(x.ndim - 1)))
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    mean = average(wide)
    # The variance does not change with the mean to first order; leaving that zero out of the
    # gradient saves a pass, and on many devices a message. To second order it does.
    still = jax.lax.stop_gradient(mean)
    var = average(jnp.square(wide - still)) - jnp.square(mean - still)
    return normalise(x, mean, var, scale, bias, epsilon), mean, var


def _is_spread(axis_name: str | None) -> bool:
    """Whether a mapped axis is longer than 1."""
    return axis_name is not None and jax.lax.axis_size(axis_name) > 1


def batch_norm_relu(
    x: Array, scale: Array, bias: Array, epsilon: float, axis_name: str | None = None
) -> tuple[Array, Array, Array]:
    """As `batch_norm`, and of the first result ReLU; on CPUs in one operation, if there is one."""
    if cpu.active() and not _is_spread(axis_name) and kernels.batch_norm_fits(x):
        return kernels.batch_norm(x, scale, bias, epsilon, relu=True)
    y, mean, var = batch_norm(x, scale, bias, epsilon, axis_name)
    return relu(y), mean, var


def normalise(x, mean, var, scale, bias, epsilon: float) -> Array:
    """x [..., C] by given statistics [C], then scale and bias [C]."""
    wide = x.astype(jnp.promote_types(x.dtype, mean.dtype))
    return ((wide - mean) * jax.lax.rsqrt(var + epsilon) * scale + bias).astype(x.dtype)


def convolution(
    x: Array,
    kernel: Array,
    bias: Array | None,
    padding: int,
    *,
    stride: int = 1,
    groups: int = 1,
    exact: bool = False,
) -> Array:
    """x [B,H,W,C], kernel [kh,kw,C/groups,D], bias [D] or None -> [B,H',W',D].

    Padding are zero pixels on each side. `exact`: not in a faster order of adding up that rounds
    about three times as much.
    """
    how = padding, stride, groups
    fits = not exact and cpu.active() and _alike(kernel, bias)
    if fits and kernels.convolution_fits(x, kernel, *how):
        return kernels.convolution(x, kernel, bias, *how)
    x, kernel, bias = promote_dtype((x, kernel, bias))
    sides, layout = ((padding, padding),) * 2, ("NHWC", "HWIO", "NHWC")
    axes = {"dimension_numbers": layout, "feature_group_count": groups}
    y = jax.lax.conv_general_dilated(x, kernel, (stride, stride), sides, **axes)
    return y if bias is None else y + bias.reshape(1, 1, 1, -1)


def convolution_affine(
    x: Array,
    kernel: Array,
    affine: Callable[[], tuple[Array, Array]],
    padding: int,
    *,
    stride: int,
    groups: int,
    added: Array | None,
    relu: bool,
) -> Array | None:
    """In one operation, where there is one: ReLU(convolution · scale + offset + added).

    Args:
      x, kernel, padding, stride, groups: as of `convolution`.
      affine: gives scale [D] and offset [D].
      added: [B,H',W',D], or None.
      relu: False leaves the ReLU out.

    Returns:
      [B,H',W',D]; None where it takes several operations.
    """
    how = padding, stride, groups
    if not (cpu.active() and _alike(x, added) and kernels.affine_fits(x, kernel, *how)):
        return None
    rows = (row.astype(jnp.float32) for row in affine())
    return kernels.convolution_affine(x, kernel, *rows, added, how, relu)


def attention(
    x: Array,
    kernel: Array,
    bias: Array | None,
    num_heads: int,
    *,
    drop: Drop | None = None,
    maps: bool = True,
    queries: int | None = None,
    added: Array | None = None,
    scale: Array | None = None,
    others_only: bool = False,
) -> tuple[Array, Array | None]:
    """Multi-head self-attention of tokens x [B,T,D], heads split head-major.

    Kernel [D,3D] and bias [3D] give queries, keys and values; with `queries` only so many tokens,
    the first ones, attend (to all); `drop`, `maps` and `others_only` as in `attend`. What is
    `added` to them, if anything, is [B,T,3D]. The scores of each head are scaled by `scale` [h], or
    by 1/√d.

    Returns:
      (output [B,Q,D], attention [B,h,Q,T] or None).
    """
    b, tokens, width = x.shape
    d = width // num_heads
    if scale is None:
        factor = d**-0.5
    else:
        factor = jnp.repeat(scale, d)
    fits = not maps and queries is None and cpu.active() and _alike(x, kernel, bias, added, scale)
    if fits and kernels.self_attention_fits(x, num_heads):
        how = drop, added, factor, others_only
        return kernels.self_attention(x, kernel, bias, num_heads, *how), None
    if queries is None:
        parts = jnp.split(linear(x, (kernel,), (bias,))[0], 3, axis=-1)
    else:
        three = jnp.split(kernel, 3, axis=-1)
        biases = [None] * 3 if bias is None else jnp.split(bias, 3, axis=-1)
        first = linear(x[:, :queries], three[:1], biases[:1])
        parts = (*first, *linear(x, three[1:], biases[1:]))
    if added is not None:
        more = jnp.split(added, 3, axis=-1)
        parts = [part + also[:, : part.shape[1]] for part, also in zip(parts, more, strict=True)]
    q, k, v = (part.reshape(b, -1, num_heads, d) for part in parts)
    if scale is not None:
        q, factor = q * scale[:, None], 1.0
    drop = drop and functools.partial(drop, shape=(b, num_heads, tokens, tokens))
    return attend(q, k, v, scale=factor, drop=drop, maps=maps, others_only=others_only)


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    drop: Callable | None = None,
    maps: bool = True,
    others_only: bool = False,
) -> tuple[Array, Array | None]:
    """Dot-product attention. Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

    Args:
      q, k, v: queries [B,Q,h,d], keys [B,K,h,d] and values [B,K,h,d].
      scale: factor of the scores.
      drop: applied to the attention weights.
      maps: return the attention; without it an accelerator may use a fused kernel.
      others_only: leave out the key of a query's own number.

    Returns:
      (output [B,Q,h·d], attention [B,h,Q,K] as applied to the values, or None).
    """
    wanted = jnp.arange(q.shape[1])[:, None] != jnp.arange(k.shape[1]) if others_only else None
    if not (maps or drop):
        if cpu.active() and kernels.attention_fits(q, k, v):
            y = kernels.attention(q if scale == 1 else q * scale, k, v, None, others_only)
            return y.reshape(*y.shape[:2], -1), None
        if not cpu.active() and q.dtype != jnp.float64:  # its softmax is float32 at most
            mask = wanted if wanted is None else wanted[None, None]
            y = jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale)
            return y.reshape(*y.shape[:2], -1), None
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
    # A softmax needs more digits than bfloat16 has.
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = scores if wanted is None else jnp.where(wanted, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    if drop:
        weights = drop(weights)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return y.reshape(*y.shape[:2], -1), weights


def max_pool2x2(x: Array) -> Array:
    """2×2 max-pooling with stride 2: [B,H,W,C] -> [B,H//2,W//2,C]; an odd last row is left out."""
    if cpu.active():
        return functions.max_pool2x2(x)
    window = (1, 2, 2, 1)
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def max_pool3x3(x: Array) -> Array:
    """3×3 max-pooling, stride 2, one pixel of padding: [B,H,W,C] -> [B,(H+1)//2,(W+1)//2,C]."""
    if cpu.active():
        pool = kernels.max_pool3x3 if kernels.max_pool3x3_fits(x) else functions.max_pool3x3
        return pool(x)
    window, strides, sides = (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, sides)


def global_max_pool(x: Array) -> Array:
    """The largest value of each channel, the first where they tie: [B,H,W,C] -> [B,C].

    Its place is kept for the gradient, for the reason told in `cpu.functions`.
    """
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    chosen = jnp.arange(x.shape[1])[:, None] == x.argmax(axis=1)[:, None]
    return jnp.where(chosen, x, 0).sum(axis=1)


def channels_first(x: Array) -> Array:
    """[B,H,W,C] -> [B,C,H,W]."""
    if cpu.active() and kernels.channels_first_fits(x):
        return kernels.channels_first(x)
    return x.transpose(0, 3, 1, 2)


def relu(x: Array) -> Array:
    """max(x, 0); NaN stays."""
    return functions.relu(x) if cpu.active() and x.dtype == jnp.bfloat16 else jax.nn.relu(x)


def gelu(x: Array) -> Array:
    """Exact GELU, the erf form, which is PyTorch's default and not JAX's."""
    return functions.gelu(x) if cpu.active() else jax.nn.gelu(x, approximate=False)
