"""Arguments that several commands take."""

import argparse
import os

from jax_train.errors import UserError


def add_run_folder(parser: argparse.ArgumentParser) -> None:
    """Add RUN."""
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")


def add_run_or_source(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add RUN, which may be a pretrained model, and what is for pretrained models alone.

    `several` of them become `args.runs`.
    """
    source = "run folder, such as runs/vit_digits, or a pretrained model: hf:ORG/NAME, "
    source += "timm/NAME.TAG, a folder of transformers or timm, a file of weights"
    if several:
        parser.add_argument("runs", nargs="+", metavar="RUN", help=source)
    else:
        parser.add_argument("run_folder", metavar="RUN", help=source)
    name = "name of the model, of a file of weights"
    parser.add_argument("--model", metavar="NAME", help=name)
    add_img_size(parser)


def add_img_size(parser: argparse.ArgumentParser) -> None:
    """Add --img_size."""
    side = "side of the images that a pretrained model takes, if not that of its source; the "
    side += "positions of a ViT are resized"
    parser.add_argument("--img_size", type=int, metavar="PIXELS", help=side)


def open_run_or_source(args: argparse.Namespace, *, needs_head: bool = True):
    """Open what `add_run_or_source` and `add_data_place` were given.

    Without `needs_head` a pretrained model may be one without.

    Raises:
      UserError: it cannot be used, or has another form than the other arguments take it for.
    """
    if not names_source(args):
        return open_run(args.run_folder, args.data, args.data_dir)
    if args.data or args.data_dir:
        raise UserError(f"{args.run_folder} has no data of its own: leave --data and --data_dir.")
    return open_source(args, needs_head=needs_head)


def open_with_data(args: argparse.Namespace):
    """Open what `add_run_or_source` was given, beside data that need not be the run's own.

    A pretrained model may be one without a head.

    Returns:
      (the run, name and `data_dir` of other data; None where the data are the run's own).

    Raises:
      UserError: as `open_run_or_source`, or there is no such data set.
    """
    from jax_train.runs.trained import holds_data_of

    place = args.data, args.data_dir
    if names_source(args):
        return open_source(args, needs_head=False), place if args.data else None
    if args.data is None or holds_data_of(args.run_folder, *place):
        return open_run(args.run_folder, *place), None
    return open_run(args.run_folder), place


def names_source(args: argparse.Namespace) -> bool:
    """Whether `add_run_or_source` was given a pretrained model.

    Raises:
      UserError: it was given a run, and what is for pretrained models alone.
    """
    from jax_train.runs import pretrained

    if pretrained.is_source(args.run_folder):
        return True
    if args.model is not None:
        raise UserError(
            f"--model {args.model}: {args.run_folder} is a run folder, or nothing. Leave "
            "--model out; it is for files of weights."
        )
    check_no_img_size(args.run_folder, args.img_size)
    return False


def check_no_img_size(run_folder: str | os.PathLike, side: int | None) -> None:
    """Raise a UserError where a run was given an image size."""
    if side is not None:
        raise UserError(
            f"--img_size {side}: {run_folder} is a run folder, or nothing, and a run takes images "
            "of the size that it was trained on. Leave --img_size out; it is for pretrained "
            f"models. A new run with --config.model.init_from={run_folder} may have another size."
        )


def open_source(args: argparse.Namespace, *, needs_head: bool = True):
    """Open a pretrained model; see `pretrained.open_source`."""
    from jax_train.machine import runtime
    from jax_train.runs import pretrained

    runtime.prepare()
    how = {"needs_head": needs_head, "img_size": args.img_size}
    return pretrained.open_source(args.run_folder, args.model, **how)


def add_data_place(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --data and --data_dir; `more` is said of --data."""
    place = f"where the run's data are now, such as folder:PATH{more} (default: where they were)"
    parser.add_argument("--data", metavar="NAME", help=place)
    data_dir = "TFDS folder of the data (default: where it was in training)"
    parser.add_argument("--data_dir", metavar="FOLDER", help=data_dir)


def open_run(folder: str, data: str | None = None, data_dir: str | None = None):
    """Open a run, with a cache for what will be compiled; see `trained.open_run`."""
    from jax_train.machine import runtime
    from jax_train.runs import trained

    runtime.prepare()
    return trained.open_run(folder, data, data_dir)


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def add_evaluation_options(parser: argparse.ArgumentParser) -> None:
    """Add --overwrite and --tta."""
    add_overwrite(parser)
    views = "test-time augmentation: average the probabilities over mirror images (flip), five "
    views += "shifted views (crops), or both (flip,crops); airbench: the logits over its six views"
    parser.add_argument("--tta", default="", metavar="VIEWS", help=views)
