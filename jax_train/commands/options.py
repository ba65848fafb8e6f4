"""Arguments that several commands take."""

import argparse


def _add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--tta",
        default="",
        metavar="VIEWS",
        help="test-time augmentation: average the probabilities over mirror images (flip), five "
        "shifted views (crops), or both (flip,crops)",
    )
