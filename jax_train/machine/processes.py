"""Several processes, perhaps on several machines, that train one model.

Every process runs the same program on its share of each batch; the first one alone prints and
writes the files of a run. Source: https://docs.jax.dev/en/latest/multi_process.html.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jax_train.errors import UserError
from jax_train.printing import counted, note

Result = TypeVar("Result")
_runs_alone = False  # within `on_main` the others wait for its result and for nothing else


def start(
    coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> None:
    """Join the other processes; call it before anything else uses JAX.

    Args:
      coordinator: 'HOST:PORT' of the first process, which listens there. None: JAX finds all
        three out by itself, under SLURM, Open MPI, Kubernetes and on cloud TPUs.
      count: number of processes.
      index: of this process, from 0.

    Raises:
      UserError: the three do not belong together, or the others were not found.
    """
    given = {"coordinator": coordinator, "num_processes": count, "process_id": index}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise UserError(
            f"{' and '.join(missing)} missing: --coordinator=HOST:PORT, --num_processes and "
            "--process_id belong together, the same command with another --process_id for each "
            "process. Leave all three out where JAX finds them by itself (--distributed)."
        )
    if count is not None and count < 1:
        raise UserError(
            f"--num_processes={count}: expected a whole number of at least 1. Start as many "
            "processes, each with another --process_id."
        )
    if count is not None and index is not None and not 0 <= index < count:
        of = counted(count, "process", "processes")
        raise UserError(
            f"--process_id={index}: expected 0 to {count - 1} of {of}. Give each another one."
        )
    try:
        jax.distributed.initialize(coordinator, count, index, initialization_timeout=120)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The processes did not find one another: {reason}. Give each of them "
            "--coordinator=HOST:PORT of the first one, --num_processes and --process_id, and see "
            "that the port can be reached."
        ) from error
    _tell_unused_gpus()


def _tell_unused_gpus() -> None:
    """Say that GPUs which SLURM gave are left idle: there JAX has each process take one."""
    facts = os.environ
    gpus = facts.get("SLURM_GPUS_ON_NODE", "")
    tasks = re.match(r"\d+", facts.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if facts.get("SLURM_PROCID") == "0" and gpus.isdigit() and tasks and int(gpus) > int(tasks[0]):
        note(
            f"{int(gpus) - int(tasks[0])} of the {gpus} GPUs of a node are left idle: under SLURM "
            f"JAX takes one for each process. Have srun start {gpus} tasks on each node."
        )


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def on_main(function: Callable[[], Result]) -> Result:
    """Run a function in the first process and return its result, made of JSON's types, in all.

    Raises:
      Exception: what the function raised, in the first process; the others exit with code 2.
    """
    global _runs_alone
    if jax.process_count() == 1 or _runs_alone:
        return function()
    result, error = None, None
    if is_main():
        _runs_alone = True
        try:
            result = function()
        except Exception as raised:  # of whatever kind: the others must not wait for ever
            error = raised
        finally:
            _runs_alone = False
    failed, result = _broadcast([error is not None, result])
    if error:
        raise error
    if failed:
        sys.exit(2)
    return result


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process; all have to ask."""
    if jax.process_count() == 1 or _runs_alone:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def _broadcast(value):
    """The first process's value, made of JSON's types, in all processes."""
    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.frombuffer(text[:size].ljust(size), np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
