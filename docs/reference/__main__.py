"""Write the API reference, made of the docstrings: python docs/reference FOLDER.

Warnings are errors, and so is a public name without a docstring.
"""

import importlib
import sys
import warnings
from pathlib import Path

import pdoc
from pdoc import doc, render

# What is kept stable, or changed with a word in CHANGELOG.md.
PUBLIC = (
    "jax_models",
    "jax_models.pretrained",
    "jax_models.torch_weights",
    "jax_train.train",
    "jax_train.several",
    "jax_train.recipes",
    "jax_train.data",
    "jax_train.runs.trained",
    "jax_train.analysis.evaluation",
    "jax_train.analysis.prediction",
    "jax_train.analysis.explain",
    "jax_train.analysis.features",
    "jax_train.analysis.comparison",
    "jax_train.errors",
    "torch_ref",
)


def write(folder: Path) -> None:
    """Write a page of each public module and an index of all names with their signatures.

    Raises:
      Warning: of pdoc: a name, a type or a reference that leads nowhere.
      ValueError: public names without a docstring.
    """
    for name in PUBLIC:
        importlib.import_module(name)  # what their libraries warn of is not meant
    missing = [name for module in PUBLIC for name in _undocumented(doc.Module.from_name(module))]
    if missing:
        raise ValueError(f"without a docstring: {', '.join(missing)}")
    render.configure(docformat="google", template_directory=Path(__file__).parent)
    render.env.globals["public_members"] = public_members
    inner = [f"!{name}[.]" for name in PUBLIC if not _inside(name)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*PUBLIC, *inner, output_directory=folder)


def _inside(name: str) -> list[str]:
    return [other for other in PUBLIC if other.startswith(f"{name}.")]


def public_members(module: doc.Module) -> list[doc.Doc]:
    """Functions, classes and values of a module that are public."""
    members = (member for member in module.members.values() if not isinstance(member, doc.Module))
    return [member for member in members if not member.name.startswith("_")]


def _undocumented(module: doc.Module) -> list[str]:
    callables = (doc.Function, doc.Class)
    found = [one for one in public_members(module) if isinstance(one, callables)]
    return [one.fullname for one in found if not one.docstring]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
