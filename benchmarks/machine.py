"""What the figures were measured on: the processor, what it can do, and the versions."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

from jax_train.printing import counted

_CPUINFO = Path("/proc/cpuinfo")
# Of all that a processor names, what its products of matrices are made of, the oldest first.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
_INSTRUCTIONS += ("asimd", "sve", "sve2", "bf16", "i8mm")  # of ARM


def describe() -> dict:
    """The machine as figures are filed under it, the versions, and today's date."""
    facts = _facts()
    given = (facts.get("flags") or facts.get("Features") or "").split()
    name = facts.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    if numbers:  # virtual machines often have no better name
        name += f" ({', '.join(numbers)})".replace("cpu ", "")
    return {
        "processor": name,
        "cores": _cores(),
        "instructions": [one for one in _INSTRUCTIONS if one in given],
        "versions": {name: version(name) for name in ("jax", "flax", "torch")},
        "date": time.strftime("%Y-%m-%d"),
    }


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _facts() -> dict[str, str]:
    """Of the first processor, by the names that Linux has; elsewhere none."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def title(machine: dict) -> str:
    """The machine in a few words."""
    return f"{counted(machine['cores'], 'core')}, {machine['processor']}"


def text(machine: dict) -> str:
    """The machine, its instructions, the versions and the date, in a line."""
    instructions = " ".join(machine["instructions"]) or "instructions not known"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{title(machine)}: {instructions}; {versions}; {machine['date']}"


def is_same_kind(one: dict, other: dict) -> bool:
    """Whether the figures of one stand for the other: the same processor, as far as is known."""
    same = all(one[key] == other[key] for key in ("processor", "cores"))
    known = [machine["instructions"] for machine in (one, other) if machine["instructions"]]
    return same and (len(known) < 2 or known[0] == known[1])
