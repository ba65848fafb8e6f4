"""`python -m jax_train recipes`: the recipes there are."""

import argparse
import ast
import re
import textwrap
from typing import NamedTuple

from jax_train.printing import WIDTH, as_paragraph

HELP = "list the recipes, with the time that each takes and what it reached"
DESCRIPTION = (
    "List the recipes, with the time that each takes and what it reached; or print the file of "
    "one. `common` has every field, its default and its meaning."
)


class About(NamedTuple):
    """What the first lines of a recipe say of it.

    Attributes:
      title: a sentence.
      time: how long it takes, on what.
      result: what it reached.
    """

    title: str
    time: str
    result: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the name of one."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="recipe to print, or common")


def run(args: argparse.Namespace) -> str:
    """Return the list, or the text of a recipe's file.

    Raises:
      UserError: there is no such recipe.
    """
    from jax_train import recipes

    if args.name is not None:
        return recipes.path_of(args.name).read_text("utf-8").rstrip("\n")
    lines = []
    for name in recipes.names():
        told = about(recipes.path_of(name).read_text("utf-8"))
        texts = [told.title, f"Time: {told.time}", f"Result: {told.result}"]
        lines += [name, *(line for text in texts for line in _indented(text)), ""]
    what = f"{args.program} train NAME trains by one; {args.program} recipes NAME prints it."
    return "\n".join([*lines, as_paragraph(what)])


def _indented(text: str) -> list[str]:
    how = textwrap.TextWrapper(WIDTH, "  ", "  ", break_long_words=False, break_on_hyphens=False)
    return how.wrap(text)


def about(source: str) -> About:
    """What the first lines of a recipe's file say of it; a text is empty where they do not."""
    text = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
    title = re.match(r".*?\.(?= |$)", text)
    return About(title[0] if title else text, _told(text, "Time"), _told(text, "Result"))


def _told(text: str, what: str) -> str:
    """The sentence behind 'Time:' or 'Result:'."""
    found = re.search(rf"\b{what}: (.+?\.)(?= [A-Z0-9]|$)", text)
    return found[1] if found else ""
