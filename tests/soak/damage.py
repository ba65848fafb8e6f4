"""Ways in which a checkpoint's files go bad."""

import random
import shutil
from pathlib import Path


def data_files(checkpoint: Path) -> list[Path]:
    """Every file of a checkpoint, relative to it, in an order that names do not change.

    Orbax names some files at random, so they go by folder and size.
    """
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    files.sort(key=lambda path: (str(path.parent), path.suffix, path.stat().st_size))
    return [path.relative_to(checkpoint) for path in files]


def truncate(path: Path, rng: random.Random) -> str:
    """Cut a file at a random place."""
    data = path.read_bytes()
    kept = rng.randrange(len(data))
    path.write_bytes(data[:kept])
    return f"cut to {kept} of {len(data)} bytes"


def flip(path: Path, rng: random.Random) -> str:
    """Change one byte at a random place."""
    data = bytearray(path.read_bytes())
    place, mask = rng.randrange(len(data)), rng.randrange(1, 256)
    data[place] ^= mask
    path.write_bytes(data)
    return f"byte {place} xor {mask}"


def delete(path: Path, rng: random.Random) -> str:
    """Delete a file."""
    del rng
    path.unlink()
    return "deleted"


def scramble(path: Path, rng: random.Random) -> str:
    """Replace a file's bytes by random ones."""
    path.write_bytes(rng.randbytes(path.stat().st_size))
    return "all bytes random"


def empty(folder: Path, rng: random.Random) -> str:
    """Leave a folder with nothing in it."""
    del rng
    shutil.rmtree(folder)
    folder.mkdir()
    return "emptied"


KINDS = {"truncated": truncate, "byte flipped": flip, "deleted": delete}
