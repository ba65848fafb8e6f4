"""Time JAX against the best PyTorch on this machine, side by side.

  python -m benchmarks                       every part, about two hours on 2 cores
  python -m benchmarks train epoch           these parts only
  python -m benchmarks train --cases vit     of this model only
  python -m benchmarks --record              also rewrite the tables in docs/performance.md
  python -m benchmarks world --one-core      by the time of one core, on a machine in use
  python -m benchmarks --quick               see in minutes that all works; no figures to keep

Each side of each row is a process of its own; the processes take turns, and a sample during which
other programs used the machine is taken again.
"""

import argparse
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import growth, host, input_pipeline, race, serving, startup, tasks, world
from jax_train.errors import run_command
from jax_train.printing import counted, say
from tests.parity.measure import ROOT, rewrite

PAGE = ROOT / "docs" / "performance.md"
SIDES = {
    "JAX": {"side": "jax"},
    "PyTorch": {"side": "torch", "options": {"fused_attention": False}},
    "fused attention": {"side": "torch"},
    "compiled": {"side": "torch", "options": {"compiled": True}},
}


def table(task: str, cases: list[str], rounds: int, changes: dict) -> str:
    """Images per second of each side on a task, and the ratio to the fastest PyTorch.

    Args:
      task: "train", "eval" or "epoch".
      cases: of `tasks.CASES`.
      rounds: samples of each side.
      changes: to each job (see `child.py`).
    """
    lines = [
        "| model | batch | JAX | PyTorch | fused attention | compiled | JAX / best | spread |",
        "|---|---|---|---|---|---|---|---|",
    ]
    taken = kept = 0
    for case in cases:
        has_tokens = any(word in case for word in ("vit", "cct"))
        absent = set() if has_tokens else {"fused attention"}
        if task == "epoch" and case != "attention_cnn":  # the one that compiling makes faster
            absent |= {"compiled"}
        sides = {name: side for name, side in SIDES.items() if name not in absent}
        jobs = {name: side | {"case": case, "task": task} | changes for name, side in sides.items()}
        got = race.race(jobs, rounds)
        best = max(got[name].median for name in got if name != "JAX")
        cells = [f"{got[name].median:,.0f}" if name in got else "–" for name in SIDES]
        fields = tasks.config_of(case, **changes.get("changes", {}))
        batch = (fields.eval if task == "eval" else fields.train).batch_size
        spread = f"±{max(samples.spread for samples in got.values()):.0%}" if rounds > 1 else "–"
        lines.append(
            f"| `{case}` | {batch} | {' | '.join(cells)} | **{got['JAX'].median / best:.2f}** "
            f"| {spread} |"
        )
        say(lines[-1])
        taken += sum(samples.disturbed for samples in got.values())
        kept += sum(samples.kept_disturbed for samples in got.values())
    count = counted(rounds, "sample")
    vain = f", {kept} of them in vain" if kept else ""
    disturbed = counted(taken, "sample was", "samples were")
    again = f"{disturbed} disturbed by other programs and taken again{vain}."
    return "\n".join([*lines, "", f"{count} of each. {again}"])


def memory(cases: list[str], changes: dict) -> str:
    """Peak resident memory of training steps, with the allocator as it is by default."""
    lines = ["| model | batch | JAX, MB | PyTorch, MB | JAX / PyTorch |", "|---|---|---|---|---|"]
    for case in cases:
        job = {"case": case, "task": "train", "memory": True, "seconds": 0.01} | changes
        jobs = {name: SIDES[name] | job for name in ("JAX", "PyTorch")}
        got = race.race(jobs, 2, allocator={})
        ours, theirs = (got[name].peaks[-1] for name in jobs)
        batch = tasks.CASES[case].batch_size
        lines.append(f"| `{case}` | {batch} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |")
        say(lines[-1])
    return "\n".join(lines)


PARTS = {
    "train": lambda args: table("train", args.recipes, args.rounds, args.changes),
    "epoch": lambda args: table("epoch", args.recipes, max(1, args.rounds // 2), args.changes),
    # Batches are large, and a sample has to hold some.
    "eval": lambda args: table("eval", args.recipes, args.rounds, {"seconds": 3} | args.changes),
    "world": lambda args: world.table(args.published, args.rounds, args.changes),
    "memory": lambda args: memory(args.recipes, args.changes),
    "startup": lambda args: startup.tables(args.rounds, args.quick),
    "host": lambda args: host.table(args.rounds, args.quick),
    "input": lambda args: input_pipeline.tables(args.rounds, args.quick),
    "serve": lambda args: serving.table(args.cases, args.rounds, args.quick),
    "growth": lambda args: growth.measure_and_draw(args.record, args.quick),
}
ON_ONE_CORE = ("train", "eval", "world")
# Of one sample this short nothing can be concluded.
QUICK = {"changes": {"train.batch_size": 2, "eval.batch_size": 2}, "seconds": 0.01, "batches": 5}


def machine() -> str:
    """The processor and the versions, in a line."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((li.split(": ")[1] for li in lines if li.startswith("model name")), cpu)
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch"))
    return f"{os.cpu_count()} cores, {cpu}; {versions}; {time.strftime('%Y-%m-%d')}"


def main() -> None:
    """See the module's docstring."""
    name, raw = "python -m benchmarks", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=raw)
    models = list(dict.fromkeys([*tasks.CASES, *tasks.PUBLISHED]))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    named = {"choices": models, "metavar": "MODEL", "help": f"of {', '.join(models)}"}
    parser.add_argument("--cases", nargs="+", default=models, **named)
    parser.add_argument("--rounds", type=int, default=5, help="samples of each side")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--record", action="store_true", help=f"rewrite {PAGE.name}")
    how.add_argument("--quick", action="store_true", help="one short sample of batches of 2")
    told = f"one thread, and count its time: other programs may run ({', '.join(ON_ONE_CORE)})"
    parser.add_argument("--one-core", action="store_true", help=told)
    args = parser.parse_args()
    args.recipes = [case for case in args.cases if case in tasks.CASES]
    args.published = [case for case in args.cases if case in tasks.PUBLISHED]
    args.changes = (QUICK if args.quick else {}) | ({"one_core": True} if args.one_core else {})
    args.rounds = 1 if args.quick else args.rounds
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    if args.one_core and not set(args.parts or PARTS) <= set(ON_ONE_CORE):
        parser.error(f"--one-core is for the parts {', '.join(ON_ONE_CORE)}: name those you want")
    for part in args.parts or PARTS:
        say(f"== {part}: {machine()}")
        text = PARTS[part](args)
        say(text)
        if args.record:
            rewrite(part, f"{text}\n\n{machine()}", PAGE)


if __name__ == "__main__":
    sys.exit(run_command(main))
