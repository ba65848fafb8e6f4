"""The operations models are made of: XLA's form, and one guard each into `cpu/`."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jax_models import cpu
from jax_models.cpu import functions, kernels


def max_pool2x2(x: jax.Array) -> jax.Array:
    """2×2 max-pooling with stride 2: [B,H,W,C] -> [B,H//2,W//2,C]; an odd last row is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    if cpu.active():
        return functions.max_pool2x2(x)
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def linear(
    x: jax.Array, weights: Sequence[jax.Array], biases: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """x [..., D] @ kernel [D,F] + bias [F] -> [..., F], for each kernel and bias."""
    if cpu.active() and kernels.linear_fits(x, *weights):
        return kernels.linear(x, tuple(weights), tuple(biases))
    return tuple(x @ kernel + bias for kernel, bias in zip(weights, biases, strict=True))


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float,
    drop: Callable[[jax.Array], jax.Array] | None = None, maps: bool = True,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """Dot-product attention.

    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.

    Args:
      q: queries [B,Q,h,d].
      k: keys [B,K,h,d].
      v: values [B,K,h,d].
      scale: factor of the scores.
      drop: applied to the attention weights.
      maps: return the attention; without it an accelerator may use a fused kernel.

    Returns:
      (output [B,Q,h·d], attention [B,h,Q,K] as applied to the values, or None).
    """
    if not (maps or drop):
        if not cpu.active() and q.dtype != jnp.float64:  # its softmax is float32 at most
            y = jax.nn.dot_product_attention(q, k, v, scale=scale)
            return y.reshape(*y.shape[:2], -1), None
        if cpu.active() and kernels.attention_fits(q, k, v):
            y = kernels.attention(q if scale == 1 else q * scale, k, v, None)
            return y.reshape(*y.shape[:2], -1), None
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scale
    # A softmax needs more digits than bfloat16 has.
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    if drop:
        weights = drop(weights)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    return y.reshape(*y.shape[:2], -1), weights


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU, the erf form, which is PyTorch's default and not JAX's."""
    return functions.gelu(x) if cpu.active() else jax.nn.gelu(x, approximate=False)
