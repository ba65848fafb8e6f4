"""`python -m jax_train features`: what a model makes of images before its head."""

import argparse
from collections import Counter

from jax_train.commands.options import (
    add_data_place,
    add_overwrite,
    add_run_or_source,
    open_with_data,
)
from jax_train.commands.predict import unread_files
from jax_train.errors import Incomplete, UserError
from jax_train.files import check_output
from jax_train.printing import as_paragraph, counted, readable

HELP = "write the features of images, what the head of a model reads, into a .npz file"
DESCRIPTION = (
    "Write the features of images: what the head of a trained or pretrained model reads, or its "
    "last tokens. FILE is NumPy's .npz with features [N,F] and names [N] and, where the images "
    "lie in folders of classes or are of a data set, labels [N] and class_names. Files that cannot "
    "be read are listed; the exit code is then 1."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the images, and the file."""
    add_run_or_source(parser)
    add = parser.add_argument
    images = "image files, or folders to search for them; none: those of --split"
    add("images", nargs="*", metavar="IMAGE", help=images)
    add("--to", required=True, metavar="FILE", help="file to write, such as features.npz")
    split = "of the run's data or of --data, such as train or 'test[:1000]'"
    add("--split", metavar="SPLIT", help=split)
    add_data_place(parser, ", or other data")
    tokens = "the last tokens [N,T,F] of a ViT, prefix first, or the last feature maps [N,H,W,F]"
    add("--tokens", action="store_true", help=f"{tokens} of a CNN, instead of what the head reads")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> str:
    """Write the features; return what was written, for people.

    Raises:
      UserError: an argument is wrong, or the model, the images or the file cannot be used.
    """
    check_output("--to", args.to, args.overwrite)
    if args.images and (args.split or args.data or args.data_dir):
        raise UserError(
            f"{readable(args.images[0])} and {'--split' if args.split else '--data'}: name images, "
            "or the split of a data set, not both."
        )
    if not args.images and not args.split:
        raise UserError(
            "Which images? Name files or a folder of them after RUN, or a split of the data, such "
            "as --split train."
        )
    left_out: Counter[str] = Counter()
    if args.images:
        from jax_train.data.given_images import find_images

        files = find_images(args.images, left_out)
    model, other = open_with_data(args)
    from jax_train.analysis import feature_files, features
    from jax_train.data.image_files import told

    if args.images:
        images = features.of_places(model, files, args.images)
    else:
        images = features.of_split(model, args.split, other)
    unread: dict[str, str] = {}
    with feature_files.Spool(args.to) as spool:
        spool.add(features.extract(model, images, unread, tokens=args.tokens, progress=True))
        found = features.describe(model, images, None, spool.places, spool.labels)
        feature_files.write("--to", args.to, found, spool)
        shape = "x".join(map(str, spool.shape[1:]))
    lines = [f"{readable(args.to)}: features of {counted(len(found.names), 'image')}, {shape} each"]
    if found.labels is not None:
        lines.append(f"labels of {counted(len(found.class_names), 'class', 'classes')}")
    notes = (*model.notes, *images.notes, *filter(None, [told(left_out)]))
    lines += [as_paragraph(f"note: {note}") for note in notes]
    if unread:
        lines += ["", *unread_files(unread, len(images.names))]
    return (Incomplete if unread else str)("\n".join(lines))
