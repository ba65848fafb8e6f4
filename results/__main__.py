"""Train what the documentation shows figures of, and write the figures down.

  python -m results transfer --data_dir DIR     CIFAR-100's weights on CIFAR-10: two hours of a core
  python -m results transfer --only vit         the runs of one model alone
  python -m results transfer --record           also write the tables and the picture

What is finished is not trained again; after an interruption the same command goes on.
"""

import argparse
import sys
from pathlib import Path

from jax_train.errors import UserError, run_command
from results import runs, transfer
from tests.parity.measure import rewrite

MODELS = ["resnet", "vit"]


def main() -> None:
    """Carry out the runs of one study."""
    summary, rest = __doc__.split("\n", 1)
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("results", description=summary, epilog=rest, **how)
    parser.add_argument("study", choices=["transfer"])
    parser.add_argument("--data_dir", help="where the data sets are; as of config.data.data_dir")
    parser.add_argument("--workdir", default="runs/results", help="folder of the run folders")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument("--record", action="store_true", help="write docs/finetuning.md")
    given = parser.parse_args()
    folder = Path(given.workdir).absolute()
    runs.carry_out(transfer.all_runs(given.only, given.data_dir, folder), folder)
    if given.record:
        if given.only != MODELS:
            raise UserError("--record needs the runs of all models: leave out --only.")
        rewrite("transfer", transfer.record(folder), transfer.PAGE)


if __name__ == "__main__":
    sys.exit(run_command(main))
