"""`python -m jax_train explain`: pictures of what a trained model looks at."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from jax_models.cnn import ConvNet
from jax_train.data.given_images import find_images
from jax_train.errors import UserError
from jax_train.machine.runtime import enable_compilation_cache
from jax_train.pages.pictures import choose_examples, choose_files, notes, pictures
from jax_train.runs import trained

MOST_IMAGES = 16


def add_explain(commands) -> None:
    """Add `explain`: pictures of what a trained model looks at."""
    parser = commands.add_parser(
        "explain",
        help="draw what a trained model looks at: attention, feature maps, Grad-CAM",
        description="Draw where the model of a run looks, as PNG files: attention, positions and "
        "patches of a ViT; feature maps, filters and Grad-CAM of a CNN.",
    )
    parser.add_argument("run_folder", metavar="RUN", help="run folder, such as runs/vit_digits")
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="image file of any size, or a folder of them (default: test images of the run's data)",
    )
    parser.add_argument("--split", help="split of the run's data to take images of (default: test)")
    parser.add_argument(
        "--index",
        nargs="+",
        type=int,
        default=[],
        metavar="N",
        help="which images of the split, from 0 (default: one of each class, up to 4)",
    )
    parser.add_argument(
        "--stage", type=int, metavar="N", help="Grad-CAM of this stage only, from 1"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write (default: RUN/explain)")
    parser.set_defaults(run=run_explain)


def run_explain(args: argparse.Namespace) -> None:
    """Run `explain` and print the files that were written."""
    pass

    print(
        explain_and_describe(
            args.run_folder,
            args.images,
            split=args.split,
            index=args.index,
            out=args.out,
            stage=args.stage,
        )
    )


def explain_and_describe(
    folder: str | Path, files: Sequence[str] = (), *, split: str | None = None,
    index: Sequence[int] = (), out: str | Path | None = None, stage: int | None = None,
) -> str:  # fmt: skip
    """Explain a run by pictures; return the list of files and what the model lacks.

    Args:
      folder: the run.
      files: images of any size to explain, and folders of them.
      split: instead of files, of the run's data; None: its test split.
      index: which images of the split, from 0; none: one of each of the first classes, up to 4.
      out: folder of the pictures; None: `explain` in the run folder.
      stage: of Grad-CAM, from 1; None: each.

    Raises:
      UserError: the run, an image or an argument is not usable.
    """
    if files and (split is not None or len(index)):
        raise UserError("IMAGES were given, so --split and --index have no meaning: leave them.")
    paths = find_images(files)
    if max(len(paths), len(index)) > MOST_IMAGES:
        raise UserError(
            f"{max(len(paths), len(index))} images were given; expected at most {MOST_IMAGES}, "
            "because most pictures are of one image each. Explain them in several calls."
        )
    enable_compilation_cache()
    run = trained.open_run(folder)
    check_stage(run.model, run.config.model.name, stage)
    chosen = choose_files(run, paths) if files else choose_examples(run, split, index)
    out = run.folder / "explain" if out is None else Path(out)
    lines = [str(picture.save(out)) for picture in pictures(run, chosen, stage)]
    return "\n".join(lines + notes(run))


def check_stage(model, name: str, stage: int | None) -> None:
    """Raise a UserError unless a model has a stage of that number, from 1."""
    if stage is None:
        return
    if not isinstance(model, ConvNet):
        raise UserError(f"--stage {stage}: {name} has no convolution stages. Leave --stage out.")
    if not 1 <= stage <= len(model.stages):
        raise UserError(f"--stage {stage}: {name} has the stages 1 to {len(model.stages)}.")
