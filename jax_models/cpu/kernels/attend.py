"""Dot-product attention: queries [B,Q,h,d], keys and values [B,K,h,d], maps [B,h,Q,K]."""

import functools
import math

import jax
import jax.numpy as jnp

from jax_models.cpu import onednn
from jax_models.cpu.kernels.project import linear
from jax_models.cpu.onednn import DST, GRADIENT, SRC, Kernel, Operation
from jax_models.dropout import Drop

# Where the maps are not kept, images are taken by so many bytes of maps, and this many at least.
_BYTES, _LEAST_IMAGES = 16 << 20, 4
_NEVER = -1e30  # a score of which softmax makes 0
_HEADS = 0, 2, 1, 3  # [B,T,h,d] as a stack [B,h] of matrices
_KINDS = {"m": None, "k": onednn.UINT8}  # of maps and of `keep`


def attention_fits(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
    """Whether `attention` takes these and is worth it."""
    maps = _maps(q, k).shape
    if not onednn.worth(4 * math.prod(maps) * q.shape[-1], q, k, v):
        return False
    dtype, parts = q.dtype, (q.shape, k.shape, v.shape)
    return (
        _attention.is_fast(dtype, *parts, maps, q.shape, maps, others_only=0)
        and _attention_alone.is_fast(dtype, *parts, q.shape, others_only=0)
        and _attention_gradient.is_fast(dtype, *parts, maps, q.shape, maps, *parts)
    )


def _maps(q, k):
    (b, queries, h, _), keys = q.shape, k.shape[1]
    return jax.ShapeDtypeStruct((b, h, queries, keys), q.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def attention(
    q: jax.Array, k: jax.Array, v: jax.Array, keep: jax.Array | None, others_only: bool = False
) -> jax.Array:
    """Dot-product attention with scores that are not scaled: q, k, v -> [B,Q,h,d].

    `keep` are uint8 factors of the attention weights [B,h,Q,K] for dropout, or None. With
    `others_only` the key of a query's own number is left out.
    """
    if keep is None:
        return _attention_alone(q, q, k, v, others_only=others_only)
    return _attention_forward(q, k, v, keep, others_only)[0]


def _attention_forward(q, k, v, keep, others_only):
    keep = () if keep is None else (keep,)
    y, weights = _attention([q, _maps(q, k)], q, k, v, *keep, others_only=others_only)
    return y, (q, k, v, weights, keep)


def _attention_backward(_others_only, residuals, gradient):
    *arrays, keep = residuals
    return *_attention_gradient(arrays[:3], *arrays, gradient, *keep), None


attention.defvjp(_attention_forward, _attention_backward)


def self_attention_fits(x: jax.Array, num_heads: int) -> bool:
    """Whether `self_attention` takes this and is worth it."""
    b, tokens, width = x.shape
    heads = jax.ShapeDtypeStruct((b, tokens, num_heads, width // num_heads), x.dtype)
    return attention_fits(heads, heads, heads)


def self_attention(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    num_heads: int,
    drop: Drop | None,
    added: jax.Array | None,
    scale: float | jax.Array,
    others_only: bool,
) -> jax.Array:
    """As `jax_models.ops.attention`: x [B,T,D], kernel [D,3D], bias [3D] -> [B,T,D].

    To the CPU the three projections are arrays apart. `scale` is what queries are multiplied by, a
    number or one for each feature [D].
    """
    b, tokens, _ = x.shape
    keep = drop and drop.mask((b, num_heads, tokens, tokens))
    kept = 1 if keep is None else 1 / (1 - drop.rate)

    def scaled(array):
        """For queries, keys and values. Less work than scaling the maps."""
        if array is None:
            return (None,) * 3
        queries, keys, values = jnp.split(array, 3, axis=-1)
        return scale * queries, keys, kept * values

    parts = linear(x, scaled(kernel), scaled(bias))
    if added is not None:
        parts = map(jnp.add, parts, scaled(added))
    keep = None if keep is None else keep.astype(jnp.uint8)
    q, k, v = (part.reshape(b, tokens, num_heads, -1) for part in parts)
    return attention(q, k, v, keep, others_only).reshape(x.shape)


@Kernel
def _attention(library, shapes, others_only):
    operation = _operation(library, shapes, "hhhkhm" if len(shapes) == 6 else "hhhhm")
    q, k, v, *keep, y, weights = operation.views
    scores = _scores(library, operation, weights, shapes[-1])
    _weigh(library, operation, q, k, scores, weights, shapes[-1], others_only)
    if keep:
        dropped = operation.temporary(weights.layout)
        operation.multiply(weights, *keep, dropped)
        weights = dropped
    operation.product(weights, v, y)
    return operation


def _weigh(library, operation, q, k, scores, weights, shape, others_only):
    """Add weights [B,h,Q,K], of that shape, the softmax of all q·k."""
    operation.product(q, library.turned(k), scores)
    if others_only:
        operation.fill_diagonals(scores, shape, _NEVER)
    description = _softmax(library, scores.layout, weights.layout)
    operation.add(description, {SRC: scores, DST: weights})


def _scores(library, operation, maps, shape):
    """A place for float32 maps, because a softmax needs more digits than bfloat16 has."""
    if library.kind == onednn.FLOAT32:
        return maps
    return operation.temporary(library.layout(shape, kind=onednn.FLOAT32))


@Kernel
def _attention_alone(library, shapes, others_only):
    """The output without the maps, for some images at a time."""
    (batch, queries, heads, _), keys = shapes[0], shapes[1][1]
    count = max(_LEAST_IMAGES, _BYTES // (4 * heads * queries * keys))
    firsts = range(0, batch, count)
    sizes = [min(count, batch - first) for first in firsts]
    parts = (
        (
            library.layout((size, *shape[1:]), _HEADS),
            number,
            library.bytes * first * math.prod(shape[1:]),
        )
        for first, size in zip(firsts, sizes, strict=True)
        for number, shape in enumerate(shapes)
    )
    operation = Operation(library, *parts)
    shapes = {size: (size, heads, queries, keys) for size in sizes}
    maps = {size: operation.temporary(library.layout(shape)) for size, shape in shapes.items()}
    scores = {size: _scores(library, operation, maps[size], shapes[size]) for size in shapes}
    for i, size in enumerate(sizes):
        (q, k, v, y), weights = operation.views[4 * i : 4 * i + 4], maps[size]
        _weigh(library, operation, q, k, scores[size], weights, shapes[size], others_only)
        operation.product(weights, v, y)
    return operation


@Kernel
def _attention_gradient(library, shapes):
    operation = _operation(library, shapes, "hhhmhkhhh" if len(shapes) == 9 else "hhhmhhhh")
    q, k, v, weights, y, *keep, for_q, for_k, for_v = operation.views
    inner = operation.temporary(weights.layout)
    operation.product(y, library.turned(v), inner, times=keep[0] if keep else None)
    kind, layouts = ("softmax_backward", onednn.SOFTMAX), (weights.layout,) * 3
    forward = _softmax(library, weights.layout, weights.layout)
    softmax = library.describe(*kind, *layouts, 3, forward)
    operation.add(softmax, {DST: weights, DST | GRADIENT: inner, SRC | GRADIENT: inner})
    operation.product(inner, k, for_q)
    operation.product(library.turned(inner), q, for_k)
    if keep:
        operation.multiply(weights, *keep, inner)
        weights = inner
    operation.product(library.turned(weights), y, for_v)
    return operation


def _operation(library, shapes, kinds: str):
    """Views by kind: h for [B,T,h,d] as a stack [B,h] of matrices, m for maps, k for `keep`."""
    layouts = (
        library.layout(shape, _HEADS) if kind == "h" else library.layout(shape, kind=_KINDS[kind])
        for shape, kind in zip(shapes, kinds, strict=True)
    )
    return Operation(library, *layouts)


def _softmax(library, scores, maps):
    return library.describe("softmax_forward", onednn.TRAINING, onednn.SOFTMAX, scores, maps, 3)
