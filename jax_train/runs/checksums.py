"""Checksums of arrays and of the record beside them."""

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def checksums(tree: Any) -> jax.Array:
    """One uint32 for each leaf of a pytree of 32- or 64-bit arrays; any changed word changes it.

    Computed where the arrays lie, in integers, so that it does not depend on how they are spread
    over devices.
    """
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(leaf):
    words = jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
        stride = stride * words.shape[axis] % 2**32
    return _mix(words ^ _mix(place)).sum(dtype=jnp.uint32)


def _mix(x):
    """A bijection of uint32, so that one changed word always changes the sum (murmur3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


_checksums = jax.jit(checksums)


def _crc(record: dict | None) -> int:
    """Checksum of a record as JSON reads it back."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def read_record(step: Path) -> dict:
    """Read what stands beside the arrays of a checkpoint.

    Raises:
      OSError, ValueError, KeyError, TypeError: it cannot be read, or was changed.
    """
    meta = json.loads((step / "meta" / "metadata").read_text())
    if meta["crc"] != _crc(meta["record"]):
        raise ValueError(f"the record of {step} was changed")
    return meta["record"]


def _record_is_whole(step: Path) -> bool:
    """Whether what stands beside the arrays of a checkpoint is what was saved."""
    try:
        file = step / "metrics" / "metrics"
        figures = json.loads(file.read_text()) if file.exists() else None
        return _crc(figures) == _crc(read_record(step)["figures"])  # as text: nan is not nan
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return False
