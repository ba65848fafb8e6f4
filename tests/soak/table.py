"""The table of what was tried and what came of it."""

import platform
import statistics
from importlib.metadata import version

from tests.soak.soak import Soak

_PACKAGES = ("jax", "flax", "orbax-checkpoint", "numpy")
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
        "| fault | tries | told | finished equal | seconds each |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for kind in sorted(by_kind | soak.failed, key=_rank):
        tries, failed = by_kind.get(kind, []), soak.failed.get(kind, 0)
        told = [one.told for one in tries if one.told is not None]
        each = f"{statistics.median(one.seconds for one in tries):.2g}" if tries else "–"
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


def _rank(kind: str) -> tuple:
    """Kills first, by signal."""
    first = kind.split()[0]
    return (first not in _SIGNAL_ORDER, _SIGNAL_ORDER.index(first)) if first in _SIGNAL_ORDER else (
        True, 0
    )  # fmt: skip
