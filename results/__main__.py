"""Train what the documentation shows figures of, and write the figures down.

  python -m results recipes NAME… --seeds 0 1   recipes; records below results/records
  python -m results transfer                    weights of CIFAR-100 on CIFAR-10, two hours
  python -m results transfer --only vit         the runs of one model alone
  python -m results precision                   bfloat16 beside float32, half an hour

With --record the tables in docs/ are written too. What is finished is not trained again; after an
interruption the same command goes on.
"""

import argparse
import sys
from pathlib import Path

from jax_train.errors import UserError, run_command
from results import picture, precision, recipes, runs, transfer
from tests.parity.measure import rewrite

MODELS = ["resnet", "vit"]


def main() -> None:
    """Carry out the runs of one study."""
    summary, rest = __doc__.split("\n", 1)
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("results", description=summary, epilog=rest, **how)
    studies = parser.add_subparsers(required=True, metavar="STUDY")
    study = studies.add_parser("recipes", help="what the recipes reach")
    known = ", ".join(recipes.RECIPES)
    study.add_argument("names", nargs="*", metavar="NAME", type=_known, help=f"of {known}")
    study.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    study.set_defaults(call=_recipes)
    study = studies.add_parser("transfer", help="what a start from weights is worth")
    study.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    study.set_defaults(call=_transfer)
    study = studies.add_parser("precision", help="whether bfloat16 follows float32")
    study.set_defaults(call=_precision)
    for study in studies.choices.values():
        study.add_argument("--data_dir", help="as config.data.data_dir")
        study.add_argument("--workdir", default="runs/results", help="folder of the run folders")
        study.add_argument("--record", action="store_true", help="write the tables in docs/")
    given = parser.parse_args()
    given.call(given, Path(given.workdir).absolute())


def _known(name: str) -> str:
    if name not in recipes.RECIPES:
        raise argparse.ArgumentTypeError(f"no recipe {name}: see --help")
    return name


def _recipes(given: argparse.Namespace, folder: Path) -> None:
    recipes.train(given.names, given.seeds, given.data_dir, folder)
    if given.record:
        rewrite("recipes", recipes.table(), recipes.PAGE)
        picture.draw(recipes.points())


def _transfer(given: argparse.Namespace, folder: Path) -> None:
    runs.carry_out(transfer.all_runs(given.only, given.data_dir, folder), folder)
    if given.record:
        if given.only != MODELS:
            raise UserError("--record needs the runs of all models: leave out --only.")
        rewrite("transfer", transfer.record(folder), transfer.PAGE)


def _precision(given: argparse.Namespace, folder: Path) -> None:
    runs.carry_out(precision.all_runs(given.data_dir), folder)
    if given.record:
        rewrite("precision", precision.record(folder), precision.PAGE)


if __name__ == "__main__":
    sys.exit(run_command(main))
