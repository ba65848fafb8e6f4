"""`python -m jax_train compare`: runs on the same data, side by side."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

from jax_train.commands.options import add_data_place
from jax_train.printing import WIDTH, columns, counted, figure, pad, shorten

HELP = "compare finished runs on the same data, in a table and on a page"
DESCRIPTION = (
    "Compare finished runs on the same test images: cost, speed, accuracy, where they disagree "
    "and where each looks. Writes FOLDER/comparison.html."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs and the folder of the page."""
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help="run folders, at least two")
    out = "where to write (default: where the first run folder is)"
    parser.add_argument("--out", metavar="FOLDER", help=out)
    add_data_place(parser)


def run(args: argparse.Namespace) -> str:
    """Compare the runs; see `compare`."""
    return compare(args.run_folders, args.out, args.data, args.data_dir)


def compare(
    folders: Sequence[str | Path],
    out: str | Path | None = None,
    data: str | None = None,
    data_dir: str | None = None,
) -> str:
    """Compare finished runs on the same data and write comparison.html.

    Args:
      folders: of the runs.
      out: folder of the page; None: the one the first run folder is in.
      data, data_dir: where their data are now; None: where they were in training.

    Returns:
      A table for people, at most 80 columns wide for two models, and where the page is.

    Raises:
      UserError: the runs cannot be compared, or nothing can be written.
    """
    from jax_train.analysis import comparison
    from jax_train.machine import runtime
    from jax_train.pages.comparison import verdicts, write
    from jax_train.pages.page import Page

    runtime.prepare()
    compared = comparison.load(folders, data, data_dir, progress=True)
    out = Path(folders[0]).parent if out is None else Path(out)
    lines = _table(compared)
    for line in verdicts(compared):
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, write(compared, Page(out / "comparison.html"))])


def _table(compared) -> list[str]:
    """The main figures as lines for people."""
    from jax_train.analysis.comparison import seconds_per_epoch

    width = min(24, max(5, *(columns(one.name) for one in compared)))
    lines = [
        f"{compared[0].evaluation.split} of {compared[0].run.config.data.name}: "
        f"{counted(len(compared[0].right), 'image')}",
        f"  {'':{width}}   top-1   95 % interval  parameters   MFLOP  images/s  s/epoch",
    ]
    for one in compared:
        low, high = one.evaluation.top1_interval
        top1 = figure(one.evaluation.figures["top1"], "7.2%")
        lines.append(
            f"  {pad(shorten(one.name, width), width)} {top1} "
            f"{figure(100 * low, '6.1f')} – {figure(100 * high, '5.1f')} % "
            f"{figure(one.run.results['parameters'], '11,')} "
            f"{one.flops.forward / 1e6:7.4g} {one.evaluation.images_per_sec:9,.0f} "
            f"{figure(seconds_per_epoch(one), '8.1f')}"
        )
    return lines
