"""The table of what was tried and what came of it."""

import platform
import statistics
from importlib.metadata import version

from tests.soak.runs import EVAL_STEPS, TOTAL
from tests.soak.soak import Soak

_PACKAGES = ("jax", "flax", "orbax-checkpoint", "numpy")
_TEXT = f"""\
The runs are a ViT with dropout and a CNN with batch norm on the digits, shuffled and augmented,
{TOTAL} steps with an evaluation every {EVAL_STEPS}, a log line every 3 and a checkpoint every 7;
with one step a call and with 4, resident and streamed, whole and with a probe of the head followed
by rates by layer, adapters or a frozen stage, one of them from pretrained weights. A run is hit,
then the same command is started again, until it finishes. *Equal*: every leaf of the last
checkpoint, every row of `metrics.csv` but its times, `confusion.csv`, `config.json`, `curves.png`,
the figures of `results.json` and the printed lines are those of an uninterrupted run, bit for bit.
*Told*: the run said so in one line; bytes that nothing reads go untold. Every try follows from the
seed: `python -m tests.soak --seed SEED --only TRY` repeats one, and a failed one stays on disk."""
_SIGNAL_ORDER = ("SIGKILL", "SIGTERM", "SIGINT")


def markdown(soak: Soak, seconds: float) -> str:
    """A row for each kind of fault, and a line about the whole.

    Args:
      soak: after its tries.
      seconds: all of it took.
    """
    by_kind = {}
    for one in soak.tries:
        by_kind.setdefault(one.kind, []).append(one)
    lines = [
        _TEXT,
        "",
        "| fault | tries | told | finished equal | seconds each |",
        "|---|---|---|---|---|",
    ]
    for kind in sorted(sorted(by_kind | soak.failed), key=_rank):
        tries, failed = by_kind.get(kind, []), soak.failed.get(kind, 0)
        told = [one.told for one in tries if one.told is not None]
        each = f"{statistics.median(one.seconds for one in tries):.1f}" if tries else "–"
        lines.append(
            f"| {kind} | {len(tries) + failed} | {sum(told) if told else '–'} | {len(tries)} | "
            f"{each} |"
        )
    total, failed = len(soak.tries), sum(soak.failed.values())
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    lines += [
        "",
        f"{total + failed} tries in {seconds / 60:.0f} minutes, {failed} failed; seed {soak.seed}; "
        f"Python {platform.python_version()}, {versions}.",
    ]
    return "\n".join(lines)


def _rank(kind: str) -> int:
    """Signals first."""
    first = kind.split()[0]
    return _SIGNAL_ORDER.index(first) if first in _SIGNAL_ORDER else len(_SIGNAL_ORDER)
