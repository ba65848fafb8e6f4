"""docs/accelerator.md, written of the results of all pieces."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accelerator import device, pieces
from benchmarks.accelerator.pieces import Piece, State
from benchmarks.accelerator.plan import PIECES
from jax_train.files import write_atomically
from jax_train.printing import counted
from tests.parity.measure import ROOT

PAGE = ROOT / "docs" / "accelerator.md"
_HEAD = """# On a GPU or TPU

One command measures what this project claims of accelerators, and writes this page:

```
python -m benchmarks accelerator --data_dir PATH
```

It needs JAX for the device ([README](../README.md#gpu-and-tpu)), `pip install -e '.[test]'`,
and for the last two pieces the data of the recipes. Each piece is a process of at most ten minutes,
and its results lie in `runs/accelerator/`: the same command goes on with what is left, after an
interruption too. `--pieces` chooses among {names}; `--cases` models; with `--limit SECONDS` the
command ends in time, such as on a machine that is there for minutes. What fails is told below and
keeps nothing else from being measured; it is tried again by the next call. `--short` tries the
command with a step of tiny models on any device, a CPU too, and writes the page beside its
results."""
_WIDTH = 100


def write(folder: Path, page: Path) -> None:
    """Write the page of the results in a folder."""
    write_atomically(page, text(folder))


def text(folder: Path) -> str:
    """The page, of what is known so far."""
    states = {name: pieces.read(folder, name) for name in PIECES}
    names = ", ".join(f"`{name}`" for name in PIECES if name != "device")
    parts = [_wrapped(_HEAD.format(names=names))]
    where = states["device"].figures.get("device")
    if where is None:
        parts.append("No device has been measured yet.")
    else:
        parts.append(_wrapped(f"Measured on {device.text(where)}"))
    for name, piece in PIECES.items():
        if piece.text is not None:
            parts += _section(name, piece, states, where)
    if failed := list(_failures(states)):
        parts += ["## What failed", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


def _section(name: str, piece: Piece, states: dict[str, State], where: dict) -> Iterator[str]:
    state = states[name]
    yield f"## {piece.title}"
    yield _wrapped(piece.how)
    if state.figures or state.paused:
        yield piece.text(states, where)
    missing = [one for one in state.planned if one not in {*state.figures, *state.paused}]
    missing = [one for one in missing if one not in state.errors]
    if not state.planned:
        yield "Not measured yet."
    elif missing:
        yield f"Not measured yet: {counted(len(missing), 'row')}."


def _failures(states: dict[str, State]) -> Iterator[str]:
    for name, state in states.items():
        for one, (_, error) in state.errors.items():
            yield f"- `{name}`, {one}: {error.replace('|', '/')}"


def _wrapped(paragraphs: str) -> str:
    """Text as in the other pages; code and tables stay."""
    parts = paragraphs.split("\n\n")
    how = {"width": _WIDTH, "break_long_words": False, "break_on_hyphens": False}
    kept = ("```", "#", "|", "-")
    return "\n\n".join(
        part if part.startswith(kept) else textwrap.fill(part, **how) for part in parts
    )
