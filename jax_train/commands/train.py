"""`python -m jax_train train`: train a model by a recipe."""

import contextlib
import faulthandler
import functools
import sys
from collections.abc import Sequence

from jax_train.printing import say

HELP = "train an image classifier by a recipe, or go on with it"


def run_line(arguments: Sequence[str], program: str) -> str | None:
    """Train what a command line says; `train_jax.py` is this command.

    Args:
      arguments: recipe and flags.
      program: how this command is called.

    Returns:
      The results, or the help, for people; None in a process that is not the first of several.

    Raises:
      UserError: what is asked for is not possible.
    """
    from jax_train.config import command_line

    if command_line.asks_for_help(arguments):
        return command_line.help_text(program)
    line = command_line.parse(arguments)
    with contextlib.suppress(AttributeError, OSError, RuntimeError, ValueError):  # without a stderr
        faulthandler.enable()  # an end in compiled code is told with what Python was doing
    from jax_train import checks

    checks.check_fields(line.config)  # before JAX is imported, which takes a second
    if line.keep_memory:
        from jax_train.machine import allocator

        allocator.tune()  # before JAX starts its threads
    from jax_train.machine import processes, stopping

    if line.distributed or any(value is not None for value in line.by_hand):
        processes.start(*line.by_hand)
    from jax_train import several  # it checks the rest, which needs the devices
    from jax_train.engine import models

    models.leave_out_sizes(line.config, line.given)
    try:
        train = several.train_and_compare if line.config.compare else several.train_one
        if line.seeds is not None:
            train = functools.partial(several.train_seeds, seeds=line.seeds)
        text = train(line.config, workdir=line.workdir, again=line.again, extend=line.extend)
    except stopping.Stopped as stopped:
        if processes.is_main():
            say(f"{stopped}; the same command goes on from there", error=True)
        sys.exit(stopping.EXIT_CODE)
    except KeyboardInterrupt:
        text = "interrupted; the same command goes on from the last checkpoint, if any"
        say(text, error=True)
        sys.exit(130)
    return text if processes.is_main() else None
