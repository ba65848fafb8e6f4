"""Prove a GPU or TPU: measure all that is claimed of one, in pieces, and write a page.

python -m benchmarks accelerator                      all pieces; the same command goes on
python -m benchmarks accelerator --pieces parity      these pieces only
python -m benchmarks accelerator --limit 540          end within nine minutes
python -m benchmarks accelerator --short              see on a CPU that all works
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax_models
from benchmarks import host, tasks
from benchmarks.accelerator import page, pieces
from benchmarks.accelerator.pieces import Job, State
from benchmarks.accelerator.plan import PIECES
from jax_train.errors import Incomplete, UserError, nearest
from jax_train.files import expand
from jax_train.printing import counted, say
from results import recipes
from tests.parity.measure import ROOT

MOST = 600  # seconds of a process
_LEAST = 20  # below which none is started
_TO_END = 10  # seconds that a process has to end by itself

# Carries out a piece in at most so many seconds: its exit code, None where it was killed.
Start = Callable[[str, Job], int | None]


def main(argv: Sequence[str]) -> str:
    """Carry out what is asked for; what is told at the end."""
    job, chosen, limit, target = _parse(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends its process too
    job.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + limit
    _look_at_device(job, start)
    in_time = go_on(chosen, job, end, start, lambda: page.write(job.folder, target))
    return _told(in_time, [pieces.read(job.folder, name) for name in chosen], target)


def _told(in_time: bool, states: list[State], target: Path) -> str:
    """What is left, and where the page is."""
    left = any(state.todo(state.asked, "") for state in states)
    if in_time and not left:
        return f"All is measured. The page: {target}"
    failed = counted(sum(len(state.errors) for state in states), "measurement")
    return Incomplete(f"Not all is measured ({failed} failed): call it again.\nThe page: {target}")


def _parse(argv: Sequence[str]) -> tuple[Job, list[str], float, Path]:
    name, raw = "python -m benchmarks accelerator", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=raw)
    names = [name for name in PIECES if name != "device"]
    told = {"metavar": "PIECE", "choices": names, "help": f"of {', '.join(names)}"}
    parser.add_argument("--pieces", nargs="+", default=names, **told)
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds of the command")
    parser.add_argument("--page", help="to write (docs/accelerator.md; beside results if --short)")
    pieces.add_arguments(parser)
    given = parser.parse_args(argv)
    _check_cases(given.cases)
    folder = given.folder or ROOT / "runs" / f"accelerator{'_short' * given.short}"
    folder = Path(folder).absolute()
    own = folder / page.PAGE.name if given.short else page.PAGE
    target = Path(given.page).absolute() if given.page else own
    data_dir = given.data_dir and str(expand(given.data_dir).absolute())
    session = f"{time.time():.0f}"
    job = Job(folder, given.cases, data_dir, given.short, session=session)
    return job, [name for name in names if name in given.pieces], given.limit, target


def _check_cases(cases: Sequence[str] | None) -> None:
    known = {*jax_models.list_models(), *tasks.CASES, *host.CASES, *recipes.RECIPES}
    for case in cases or ():
        if case not in known:
            raise UserError(f"--cases {case}: there is no such model{nearest(case, known)}.")


def _look_at_device(job: Job, start: Start) -> None:
    """Find out what is there.

    Raises:
      UserError: no accelerator, or another than that of the results in the folder.
    """
    before = pieces.read(job.folder, "device")
    pieces.write(job.folder, "device", State())
    code = start("device", replace(job, seconds=120))
    found = pieces.read(job.folder, "device")
    if "device" not in found.figures:
        pieces.write(job.folder, "device", before)
        reason = found.errors.get("device", ("", f"the process ended with code {code}"))[1]
        raise UserError(f"JAX does not find its devices: {reason}. See {job.folder}/device.log.")
    now, then = found.figures["device"], before.figures.get("device")
    if now["platform"] == "cpu" and not job.short:
        pieces.write(job.folder, "device", before)
        raise UserError(
            "JAX sees no GPU or TPU here, only the CPU. Install JAX for the device (README, 'GPU "
            "and TPU'), or add --short to try the command."
        )
    if then and any(now[key] != then[key] for key in ("kind", "count")):
        pieces.write(job.folder, "device", before)
        raise UserError(
            f"--folder {job.folder} has results of {then['count']} x {then['kind']}, and here is "
            f"{now['count']} x {now['kind']}. Name another folder."
        )


def go_on(
    chosen: list[str], job: Job, end: float, start: Start, written: Callable[[], None]
) -> bool:
    """Carry out what is left of some pieces; False where the time was over before.

    Args:
      chosen: of `PIECES`.
      job: for all of them.
      end: on the clock of `time.monotonic`.
      start: see `Start`.
      written: called when there is something new for the page.
    """
    in_time = True
    for name in chosen:
        least = 0 if job.short else max(_LEAST, PIECES[name].needs + _TO_END)
        while True:
            seconds = min(MOST, end - time.monotonic())
            if seconds < least:
                in_time = False
                break
            before = pieces.read(job.folder, name)
            code = start(name, replace(job, seconds=seconds))
            state = pieces.read(job.folder, name)
            if code != 0:
                _note_end(state, code, seconds, job)
                pieces.write(job.folder, name, state)
            written()
            say(f"{name}: {len(state.figures)} of {len(state.planned)} measured")
            if state == before or not state.todo(state.asked, job.session):
                break
    return in_time


def _note_end(state: State, code: int | None, seconds: float, job: Job) -> None:
    """Note what became of the measurement during which a process ended."""
    if code is None and seconds < MOST:
        if state.now:
            state.pause(state.now, "stopped by the limit")
        return
    why = f"the process ended with code {code}"
    if code is None:
        why = f"it took longer than {seconds / 60:.0f} minutes"
    state.fail(state.now or pieces.START, job.session, why)


def start(name: str, job: Job) -> int | None:
    """See `Start`; what the process prints goes to a log beside its results."""
    command = [sys.executable, "-m", "benchmarks.accelerator", name, "--session", job.session]
    command += ["--seconds", str(job.seconds - _TO_END), "--folder", str(job.folder)]
    command += ["--cases", *job.cases] if job.cases else []
    command += ["--data_dir", job.data_dir] if job.data_dir else []
    command += ["--short"] if job.short else []
    environment = os.environ | PIECES[name].environment
    flags = [one["XLA_FLAGS"] for one in (os.environ, environment) if "XLA_FLAGS" in one]
    environment |= {"XLA_FLAGS": " ".join(dict.fromkeys(flags))} if flags else {}
    with open(job.folder / f"{name}.log", "ab") as log:
        how = {"stdout": log, "stderr": log, "start_new_session": True, "env": environment}
        process = subprocess.Popen(command, cwd=ROOT, **how)
        try:
            return process.wait(job.seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end(process)


def _end(process: subprocess.Popen) -> None:
    """End a process and what it started, such as a run."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(_TO_END / 2)
            except subprocess.TimeoutExpired:
                continue
