"""Runs whose disk is full."""

import contextlib
import ctypes
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
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
    """Leave only some bytes free."""
    with open(disk / "ballast", "ab") as file:
        free = shutil.disk_usage(disk).free
        file.write(bytes(max(0, free - room)))


def make_room(disk: Path) -> None:
    """Undo `fill`."""
    (disk / "ballast").unlink()


def all_full(soak: Soak, number: int = 8) -> None:
    """Disks that are full from the start, nearly, or become full; else small largest files."""
    with small_disk(soak.folder / "disk") as disk:
        ways = {
            "disk full at the start": full_at_start,
            "disk full in the middle": full_in_the_middle,
        } if disk else {"file too large": file_limit}  # fmt: skip
        for i in range(number):
            kind = list(ways)[i % len(ways)]
            name = list(VARIANTS)[i % len(VARIANTS)]

            def try_(rng, folder, kind=kind, name=name):
                begin = time.monotonic()
                place = disk / f"{folder.name}" if disk else folder
                with _kept(place, folder):
                    hits = ways[kind](soak, name, rng, place)
                    soak.check(name, place / "run")
                soak.say(f"disk/{folder.name}: {name}: {kind}: {hits}; equal")
                return [Try(kind, time.monotonic() - begin, told=True)]

            soak.attempt(f"disk/{i}", kind, try_)


@contextlib.contextmanager
def _kept(place: Path, folder: Path):
    """Keep what lies on the small disk beyond its end."""
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if place != folder:
            with contextlib.suppress(FileNotFoundError):
                make_room(place.parent)
            shutil.copytree(place, folder)
            shutil.rmtree(place)


def _check_full(child: Child) -> str:
    expect(child, (FULL,), lines=1)
    line = child.complaints()[0]
    assert line.startswith("error: "), f"an unclear line: {line}"
    return line


def full_at_start(soak: Soak, name: str, rng: random.Random, place: Path) -> str:
    """Give a run more and more room until it finishes."""
    need, room, hits = soak.reference(name).bytes, 0, []
    while True:
        # Beyond config.json it is a matter of a few files, so that many places are met.
        fill(place.parent, room)
        child = Child(VARIANTS[name], place / "run", place.parent.parent / f"logs-{place.name}")
        if child.wait() == 0:
            expect(child)
            return f"{len(hits)} times, the last with room for {hits[-1] / 1e3:.0f} kB"
        _check_full(child)
        make_room(place.parent)
        hits.append(room)
        room += rng.randrange(int(0.7 * need))


def full_in_the_middle(soak: Soak, name: str, rng: random.Random, place: Path) -> str:
    """Take all room away at a random step, then give it back."""
    del soak
    logs = place.parent.parent / f"logs-{place.name}"
    child = Child(VARIANTS[name], place / "run", logs)
    watch = Watch(place / "run", child)
    shot = Shot("", "step", rng.randrange(TOTAL - 2 * STEPS_PER_EPOCH), rng.uniform(0, 0.05))
    assert watch.wait_for(shot), f"the run ended by itself: {child.complaints()}"
    fill(place.parent, rng.choice((0, 0, 4096, 20480)))
    _check_full(child)
    step = watch.newest_row()[0]
    make_room(place.parent)
    expect(Child(VARIANTS[name], place / "run", logs))
    return f"after the row of step {step}"


def file_limit(soak: Soak, name: str, rng: random.Random, place: Path) -> str:
    """Forbid files above a random size, then allow them."""
    del soak
    limit = rng.randrange(1000, 15000)
    logs = place / "logs"
    _check_full(Child(VARIANTS[name], place / "run", logs, limit=limit))
    expect(Child(VARIANTS[name], place / "run", logs))
    return f"{limit} bytes"
