"""The order of a map's axes: [B,H,W,C] to [B,C,H,W] and back."""

import jax

from jax_models.cpu import onednn
from jax_models.cpu.onednn import MAPS, Kernel, Operation


def channels_first_fits(x: jax.Array) -> bool:
    """Whether `channels_first` takes this and is worth it."""
    b, h, w, c = x.shape
    if not onednn.worth(64 * x.size, x):  # as long as so many operations of a product
        return False
    return _to_first.is_fast(x.dtype, x.shape, (b, c, h, w))


@jax.custom_vjp
def channels_first(x: jax.Array) -> jax.Array:
    """x [B,H,W,C] -> [B,C,H,W]."""
    b, h, w, c = x.shape
    return _to_first(jax.ShapeDtypeStruct((b, c, h, w), x.dtype), x)


@jax.custom_vjp
def _channels_last(x):
    b, c, h, w = x.shape
    return _to_last(jax.ShapeDtypeStruct((b, h, w, c), x.dtype), x)


channels_first.defvjp(lambda x: (channels_first(x), None), lambda _, y: (_channels_last(y),))
_channels_last.defvjp(lambda x: (_channels_last(x), None), lambda _, y: (channels_first(y),))


@Kernel
def _to_first(library, shapes):
    x, out = shapes
    return _copied(Operation(library, library.layout(x, MAPS), library.layout(out)))


@Kernel
def _to_last(library, shapes):
    x, out = shapes
    return _copied(Operation(library, library.layout(x), library.layout(out, MAPS)))


def _copied(operation):
    operation.copy(*operation.views)
    return operation
