"""Train an image classifier in JAX.

  python train_jax.py --config configs/vit_cifar10.py
  python train_jax.py --config configs/vit_cifar10.py --config.train.epochs=5

Every field of a config can be changed by --config.GROUP.FIELD=VALUE;
configs/common.py lists them all with their meaning. Running the same command
again goes on after an interruption.
"""

import functools
import logging as stdlib_logging
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from configs import common
from jax_train.config import flags as config_line
from jax_train.errors import UserError, run_command
from jax_train.printing import say

_DEFAULT = Path(__file__).resolve().parent / "configs" / "vit_digits.py"
_RECIPE = f"the recipe, a Python file; without it configs/{_DEFAULT.name}"
_CONFIG = config_flags.DEFINE_config_file("config", None, _RECIPE)
_NO_CONFIG_FILE = (
    "The config cannot be loaded: {}. A config file defines get_config() and starts from "
    "configs/common.py."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "run folder (default: runs/NAME of the config)")
_FINISHED = (
    "when the run folder holds a finished run: print its results, or rename the folder and train "
    "again"
)
_IF_FINISHED = flags.DEFINE_enum("if_finished", "report", ["report", "again"], _FINISHED)
_LONGER = "go on with a run of fewer epochs, finished or not, to config.train.epochs"
_EXTEND = flags.DEFINE_bool("extend", False, _LONGER)
_MANY = "train by each of these seeds, as in --seeds 0 1 2, below the run folder; a table of all"
_SEEDS = flags.DEFINE_list("seeds", None, _MANY)
_SEVERAL = "several processes train one model and JAX finds them: SLURM, Open MPI, cloud TPUs"
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, _SEVERAL)
_BY_HAND = "several processes, set by hand: HOST:PORT of the first one"
_COORDINATOR = flags.DEFINE_string("coordinator", None, _BY_HAND)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "their number")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "which one this is, from 0")
_KEPT = (
    "on a Linux CPU, keep freed memory in the process, in huge pages: much faster on virtual "
    "machines"
)
_KEEP_MEMORY = flags.DEFINE_bool("keep_memory", True, _KEPT)


def main(argv: list[str]) -> None:
    """Train what the config and the other flags say."""
    logging.set_verbosity(logging.WARNING)
    stdlib_logging.root.removeHandler(logging.get_absl_handler())  # `run_command` has one
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag. Did you mean --config {argv[1]} ?")
    config = _CONFIG.value
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = Path(_WORKDIR.value or Path("runs") / name)
    from jax_train import checks

    seeds = None if _SEEDS.value is None else config_line.parse_seeds(_SEEDS.value)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    if seeds is not None and "seed" in given:
        raise UserError("--config.seed and --seeds: the latter stands for the former. Give one.")
    checks.check_fields(config)  # before JAX is imported, which takes a second
    if _KEEP_MEMORY.value:
        from jax_train.machine import allocator

        allocator.tune()  # before JAX starts its threads
    from jax_train.machine import processes, stopping

    by_hand = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if _DISTRIBUTED.value or any(value is not None for value in by_hand):
        processes.start(*by_hand)
    from jax_train import several  # it checks the rest, which needs the devices
    from jax_train.engine import models

    models.leave_out_sizes(config, given)

    try:
        train = several.train_and_compare if config.compare else several.train_one
        if seeds is not None:
            train = functools.partial(several.train_seeds, seeds=seeds)
        again = _IF_FINISHED.value == "again"
        text = train(config, workdir=workdir, again=again, extend=_EXTEND.value)
    except stopping.Stopped as stopped:
        if processes.is_main():
            say(f"{stopped}; the same command goes on from there", error=True)
        sys.exit(stopping.EXIT_CODE)
    except KeyboardInterrupt:
        text = "interrupted; the same command goes on from the last checkpoint, if any"
        say(text, error=True)
        sys.exit(130)
    if processes.is_main():
        say(text)


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags and load the config file.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, or a config file that is
        missing or cannot be run.
    """
    given, defaults = config_line.join_seeds(argv[1:]), common.get_config()
    config_line.check(given, defaults, _DEFAULT.parent)
    given, nones = config_line.take_nones(given, defaults)
    if not any(argument.lstrip("-").split("=")[0] == "config" for argument in given):
        given = [f"--config={_DEFAULT}", *given]
    try:
        rest = flags.FLAGS([argv[0], *given])
        # What is wrong with the file shows only when it is first touched.
        _CONFIG.value.update_from_flattened_dict(dict.fromkeys(nones))
    except flags.UnrecognizedFlagError as error:
        here = flags.FLAGS.find_module_defining_flag("workdir")
        own = [flag.name for flag in flags.FLAGS.get_key_flags_for_module(here)]
        text = config_line.unknown_flag(error.flagname, given, [*own, "help"], defaults)
        raise UserError(text) from error
    except flags.Error as error:
        text = str(error)
        if "Traceback" in text:  # from within the config file; its last line says what is wrong
            text = _NO_CONFIG_FILE.format(text.strip().splitlines()[-1].rstrip("."))
        raise UserError(text) from error
    except BrokenPipeError:  # of the help's reader
        raise
    except Exception as error:  # a config file is a program: anything can go wrong in it
        raise UserError(_NO_CONFIG_FILE.format(f"{type(error).__name__}: {error}")) from error
    return rest


if __name__ == "__main__":
    sys.exit(run_command(lambda: app.run(main, flags_parser=parse_flags)))
