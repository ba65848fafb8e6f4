"""What the folders of a `folder:` data set are: splits, classes, or not meant for it at all."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jax_train.data.image_files import (
    has_image_ending,
    is_folder,
    is_hidden,
    is_run_folder,
    list_folder,
)
from jax_train.errors import UserError
from jax_train.printing import listing

_WORDS = {
    "train": "train training trn",
    "test": "test testing tests tst",
    "val": "val valid validation validate validating dev eval evaluation",
}
_ROLES = {word: role for role, words in _WORDS.items() for word in words.split()}
_MORE = r"[ _.-]?(set|data|dataset|split|images|imgs)?[ _.-]?\d*"  # test_set, val2017
_FORM = re.compile(rf"({'|'.join(_ROLES)}){_MORE}")
_DEEPEST = 4  # folders below the one that is named are looked for so far down


class Layout(NamedTuple):
    """Where the splits of a folder are.

    Attributes:
      splits: `train`, `test`, `val`, `validation` -> its folder, with a folder per class.
      aliases: further names of these splits.
      notes: what was left out or may be meant otherwise.
    """

    splits: dict[str, Path]
    aliases: dict[str, str]
    notes: tuple[str, ...] = ()


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, and links to folders, that may hold images, by name."""
    found = (Path(entry.path) for entry in list_folder(folder) if is_folder(entry))
    here = folder.resolve()
    loops = {here, *here.parents}
    found = [path for path in found if not is_hidden(path.name) and path.resolve() not in loops]
    return [path for path in found if not is_run_folder(path)]


def loose_images(folder: Path) -> int:
    """Count the files with an image's ending that stand in a folder itself."""
    names = [entry.name for entry in list_folder(folder) if not is_folder(entry)]
    return sum(has_image_ending(name) and not is_hidden(name) for name in names)


def find_layout(root: Path) -> Layout:
    """Find out whether a folder holds splits or classes.

    It holds splits where a folder named like training images has folders of its own, and another
    is named like a split, or no other is there; or, whatever is beside it, where it is `train`.

    Raises:
      UserError: the names say one thing and what is in the folders another.
    """
    if is_run_folder(root):
        raise UserError(f"{root} is the folder of a run. Name the folder of the images instead.")
    names = [folder.name for folder in subfolders(root)]
    roles = _roles(names)
    nested = [name for name in names if roles.get(name) == "train" and subfolders(root / name)]
    only_splits = len(roles) == len(names)
    if nested and ("train" in nested or only_splits or len(set(roles.values())) > 1):
        return _splits(root, names, roles)
    if names and only_splits:
        raise UserError(_no_split_works(root, roles))
    return Layout({"train": root}, {}, tuple(_class_or_split(root, names, roles)))


def role_in(name: str) -> str | None:
    """The split that a name is of by one of its words, such as 'train-00000-of-00001.parquet'."""
    found = {_ROLES[part] for part in re.split(r"[ _.-]", name.casefold()) if part in _ROLES}
    return found.pop() if len(found) == 1 else None


def words_for(role: str) -> list[str]:
    """What a split is called."""
    return _WORDS[role].split()


def _roles(names: list[str]) -> dict[str, str]:
    """Name of a folder -> the split it is named like; of parts of names only if all have one."""
    plain = {name: _ROLES[m[1]] for name in names if (m := _FORM.fullmatch(name.casefold()))}
    parts = {name: role for name in names if (role := role_in(name))}
    both = len(parts) == len(names) > 1 and "train" in parts.values()
    return parts if both and len(set(parts.values())) > 1 else plain


def _splits(root: Path, names: list[str], roles: dict[str, str]) -> Layout:
    splits = {}
    for role in _WORDS:
        fitting = [name for name in names if roles.get(name) == role]
        if role in fitting:
            splits[role] = role
        elif role == "train":
            fitting = [name for name in fitting if subfolders(root / name)]
        if len(fitting) > 1 and role not in splits:
            raise UserError(
                f"In {root} both {fitting[0]} and {fitting[1]} are named like the split {role}. "
                f"Rename the one that is meant to {role}, or move the other one away."
            )
        splits |= {role: fitting[0]} if fitting and role not in splits else {}
    if splits.get("val") == "val" and "validation" in names:
        splits["validation"] = "validation"  # a split of its own beside val
    others = [name for name in names if name not in splits.values()]
    notes = (f"the folder is read as splits; left out: {some(others)}",) if others else ()
    words = {word: role for word, role in _ROLES.items() if role in splits}
    aliases = words | {folder: role for role, folder in splits.items()}
    aliases = {alias: role for alias, role in aliases.items() if alias not in splits}
    return Layout({role: root / name for role, name in splits.items()}, aliases, notes)


def _no_split_works(root: Path, roles: dict[str, str]) -> str:
    trains = [name for name, role in roles.items() if role == "train"]
    if trains:
        place = root / trains[0]
        return (
            f"{place} holds no folders. Expected one folder of images per class, such as "
            f"{place / 'cat' / '1.jpg'}."
        )
    return (
        f"The folders of {root} are named like splits ({some(roles)}), but none like training "
        "images. Expected train, with one folder of images per class. If they are classes, rename "
        "them."
    )


def _class_or_split(root: Path, names: list[str], roles: dict[str, str]) -> Iterable[str]:
    """Yield notes on folders among classes that are named like splits."""
    for name in roles:
        inside = {folder.name for folder in subfolders(root / name)}
        if same := sorted(inside & (set(names) - {name})):
            raise UserError(
                f"{root / name} holds folders that are also beside it ({some(same)}), so it is "
                f"a split and no class. Move the class folders beside it into {root / 'train'}."
            )
        yield f"the folder {some([name])} is read as a class, and is named like a split"


def below(root: Path) -> tuple[Path, list[str]] | None:
    """Return the nearest folder below that has several folders, and their names; or None."""
    level, seen = [root], set()
    for _ in range(_DEEPEST):
        further = []
        for folder in level:
            inside = [path for path in subfolders(folder) if path.resolve() not in seen]
            seen |= {path.resolve() for path in inside}
            if len(inside) > 1:
                return folder, [path.name for path in inside]
            further += inside
        level = further
    return None


def named_like_splits(names: Iterable[str]) -> bool:
    """Whether all of some folders are named like splits."""
    return all(_FORM.fullmatch(name.casefold()) for name in names)


def some(names: Iterable[str]) -> str:
    """A few names for a text, and how many there are if that are not all."""
    names = list(names)
    text = listing(names, 120)
    return f"{text} ({len(names):,} in all)" if text.endswith("…") else text
