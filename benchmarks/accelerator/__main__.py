"""The process of one piece, which `command.py` starts."""

import argparse
from pathlib import Path

from benchmarks.accelerator import pieces
from benchmarks.accelerator.plan import PIECES


def main() -> None:
    """Carry out what is left of a piece."""
    parser = argparse.ArgumentParser()
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--session", required=True)
    pieces.add_arguments(parser)
    given = vars(parser.parse_args())
    name, folder = given.pop("piece"), Path(given.pop("folder"))
    pieces.carry_out(name, PIECES[name], pieces.Job(folder, **given))


if __name__ == "__main__":
    main()
