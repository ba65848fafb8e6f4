"""Time JAX against the best PyTorch on this machine, side by side.

  python -m benchmarks                       every part, some hours on 2 cores
  python -m benchmarks train epoch           these parts only
  python -m benchmarks train --cases vit     of this model only
  python -m benchmarks --record              also rewrite the tables in docs/performance.md
  python -m benchmarks world --one-core      by the time of one core, on a machine in use
  python -m benchmarks --quick               see in minutes that all works; no figures to keep
  python -m benchmarks accelerator --help    what a GPU or TPU does

Each side of each row is a process of its own; the processes take turns. A sample begins when its
side is as fast as before it waited, and is taken again if other programs used the machine.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import (
    growth,
    host,
    input_pipeline,
    machine,
    race,
    rows,
    serving,
    startup,
    tasks,
    world,
)
from jax_train.errors import run_command
from jax_train.printing import say
from tests.parity.measure import ROOT, rewrite

PAGE = ROOT / "docs" / "performance.md"
SIDES = {
    "JAX": {"side": "jax"},
    "PyTorch": {"side": "torch", "options": {"fused_attention": False}},
    "fused attention": {"side": "torch"},
    "compiled": {"side": "torch", "options": {"compiled": True}},
}


class Measured(NamedTuple):
    """What a part of the benchmarks found.

    Attributes:
      text: for people.
      kept: rows, by processor; none of parts of which the newest text alone is kept.
      note: what is told of the rows.
    """

    text: str
    kept: Sequence[rows.Row] = ()
    note: str = ""


def table(task: str, args: argparse.Namespace, rounds: int, **changes) -> Measured:
    """Images per second of each side on a task, and the ratio to the fastest PyTorch.

    Args:
      task: "train", "eval" or "epoch".
      args: the command's.
      rounds: samples of each side.
      changes: to each job (see `child.py`), which those of `args` go before.
    """
    changes |= args.changes
    lines, found, samples = rows.header(SIDES), [], []
    for case, dtype in itertools.product(args.recipes, args.dtypes or DTYPES.get(task, DTYPES[""])):
        sides = {name: side for name, side in SIDES.items() if name not in _absent(task, case)}
        fields = changes.get("changes", {}) | {"dtype": dtype}
        job = changes | {"case": case, "task": task, "changes": fields}
        got = race.race({name: side | job for name, side in sides.items()}, rounds)
        config = tasks.config_of(case, **fields)
        batch = (config.eval if task == "eval" else config.train).batch_size
        found.append(rows.of_race(got, case=case, batch=batch, dtype=dtype))
        lines.append(rows.line(found[-1], SIDES))
        say(lines[-1])
        samples += got.values()
    note = rows.told(samples, rounds)
    return Measured("\n".join([*lines, "", note]), found, note)


def _absent(task: str, case: str) -> set[str]:
    """Sides that have nothing to gain."""
    has_tokens = any(word in case for word in ("vit", "cct"))
    absent = set() if has_tokens else {"fused attention"}
    if task == "epoch" and case != "attention_cnn":  # the one that compiling makes faster
        absent |= {"compiled"}
    return absent


def memory(args: argparse.Namespace) -> Measured:
    """Peak resident memory of training steps, with the allocator as it is by default."""
    sides = ("JAX", "PyTorch")
    lines, found = rows.header(f"{name}, MB" for name in sides), []
    for case in args.recipes:
        job = {"case": case, "task": "train", "memory": True, "limit": 0} | args.changes
        got = race.race({name: SIDES[name] | job for name in sides}, 2, allocator={})
        figures = {name: got[name].peaks[-1] for name in sides}
        batch = tasks.config_of(case, **args.changes.get("changes", {})).train.batch_size
        found.append(rows.Row(case, batch, figures))
        lines.append(rows.line(found[-1], sides))
        say(lines[-1])
    return Measured("\n".join(lines), found, "Megabytes.")


PARTS = {
    "train": lambda args: table("train", args, args.rounds),
    "epoch": lambda args: table("epoch", args, max(1, args.rounds // 2)),
    # Batches are large, and a sample has to hold some.
    "eval": lambda args: table("eval", args, args.rounds, seconds=3),
    "world": lambda args: Measured(*world.table(args.published, args.rounds, args.changes)),
    "memory": memory,
    "startup": lambda args: Measured(startup.tables(args.rounds, args.quick)),
    "host": lambda args: Measured(host.table(args.rounds, args.quick)),
    "input": lambda args: Measured(input_pipeline.tables(args.rounds, args.quick)),
    "serve": lambda args: Measured(serving.table(args.cases, args.rounds, args.quick)),
    "growth": lambda args: Measured(growth.measure_and_draw(args.record, args.quick)),
}
ON_ONE_CORE = ("train", "eval", "world")
DTYPES = {"train": ("float32", "bfloat16"), "": ("float32",)}
# Of one sample this short nothing can be concluded.
QUICK = {"changes": {"train.batch_size": 2, "eval.batch_size": 2}, "limit": 0, "batches": 5}


def main() -> str | None:
    """See the module's docstring."""
    if sys.argv[1:2] == ["accelerator"]:
        from benchmarks.accelerator import command

        return command.main(sys.argv[2:])
    name, raw = "python -m benchmarks", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=raw)
    models = list(dict.fromkeys([*tasks.CASES, *tasks.PUBLISHED]))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    named = {"choices": models, "metavar": "MODEL", "help": f"of {', '.join(models)}"}
    parser.add_argument("--cases", nargs="+", default=models, **named)
    parser.add_argument("--rounds", type=int, default=5, help="samples of each side")
    dtypes = "of the computation (train: both, others: float32)"
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES["train"], help=dtypes)
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
    here = machine.describe() | ({"cores": 1} if args.one_core else {})
    for part in args.parts or PARTS:
        say(f"== {part}: {machine.text(here)}")
        found = PARTS[part](args)
        say(found.text)
        if args.record:
            record(part, found, here)


def record(part: str, found: Measured, here: dict) -> None:
    """Rewrite a part of the page: a column for each kind of processor, or the text as it is."""
    if found.kept:
        rows.keep(part, here, found.kept, found.note)
        rewrite(part, rows.page(part), PAGE)
    else:
        rewrite(part, f"{found.text}\n\n{machine.text(here)}", PAGE)


if __name__ == "__main__":
    sys.exit(run_command(main))
