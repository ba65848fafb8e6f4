"""The recipes: the files of `configs/`, which an installed package holds in this folder.

    from jax_train.recipes import common, vit_digits

means the same in both, so that a recipe that starts from another one can be copied anywhere.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from jax_train.errors import UserError, nearest

if TYPE_CHECKING:
    from ml_collections import ConfigDict

COMMON = "common"  # every field and its default, which the others start from
DEFAULT = "vit_digits"
_HERE = Path(__file__).resolve().parent
FOLDER = _HERE if (_HERE / f"{COMMON}.py").is_file() else _HERE.parents[1] / "configs"
if FOLDER != _HERE:
    __path__.append(str(FOLDER))


def names() -> list[str]:
    """The sorted names of the recipes."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py") if path.stem != COMMON)


def defaults() -> ConfigDict:
    """Every field of a config with its default, locked."""
    return importlib.import_module(f"{__name__}.{COMMON}").get_config()


def path_of(name: str) -> Path:
    """The file of a recipe, or of `COMMON`.

    Raises:
      UserError: there is none.
    """
    known = names()
    if name not in (*known, COMMON):
        raise UserError(f"There is no recipe {name!r}{nearest(name, known)}.")
    return FOLDER / f"{name}.py"
