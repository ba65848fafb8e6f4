"""Train an image classifier in JAX.

  python train_jax.py --config configs/vit_cifar10.py
  python train_jax.py --config configs/vit_cifar10.py --config.train.epochs=5

Every field of a config can be changed by --config.GROUP.FIELD=VALUE;
configs/common.py lists them all with their meaning. Running the same command
again goes on after an interruption.
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from configs import common
from jax_train import config as config_checks
from jax_train.errors import UserError, run_command

_DEFAULT = Path(__file__).resolve().parent / "configs" / "vit_digits.py"
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, f"the recipe, a Python file; without it configs/{_DEFAULT.name}"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "run folder (default: runs/NAME of the config)")
_IF_FINISHED = flags.DEFINE_enum(
    "if_finished", "report", ["report", "again"],
    "when the run folder holds a finished run: print its results, or rename the folder and train "
    "again",
)  # fmt: skip


def main(argv: list[str]) -> None:
    """Check the config and the run folder, then train."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(None)  # plain lines for people
    if len(argv) > 1:
        raise UserError(f"{argv[1]!r} is no flag. Did you mean --config {argv[1]} ?")
    config = _CONFIG.value
    config_checks.clear_none_tuples(config)
    config_checks.validate(config, common.get_config())
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = Path(_WORKDIR.value or Path("runs") / name)

    from jax_train import report, run_folder

    run_folder.check(workdir, config)
    results = run_folder.results(workdir)
    if results and _IF_FINISHED.value == "again":
        print(f"the finished run that was in {workdir} is now in {run_folder.set_aside(workdir)}")
        results = None
    if results:
        print(f"{workdir} holds this run, finished; --if_finished=again trains again")
    else:
        from jax_train.train import train

        try:
            results = train(config, workdir)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)
    print(report.summary(results, workdir))


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags and load the config file.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, or a config file that is
        missing or cannot be run.
    """
    config_checks.check_overrides(argv[1:], common.get_config())
    if not any(argument.lstrip("-").split("=")[0] == "config" for argument in argv[1:]):
        argv = [argv[0], f"--config={_DEFAULT}", *argv[1:]]
    try:
        rest = flags.FLAGS(argv)
        list(_CONFIG.value)  # a missing file shows only when the value is first touched
    except flags.Error as error:
        raise UserError(str(error)) from error
    except OSError as error:
        known = sorted(path.name for path in _DEFAULT.parent.glob("*_*.py"))
        raise UserError(
            f"--config {config_flags.get_config_filename(flags.FLAGS['config'])} cannot be read. "
            f"In {_DEFAULT.parent} there are: {', '.join(known)}."
        ) from error
    except Exception as error:  # a config file is a program: anything can go wrong in it
        raise UserError(
            f"The config cannot be loaded: {type(error).__name__}: {error}. A config file defines "
            "get_config() and starts from configs/common.py."
        ) from error
    return rest


if __name__ == "__main__":
    sys.exit(run_command(lambda: app.run(main, flags_parser=parse_flags)))
