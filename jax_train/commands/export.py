"""`python -m jax_train export`: a model as a file or folder that others run."""

import argparse
from pathlib import Path

from jax_train.commands.options import add_data_place, add_run_or_source, open_run_or_source
from jax_train.errors import UserError
from jax_train.files import check_new_folder, check_output
from jax_train.printing import as_paragraph, counted, readable

HELP = "export a model to ONNX, StableHLO, or a folder of transformers or timm"
DESCRIPTION = (
    "Write a trained or pretrained model so that others can run it: model.onnx (onnxruntime and "
    "others), model.stablehlo (JAX alone, on CPU, GPU and TPU), or a folder that transformers or "
    "timm load. What was written is opened again and compared with the model on test images; what "
    "differs is not kept. All compute in float32."
)
_FORMATS = ("huggingface", "timm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, the target, and what is exported."""
    add_run_or_source(parser)
    add = parser.add_argument
    target = "what to write: FILE.onnx, FILE.stablehlo, or a folder"
    add("--to", required=True, type=Path, metavar="TARGET", help=target)
    whose = "whose folder: huggingface (transformers) or timm; needed where both have the model"
    add("--format", choices=_FORMATS, help=whose)
    raw = "the file takes raw images, uint8 [B,H,W,C], and prepares them itself (default: float32, "
    raw += "as the model takes them)"
    add("--uint8", action="store_true", help=raw)
    add("--features", action="store_true", help="the file also gives what the head reads")
    add("--attention", action="store_true", help="the file also gives the attention of each block")
    add_data_place(parser)
    add("--overwrite", action="store_true", help="replace the file if it exists")


def run(args: argparse.Namespace) -> str:
    """Export; return what was written and how far it is from the model, for people.

    Raises:
      UserError: an argument is wrong, the model cannot be opened or exported, the target cannot be
        written, or what was written differs from the model. Nothing is kept then.
    """
    is_folder = _check_target(args)
    run = open_run_or_source(args, needs_head=False)
    from jax_train.export import graph, model_folder, writing

    format = model_folder.choose_format(run, args.format) if is_folder else None
    images, note = _images(args, run)
    with graph.in_float32():
        outputs = {"features": args.features, "attention": args.attention}
        exported = graph.build(run, uint8=args.uint8, **outputs)
        if format is not None:
            found = writing.to_folder(run, exported, format, args.to, images)
        else:
            found = writing.to_file(run, exported, args.to, images)
    lines = [f"{readable(str(args.to))}: {run.config.model.name} of {readable(str(run.folder))}"]
    lines += [] if is_folder else _signature(exported)
    lines.append(as_paragraph(_told(found, images)))
    lines += [as_paragraph(f"note: {note}") for note in (*run.notes, *filter(None, [note]))]
    return "\n".join(lines)


def _check_target(args: argparse.Namespace) -> bool:
    """Whether it is a folder; all of it that can be wrong is told before a model is opened."""
    from jax_train.export import writing

    target, endings = args.to, tuple(writing.FILES)
    if target.suffix in endings:
        if args.format is not None:
            raise UserError(
                f"--format {args.format} is for a folder, and --to {target} names a file. Leave "
                "one of them out."
            )
        check_output("--to", target, args.overwrite)
        if beside := writing.beside(target):
            check_output("--to", beside, args.overwrite)
        if _is_stream(target):
            raise UserError(f"--to {target} is a pipe or a device. Name a file.")
        writing.FILES[target.suffix].check_installed()
        return False
    if args.format is None and target.suffix:
        raise UserError(
            f"--to {target}: {target.suffix!r} is none of {', '.join(endings)}. Give a file that "
            "ends in one of them, or a folder; of one with a dot in its name say --format "
            f"{' or '.join(_FORMATS)}."
        )
    for flag in ("uint8", "features", "attention"):
        if getattr(args, flag):
            raise UserError(
                f"--{flag} is for {' and '.join(endings)}: a folder holds weights, and its library "
                "computes. Leave it out."
            )
    check_new_folder("--to", target)
    return True


def _is_stream(target: Path) -> bool:
    from jax_models import output

    return output.is_stream(target)


def _images(args: argparse.Namespace, run):
    """Images to compare with, and a note where they are not those of the run."""
    from jax_train.export import check

    try:
        return check.choose_images(run), None
    except UserError as error:
        if args.data or args.data_dir:
            raise
        return check.random_images(run), f"compared on random images: {error}"


def _signature(graph) -> list[str]:
    shape = ", ".join(map(str, graph.image_shape))
    lines = [f"  images: {graph.dtype} [batch, {shape}]"]
    for name, sides in graph.outputs.items():
        lines.append(f"  {name}: float32 [batch, {', '.join(map(str, sides))}]")
    return lines


def _told(found, images) -> str:
    count = counted(found.count, "image")
    equal = "" if found.equal is None else f", {found.equal:,} of {count} given the same class"
    return (
        f"opened again by {found.runtime} and compared on {images.what}: largest difference "
        f"{found.largest:.1e}{equal or f' on {count}'}"
    )
