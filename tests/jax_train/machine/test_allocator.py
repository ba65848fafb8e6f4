"""Memory of the process: kept, returned, and left alone."""

import os
import platform
import subprocess
import sys

import pytest

from jax_train.machine import allocator


def test_memory_is_left_alone_where_the_user_has_set_it(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    assert not allocator.tune()


@pytest.mark.parametrize("system", ["Darwin", "Windows"])
def test_memory_is_left_alone_elsewhere(monkeypatch, system):
    monkeypatch.setattr(allocator.platform, "system", lambda: system)
    assert not allocator.tune()


# With JAX loaded, as in a run: a heap that is empty but for the block would serve it again.
_LARGE_BLOCKS = """
import ctypes, sys
from pathlib import Path
import jax
from jax_train.machine import allocator as memory
if not memory.tune():
    sys.exit("not tuned")
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
def use_block():
    block = libc.malloc(101 << 20)
    ctypes.memset(block, 1, 101 << 20)
    libc.free(block)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(pages * 4096 > before + (90 << 20))
before = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
use_block()
memory.trim()
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 > before + (90 << 20))
print(memory.fit(1 << 60)); use_block()
print(memory.fit(1)); use_block()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_memory_is_kept_until_trimmed_and_not_where_a_step_is_large_for_the_machine():
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", _LARGE_BLOCKS], env=environment, capture_output=True, text=True
    )
    if "not tuned" in done.stderr:
        pytest.skip("an accelerator's plugin is installed")
    kept, trimmed, *large_then_small = done.stdout.split()
    assert (kept, trimmed) == ("True", "False")
    assert large_then_small == ["False", "False", "True", "True"]


def test_memory_of_steps_is_left_alone_where_it_is_not_tuned(monkeypatch):
    monkeypatch.setattr(allocator, "_libc", None)
    allocator.trim()
    assert not allocator.fit(1)


class _Libc:
    """Notes how often free pages were returned."""

    trimmed = 0

    def mallopt(self, *_):
        """As the C library's."""

    def malloc_trim(self, _):
        """As the C library's."""
        self.trimmed += 1


def test_large_steps_are_kept_while_there_is_room(monkeypatch):
    libc = _Libc()
    monkeypatch.setattr(allocator, "_libc", libc)
    monkeypatch.setattr(allocator, "_watched", False)
    monkeypatch.setattr(allocator, "_crowded", 0)
    monkeypatch.setattr(allocator, "_machine", lambda: 80)
    monkeypatch.setattr(allocator, "_resident", lambda: 5)
    found = {size: (allocator.fit(size), allocator.is_watched()) for size in (10, 11, 20, 21)}
    assert found == {10: (True, False), 11: (True, True), 20: (True, True), 21: (False, False)}
    for size, most in ((11, 5 + 2 * 11), (20, 80 // 2)):
        monkeypatch.setattr(allocator, "_resident", lambda: 5)
        allocator.fit(size)
        before = libc.trimmed
        for resident, trimmed in ((most, 0), (most + 1, 1)):
            monkeypatch.setattr(allocator, "_resident", lambda resident=resident: resident)
            allocator.trim(if_crowded=True)
            assert libc.trimmed == before + trimmed
    allocator.trim()
    assert libc.trimmed == before + 2


@pytest.mark.parametrize(("limit", "expected"), [("4096\n", 4096), ("max\n", None), (None, None)])
def test_the_machine_is_no_larger_than_its_container(tmp_path, monkeypatch, limit, expected):
    file = tmp_path / "memory.max"
    if limit:
        file.write_text(limit)
    monkeypatch.setattr(allocator, "_LIMITS", (str(file),))
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert allocator._machine.__wrapped__() == (expected or whole)


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_resident_memory_is_that_of_this_process():
    assert 10e6 < allocator._resident() < 1e12
