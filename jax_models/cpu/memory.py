"""Have the C library keep the memory it was given, in huge pages.

A training step on a CPU asks for large temporaries and gives them back each time. By default glibc
takes them from the system anew, and every page of them costs a fault: a third of the time of a
step on a virtual machine. See https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
and madvise(2).
"""

import ctypes
import importlib.util
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # of mallopt
_HUGE_PAGE, _MADV_HUGEPAGE = 2 << 20, 14
_ACCELERATORS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")


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
    libc = ctypes.CDLL(None)
    libc.mallopt(_ARENA_MAX, 1)  # one heap for all threads, which only then is used again
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_TOP_PAD, 256 << 20)
    _reserve(libc, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
    return True


def _reserve(libc, size: int) -> None:
    """Take addresses for the heap to grow into, which use no memory yet, and ask for huge pages."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if block := libc.malloc(size):
        start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
        libc.madvise(start, (block + size - start) // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
        libc.free(block)
