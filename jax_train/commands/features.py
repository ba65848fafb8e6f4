"""`python -m jax_train features`: what a model makes of images before its head."""

import argparse
import dataclasses
from collections import Counter
from pathlib import Path

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

HELP = "write the features of images, what the head of a model reads; draw what is alike"
DESCRIPTION = (
    "Write the features of images: what the head of a trained or pretrained model reads, or its "
    "last tokens. FILE is NumPy's .npz with features [N,F] and names [N] and, where the images "
    "lie in folders of classes or are of a data set, labels [N] and class_names; or .parquet, a "
    "row an image. Files that cannot be read are listed; the exit code is then 1."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the images, and what is made of them."""
    add_run_or_source(parser)
    add = parser.add_argument
    images = "image files, or folders to search for them; none: those of --split"
    add("images", nargs="*", metavar="IMAGE", help=images)
    add("--to", metavar="FILE", help="file to write, such as features.npz or features.parquet")
    split = "of the run's data or of --data, such as train or 'test[:1000]'"
    add("--split", metavar="SPLIT", help=split)
    add_data_place(parser, ", or other data")
    tokens = "the last tokens [N,T,F] of a ViT, prefix first, or the last feature maps [N,H,W,F]"
    add("--tokens", action="store_true", help=f"{tokens} of a CNN, instead of what the head reads")
    _add_views(parser)
    add_overwrite(parser)


def _add_views(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pictures of the features")
    picture = "picture to draw, .png: each image a point, near those that are alike"
    group.add_argument("--map", metavar="FILE", help=picture)
    by = "how they are brought to the plane (default: tsne)"
    group.add_argument("--by", choices=("tsne", "umap", "pca"), help=by)
    nearest = "image files whose nearest neighbours are looked for, by cosine; shown on --page"
    group.add_argument("--nearest", nargs="+", metavar="IMAGE", help=nearest)
    group.add_argument("--page", metavar="FILE", help="page to write, .html, of the neighbours")
    group.add_argument("--k", type=int, metavar="K", help="neighbours to show (default: 12)")


def run(args: argparse.Namespace) -> str:
    """Write the features, or draw them; return what was written, for people.

    Raises:
      UserError: an argument is wrong, or the model, the images or a file cannot be used.
    """
    _check(args)
    left_out: Counter[str] = Counter()
    files, asked = _find(args.images, left_out), _find(args.nearest or [])
    model, other = open_with_data(args)
    from jax_train.analysis import feature_files, features, projection
    from jax_train.data.image_files import told

    queries = _read(model, asked)
    if args.images:
        images = features.of_places(model, files, args.images)
    else:
        images = features.of_split(model, args.split, other)
    if args.map:
        projection.check_count(len(images.names))
    unread: dict[str, str] = {}
    with feature_files.Spool(args.to) as spool:
        spool.add(features.extract(model, images, unread, tokens=args.tokens, progress=True))
        found = features.describe(model, images, spool.array(), spool.places, spool.labels)
        shape = "x".join(map(str, spool.shape[1:]))
        lines = [f"features of {counted(len(found.names), 'image')}, {shape} each"]
        if found.labels is not None:
            lines.append(f"labels of {counted(len(found.class_names), 'class', 'classes')}")
        if args.map:
            lines.append(_draw(args, found))
        if queries:
            shown = dataclasses.replace(images, names=found.names, read=_of(images, spool.places))
            lines.append(_show_nearest(args, model, found, shown, queries))
        if args.to:
            feature_files.write("--to", args.to, found, spool)
            lines[0] = f"{readable(args.to)}: {lines[0]}"
    notes = (*model.notes, *images.notes, *filter(None, [told(left_out)]))
    lines += [as_paragraph(f"note: {note}") for note in notes]
    if unread:
        lines += ["", *unread_files(unread, len(images.names))]
    return (Incomplete if unread else str)("\n".join(lines))


def _find(places: list[str], left_out: Counter[str] | None = None) -> list[Path]:
    from jax_train.data.given_images import find_images

    return find_images(places, left_out) if places else []


def _read(model, files: list[Path]):
    """Images whose neighbours are looked for, each of which has to be whole; None without any."""
    from jax_train.analysis.features import Images
    from jax_train.data.given_images import read_images
    from jax_train.runs.trained import image_shape

    if not files:
        return None
    pixels = read_images(files, image_shape(model), model.config.data.max_megapixels, model.fit)
    return Images("queries", tuple(map(str, files)), (), lambda places: (pixels[places], None, {}))


def _of(images, chosen: list[int]):
    """Reads images by their places among those that were chosen."""
    import numpy as np

    place = np.array(chosen)
    return lambda places: images.read(place[places])


def _check(args: argparse.Namespace) -> None:
    """Refuse what does not go together, before anything is read."""
    from jax_models.output import is_stream

    if not (args.to or args.map or args.page):
        raise UserError(
            "Nothing is to be made of the features: give --to FILE.npz, --map FILE.png, or "
            "--nearest IMAGE --page FILE.html."
        )
    for option, ends in (("to", (".npz", ".parquet")), ("map", (".png",)), ("page", (".html",))):
        path = getattr(args, option)
        check_output(f"--{option}", path, args.overwrite)
        if path and not path.endswith(ends) and not is_stream(path):
            raise UserError(f"--{option} {path}: expected a name that ends in {' or '.join(ends)}.")
    if bool(args.nearest) != bool(args.page):
        raise UserError("--nearest IMAGE and --page FILE.html belong together: give both or none.")
    _check_views(args)
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


def _check_views(args: argparse.Namespace) -> None:
    for name, flag in (("by", "map"), ("k", "nearest")):
        if (value := getattr(args, name)) is not None and not getattr(args, flag):
            raise UserError(f"--{name} {value} is for --{flag}. Add that, or leave it out.")
    if args.tokens and (args.map or args.page):
        raise UserError("--tokens goes with --to alone: what is compared is what the head reads.")
    if args.k is not None and args.k < 1:
        raise UserError(f"--k {args.k}: expected a whole number of neighbours, at least 1.")
    if args.map:
        from jax_train.analysis import projection

        projection.check(args.by or "tsne")
    if args.to and args.to.endswith(".parquet"):
        from jax_train.analysis import feature_tables

        feature_tables.library()


def _draw(args: argparse.Namespace, found) -> str:
    """Draw the features as points; return a line that says where."""
    from jax_train.analysis import projection
    from jax_train.drawing import results

    by = args.by or "tsne"
    points = projection.project(found.features, by)
    facts = f"{projection.NAMES[by]} of what the head of {found.model} reads of {found.data}"
    picture = results.embedding(points, found.labels, found.class_names, facts)
    return f"{readable(picture.save_as(Path(args.map)))}: {projection.NAMES[by]}"


def _show_nearest(args: argparse.Namespace, model, found, images, queries) -> str:
    """Write the page of neighbours; return a line that says where."""
    from jax_train.analysis import features, probes
    from jax_train.pages import neighbours
    from jax_train.pages.page import Page

    new = features.gather(model, queries, features.extract(model, queries, {}))
    near = probes.neighbours(found.features, new.features, min(args.k or 12, len(found.names)))
    return neighbours.write(queries, near, found, images, Page(args.page, pictures_beside=False))
