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
from collections.abc import Callable, Iterable, Iterator
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


class Table(NamedTuple):
    """A part whose figures are kept by processor.

    Attributes:
      sides: the columns, JAX first.
      measured: the rows, each measured when it is taken.
      note: what is told of all of them.
      what: whether there is work of several kinds.
    """

    sides: Iterable[str]
    measured: Iterable[rows.Row]
    note: str = ""
    what: bool = False


def speeds(task: str, args: argparse.Namespace, rounds: int, **changes) -> Iterator[rows.Row]:
    """Images per second of each side on a task.

    Args:
      task: "train", "eval" or "epoch".
      args: the command's.
      rounds: samples of each side.
      changes: to each job (see `child.py`), which those of `args` go before.
    """
    changes |= args.changes
    for case, dtype in itertools.product(args.recipes, args.dtypes or DTYPES.get(task, DTYPES[""])):
        sides = {name: side for name, side in SIDES.items() if name not in _absent(task, case)}
        fields = changes.get("changes", {}) | {"dtype": dtype}
        job = changes | {"case": case, "task": task, "changes": fields}
        config = tasks.config_of(case, **fields)
        batch = (config.eval if task == "eval" else config.train).batch_size
        with race.left_out(f"{case}, {dtype}"):
            got = race.race({name: side | job for name, side in sides.items()}, rounds)
            yield rows.of_race(got, case=case, batch=batch, dtype=dtype)


def _absent(task: str, case: str) -> set[str]:
    """Sides that have nothing to gain."""
    has_tokens = any(word in case for word in ("vit", "cct"))
    absent = set() if has_tokens else {"fused attention"}
    if task == "epoch" and case != "attention_cnn":  # the one that compiling makes faster
        absent |= {"compiled"}
    return absent


def memory(args: argparse.Namespace) -> Iterator[rows.Row]:
    """Peak resident megabytes of training steps, with the allocator as it is by default."""
    for case in args.recipes:
        job = {"case": case, "task": "train", "memory": True, "limit": 0} | args.changes
        batch = tasks.config_of(case, **args.changes.get("changes", {})).train.batch_size
        with race.left_out(case):
            got = race.race({name: SIDES[name] | job for name in _MEMORY}, 2, allocator={})
            yield rows.Row(case, batch, {name: got[name].peaks[-1] for name in _MEMORY})


# A table that is kept by processor, or the newest text.
PARTS: dict[str, Callable[[argparse.Namespace], Table | str]] = {
    "train": lambda args: Table(SIDES, speeds("train", args, args.rounds)),
    "epoch": lambda args: Table(SIDES, speeds("epoch", args, max(1, args.rounds // 2))),
    # Batches are large, and a sample has to hold some.
    "eval": lambda args: Table(SIDES, speeds("eval", args, args.rounds, seconds=3)),
    "world": lambda args: Table(
        world.SIDES,
        world.rows_of(args.published, args.rounds, args.changes),
        world.note(args.changes),
        what=True,
    ),
    "memory": lambda args: Table(_MEMORY, memory(args), "Megabytes."),
    "startup": lambda args: startup.tables(args.rounds, args.quick),
    "host": lambda args: host.table(args.rounds, args.quick),
    "input": lambda args: input_pipeline.tables(args.rounds, args.quick),
    "serve": lambda args: serving.table(args.cases, args.rounds, args.quick),
    "growth": lambda args: growth.measure_and_draw(args.record, args.quick),
}
ON_ONE_CORE = ("train", "eval", "world")
_MEMORY = ("JAX", "PyTorch")
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
        if isinstance(found, Table):
            follow(part, found, here, args.record)
            continue
        say(found)
        if args.record:
            rewrite(part, f"{found}\n\n{machine.text(here)}", PAGE)


def follow(part: str, table: Table, here: dict, record: bool) -> None:
    """Print rows as they come; with `record` each is kept at once, as later ones may take hours."""
    for line in rows.header(table.sides, table.what):
        say(line)
    found = []
    for row in table.measured:
        found.append(row)
        say(rows.line(row, table.sides))
        if record:
            rows.keep(part, here, [row], table.note)
            rewrite(part, rows.page(part), PAGE)
    say("\n" + " ".join(filter(None, (rows.told(found), table.note))))


if __name__ == "__main__":
    sys.exit(run_command(main))
