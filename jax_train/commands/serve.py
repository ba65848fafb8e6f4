"""`python -m jax_train serve`: models behind a page and a JSON API."""

import argparse
import contextlib

from jax_train.commands.options import add_data_place, add_run_or_source, open_run_or_source
from jax_train.errors import UserError

HELP = "serve models on this machine: a page for photos, and a JSON API"
DESCRIPTION = (
    "Serve the models of runs, or pretrained ones: a page on which one drops photos and sees what "
    "the models say and where they look, and a JSON API (/openapi.json describes it). Needs the "
    "extra serve. Listens to this machine alone unless --host says otherwise."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models, where to listen, and what is taken."""
    add_run_or_source(parser, several=True)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    add("--port", type=int, default=8000, help="0 takes any that is free (default: 8000)")
    batch = "most images that are computed together (default: 16)"
    add("--batch", type=int, default=16, metavar="N", help=batch)
    add("--max_mb", type=float, default=20, metavar="MB", help="most of a request (default: 20)")
    pixels = "most pixels of an image, in millions (default: 25)"
    add("--max_megapixels", type=float, default=25, metavar="N", help=pixels)
    queue = "most requests at once; further ones are told to come again (default: 64)"
    add("--queue", type=int, default=64, metavar="N", help=queue)
    add_data_place(parser)


def run(args: argparse.Namespace) -> str:
    """Serve until Ctrl+C.

    Raises:
      UserError: an argument is wrong, a package is missing, or a model cannot be used.
    """
    _check(args)
    try:
        from jax_train.serving.server import listen, serve
        from jax_train.serving.uploads import Limits
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        raise UserError(
            f"serve needs the library {error.name}: pip install 'jax-vit-cnn[serve]', or "
            "pip install starlette uvicorn python-multipart."
        ) from error
    with listen(args.host, args.port) as bound:
        one = vars(args)
        runs = [
            open_run_or_source(argparse.Namespace(**one | {"run_folder": place}))
            for place in args.runs
        ]
        limits = Limits(megabytes=args.max_mb, megapixels=args.max_megapixels, queue=args.queue)
        with contextlib.suppress(KeyboardInterrupt):
            serve(runs, bound, args.batch, limits)
    return "ended"


_LIBRARIES = ("starlette", "uvicorn", "python_multipart")
_RANGES = {
    "port": (0, 65535),
    "batch": (1, 1024),
    "queue": (1, 10_000),
    "max_mb": (0.001, 1000),
    "max_megapixels": (0.001, 1000),
}


def _check(args: argparse.Namespace) -> None:
    for name, (least, most) in _RANGES.items():
        value = getattr(args, name)
        if not least <= value <= most:
            raise UserError(f"--{name} {value}: expected {least:g} to {most:g}.")
