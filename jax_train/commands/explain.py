"""`python -m jax_train explain`: pictures of what a trained model looks at."""

import argparse
from pathlib import Path

from jax_train.commands.options import add_data_place, add_run_or_source, open_run_or_source
from jax_train.errors import UserError
from jax_train.printing import as_paragraph

HELP = "draw what a model looks at: attention, feature maps, Grad-CAM"
DESCRIPTION = (
    "Draw where the model of a run, or a pretrained one, looks, as PNG files: attention, positions "
    "and patches of a ViT; feature maps, filters and Grad-CAM of a CNN."
)
_MOST_IMAGES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the run, the images and the folder of the pictures."""
    add_run_or_source(parser)
    add = parser.add_argument
    images = "image file of any size, or a folder of them (default: test images of the run's data)"
    add("images", nargs="*", metavar="IMAGE", help=images)
    add("--split", help="split of the run's data to take images of (default: test)")
    index = "which images of the split, from 0 (default: one of each class, up to 4)"
    add("--index", nargs="+", type=int, default=[], metavar="N", help=index)
    add("--stage", type=int, metavar="N", help="Grad-CAM of this stage only, from 1")
    add(
        "--out",
        metavar="FOLDER",
        help="where to write (default: RUN/explain; explain/NAME of a pretrained model)",
    )
    add_data_place(parser)


def run(args: argparse.Namespace) -> str:
    """Explain a run by pictures; return the list of files and what the model lacks.

    Raises:
      UserError: the run, an image or an argument is not usable.
    """
    from jax_train.data.given_images import find_images
    from jax_train.files import check_folder
    from jax_train.pages.pictures import choose_examples, choose_files, pictures, remarks

    if args.images and (args.split is not None or args.index):
        raise UserError("IMAGES were given, so --split and --index have no meaning: leave them.")
    paths = find_images(args.images)
    if (count := max(len(paths), len(args.index))) > _MOST_IMAGES:
        raise UserError(
            f"{count} images were given; expected at most {_MOST_IMAGES}, because most pictures "
            "are of one image each. Explain them in several calls."
        )
    if args.out is not None:
        check_folder("--out", args.out)
    run = open_run_or_source(args)
    check_stage(run.model, run.config.model.name, args.stage)
    out = run.pictures_folder if args.out is None else Path(args.out)
    check_folder("--out", out)
    chosen = choose_files(run, paths) if paths else choose_examples(run, args.split, args.index)
    lines = [str(picture.save(out)) for picture in pictures(run, chosen, args.stage)]
    return "\n".join(lines + remarks(run) + [as_paragraph(f"note: {note}") for note in run.notes])


def check_stage(model, name: str, stage: int | None) -> None:
    """Raise a UserError unless a model has a stage of that number, from 1."""
    if stage is None:
        return
    stages = getattr(model, "stages", ())
    if not stages:
        raise UserError(f"--stage {stage}: {name} has no convolution stages. Leave --stage out.")
    if not 1 <= stage <= len(stages):
        raise UserError(f"--stage {stage}: {name} has the stages 1 to {len(stages)}.")
