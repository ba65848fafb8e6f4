"""`python -m jax_train new`: a recipe of one's own."""

import argparse
import ast
import shlex
from pathlib import Path

from jax_train import recipes
from jax_train.commands.options import add_overwrite
from jax_train.errors import UserError

HELP = "copy a recipe into this folder, to change it"
DESCRIPTION = (
    "Write NAME.py, a copy of a recipe to be changed. What it starts from, another recipe or the "
    "defaults of all fields, stays in the package."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name, and the recipe that is copied."""
    parser.add_argument("name", metavar="NAME", help="of the new recipe, such as my_recipe")
    copied = f"recipe to copy (default: {recipes.DEFAULT})"
    parser.add_argument("--from", dest="source", metavar="RECIPE", help=copied)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> str:
    """Write the recipe; return what to do next.

    Raises:
      UserError: there is no recipe to copy, NAME is that of a recipe or of a file, or the file
        cannot be written.
    """
    from jax_train.files import check_output, write_atomically

    source = recipes.path_of(args.source or recipes.DEFAULT)
    name = Path(args.name).name.removesuffix(".py")
    if not name or name.startswith(".") or not name.isprintable() or {*name} & {*'":\\'}:
        raise UserError(f"NAME {args.name!r}: expected a name such as my_recipe.")
    path = Path(args.name).with_name(f"{name}.py")
    if path.stem in (*recipes.names(), recipes.COMMON):
        raise UserError(f"{args.name}: there is a recipe of that name. Choose another one.")
    check_output("NAME", path, args.overwrite)
    try:
        write_atomically(path, copied(source.read_text("utf-8"), source.stem, path.stem))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. Choose another one.") from error
    return (
        f"{path}: a copy of {source.stem}. Change it, then train by it:\n"
        f"  {args.program} train {shlex.quote(str(path))}\n"
        f"Every field, its default and its meaning:\n  {args.program} recipes {recipes.COMMON}"
    )


def copied(text: str, name: str, new: str) -> str:
    """The text of the recipe `name` under a new name; the first lines say what it was made of."""
    first = ast.parse(text).body[0]
    rest = text.split("\n")[first.end_lineno :]
    title = f'"""{new}: a copy of the recipe {name}, to be changed."""'
    return "\n".join([title, *rest])
