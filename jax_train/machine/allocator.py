"""Have the C library keep the memory it was given, in huge pages.

A training step on a CPU asks for large temporaries and gives them back each time. By default glibc
takes them from the system anew, and every page of them costs a fault: a third of the time of a
step on a virtual machine. See https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
and madvise(2).

What is kept is not always used again. An aligned block is cut from a larger one, small blocks
settle in the cuttings, and the block that a step gave back is then too small for the next step,
which takes another one: up to six of them stay. `trim` returns their pages. Steps that are large
for the machine are looked at one by one (`is_watched`), and those that are too large are not served
in this way (`fit`).
"""

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
from pathlib import Path

# Of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_LARGE = 32 << 20  # glibc's own limit: blocks from here on always come from the system
_HUGE_PAGE, _MADV_HUGEPAGE = 2 << 20, 14
_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of a container, by cgroup v2 and v1
_libc = None  # where the allocator is tuned
_watched = False  # whether the steps are large for the machine
_crowded = 0  # bytes of this process from which on it has to return what it does not use


def tune() -> bool:
    """Tune the allocator of this process; call it before JAX starts its threads.

    Returns:
      Whether it was done: only with glibc on Linux, where no plugin for accelerators is installed
      and the user has not set GLIBC_TUNABLES.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    if "GLIBC_TUNABLES" in os.environ or any(map(importlib.util.find_spec, _ACCELERATORS)):
        return False
    global _libc
    _libc = libc = ctypes.CDLL(None)
    libc.mallopt(_ARENA_MAX, 1)  # one heap for all threads, which only then is used again
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_TOP_PAD, 256 << 20)
    _reserve(libc, _machine() // 4)
    return True


def fit(size: int) -> bool:
    """Choose whether large blocks are kept, now that the memory of a step is known.

    Args:
      size: bytes that a step asks for and gives back.

    Returns:
      Whether they are: where the allocator is tuned, and several such steps leave room for others.
    """
    global _watched, _crowded
    if _libc is None:
        return False
    kept = size <= _machine() // 4
    _watched = kept and size > _machine() // 8
    _crowded = min(_machine() // 2, _resident() + 2 * size)
    _libc.mallopt(_MMAP_THRESHOLD, _LARGE)
    _libc.mallopt(_MMAP_MAX, 0 if kept else 65536)
    return kept


def is_watched() -> bool:
    """Whether steps are so large that what is kept has to be looked at after each."""
    return _watched


def trim(*, if_crowded: bool = False) -> None:
    """Return the pages of free blocks, where they are kept; the next step takes some anew.

    With `if_crowded` only where this process has grown by more than two steps take, or fills the
    machine by half.
    """
    if _libc is not None and not (if_crowded and _resident() <= _crowded):
        _libc.malloc_trim(0)


def _resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def _machine() -> int:
    """Bytes of memory of the machine, or of the container if that has less."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # another version, or "max"
            sizes.append(int(Path("/sys/fs/cgroup", name).read_text()))
    return min(sizes)


def _reserve(libc, size: int) -> None:
    """Take addresses for the heap to grow into, which use no memory yet, and ask for huge pages."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if block := libc.malloc(size):
        start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        libc.free(block)
