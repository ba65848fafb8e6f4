"""Runs whose disk is full."""

import contextlib
import ctypes
import functools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.soak.runs import STEPS_PER_EPOCH, TOTAL, VARIANTS, Child, expect
from tests.soak.soak import Soak, Try
from tests.soak.watch import Shot, Watch

FULL = 2
_SIZE = 64 << 20
_CLONE_NEWNS = 0x20000  # of linux/sched.h


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 64 MB in memory, which only this process and its children see; None without rights.

    Args:
      folder: where it is mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _mount(folder):
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def _mount(folder: Path) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    if ctypes.CDLL(None).unshare(_CLONE_NEWNS):  # so that the mount ends with this process
        return False
    commands = (
        ["mount", "--make-rprivate", "/"],
        ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(folder)],
    )
    return all(subprocess.run(c, capture_output=True).returncode == 0 for c in commands)


def fill(disk: Path, room: int) -> None:
    """Leave only some bytes free, whatever others write meanwhile."""
    with open(disk / "ballast", "ab", buffering=0) as file:
        while (free := shutil.disk_usage(disk).free) > room:
            try:
                file.write(bytes(free - room))
            except OSError:  # a run was quicker; look again
                continue


def make_room(disk: Path) -> None:
    """Undo `fill`."""
    (disk / "ballast").unlink()


def all_full(soak: Soak, number: int = 8) -> None:
    """Disks that are full from the start, nearly, or become full; else small largest files."""
    with small_disk(soak.folder / "small-disk") as disk:
        ways = (
            {
                "disk full at the start": full_at_start,
                "disk full in the middle": full_in_the_middle,
            }
            if disk
            else {"file too large": file_limit}
        )
        for i in range(number):
            kind = list(ways)[i % len(ways)]
            name = list(VARIANTS)[i % len(VARIANTS)]

            def try_(rng, folder, kind=kind, name=name):
                soak.reference(name)  # made now, so that its time does not count
                begin = time.monotonic()
                with _workdir(disk, folder) as workdir:
                    start = functools.partial(Child, VARIANTS[name], workdir, folder / "logs")
                    hits = ways[kind](start, workdir, rng, soak.reference(name).bytes)
                    soak.check(name, workdir)
                soak.say(f"disk/{folder.name}: {name}: {kind}: {hits}; equal")
                return [Try(kind, time.monotonic() - begin, told=True)]

            soak.attempt(f"disk/{i}", kind, try_)


@contextlib.contextmanager
def _workdir(disk: Path | None, folder: Path) -> Iterator[Path]:
    """A run folder on the small disk; it is moved to the folder of the try at the end."""
    folder.mkdir(parents=True)
    if disk is None:
        yield folder / "run"
        return
    try:
        yield disk / "run"
    finally:
        (disk / "ballast").unlink(missing_ok=True)
        if (disk / "run").exists():
            shutil.move(disk / "run", folder / "run")


def _check_full(child: Child) -> None:
    expect(child, (FULL,), lines=1)
    line = child.complaints()[0]
    assert line.startswith("error: "), f"an unclear line: {line}"


def full_at_start(start: Callable, workdir: Path, rng: random.Random, size: int) -> str:
    """Give a run more and more room until it finishes.

    Args:
      start: starts it.
      workdir: its folder.
      rng: says how much.
      size: of the folder of an uninterrupted run, bytes.

    Returns:
      What was done.
    """
    room, hits = 0, []
    while True:
        fill(workdir.parent, room)
        child = start()
        if child.wait() == 0:
            expect(child)
            return f"{len(hits)} times, the last with room for {hits[-1] / 1e3:.0f} kB"
        _check_full(child)
        make_room(workdir.parent)
        hits.append(room)
        room += rng.randrange(int(0.7 * size))


def full_in_the_middle(start: Callable, workdir: Path, rng: random.Random, size: int) -> str:
    """Take nearly all room away at a random step, then give it back; as `full_at_start`."""
    del size
    child = start()
    watch = Watch(workdir, child)
    shot = Shot("", "step", rng.randrange(TOTAL - 2 * STEPS_PER_EPOCH), rng.uniform(0, 0.05))
    assert watch.wait_for(shot), f"the run ended by itself: {child.complaints()}"
    fill(workdir.parent, rng.choice((0, 0, 4096, 20480)))
    _check_full(child)
    step = watch.newest_row()[0]
    make_room(workdir.parent)
    expect(start())
    return f"after the row of step {step}"


def file_limit(start: Callable, workdir: Path, rng: random.Random, size: int) -> str:
    """Forbid files above a random size, then allow them; as `full_at_start`."""
    del workdir, size
    limit = rng.randrange(1000, 15000)
    _check_full(start(limit=limit))
    expect(start())
    return f"{limit} bytes"
