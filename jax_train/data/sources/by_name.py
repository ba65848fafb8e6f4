"""From the name of a data set to its source."""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jax_train.data.source import Source
from jax_train.data.sources import tfds
from jax_train.data.sources.archives import PHOTOS
from jax_train.data.sources.digits import digits_source
from jax_train.data.sources.folder import folder_source
from jax_train.data.sources.huggingface import hub_source, parquet_source
from jax_train.data.sources.photos import photos_source
from jax_train.data.sources.tfds_folder import data_root
from jax_train.errors import UserError
from jax_train.files import expand


def _absolute(path: str | Path) -> str:
    return os.path.abspath(expand(path))


class Scheme(NamedTuple):
    """A kind of source.

    Attributes:
      open: (name, **options) -> the source, with the options of `open_source`. Raises UserError.
      resizes: (name, data_dir) -> whether it brings images to `image_size`.
      title: name -> that of the data for people, without the path to it.
      located: (name, data_dir) -> the same, understood in every working folder.
      is_path: whether the name says where the data lies and not what it is.
      pins: whether a source's own name says which revision it is.
      has_columns: whether it takes `image_column` and `label_column`.
      root: name -> the folder that `Source.file` is relative to; None: examples are no files.
    """

    open: Callable[..., Source]
    resizes: Callable[[str, str | None], bool] = lambda name, data_dir: False
    title: Callable[[str], str] = str
    located: Callable[[str, str | None], tuple[str, str | None]] = lambda name, data_dir: (
        name,
        data_dir,
    )
    is_path: bool = False
    pins: bool = False
    has_columns: bool = False
    root: Callable[[str], Path | None] = lambda name: None


def _always(name: str, data_dir: str | None) -> bool:
    return True


def _path(name: str) -> str:
    return name.partition(":")[2]


def _of_files(open_path: Callable[..., Source], scheme: str, **more) -> Scheme:
    """A kind of source that is named by the path to a folder."""
    return Scheme(
        lambda name, *, data_dir, download, progress, **how: open_path(_path(name), **how),
        resizes=_always,
        title=lambda name: Path(_path(name)).name or name,
        located=lambda name, _: (f"{scheme}:{_absolute(_path(name))}", None),
        is_path=True,
        **more,
    )


_SCHEMES = {  # by how their names are written
    "digits": Scheme(lambda name, **_: digits_source()),
    "folder:PATH": _of_files(folder_source, "folder", root=lambda name: expand(_path(name))),
    "parquet:PATH": _of_files(parquet_source, "parquet", has_columns=True),
    "hf:ORG/NAME": Scheme(
        lambda name, *, data_dir, progress, **how: hub_source(_path(name), **how),
        resizes=_always,
        title=lambda name: name.partition("@")[0],
        pins=True,
        has_columns=True,
    ),
}
_PHOTOS = Scheme(
    photos_source,
    resizes=_always,
    located=lambda name, data_dir: (name, _absolute(data_root(data_dir))),
)
_PREPARED = Scheme(
    lambda name, *, data_dir, **how: tfds.tfds_source(
        name, data_dir, others=(*_SCHEMES, *PHOTOS), **how
    ),
    resizes=tfds.resizes,
    located=lambda name, data_dir: (name, _absolute(data_root(data_dir))),
)


def scheme_of(name: str) -> Scheme:
    """Return the kind of source that a data set's name is of.

    Raises:
      UserError: it is no name.
    """
    if not isinstance(name, str) or not name:
        raise UserError(
            f"config.data.name is {name!r}; expected a data set's name, such as "
            "--config.data.name=cifar10."
        )
    if name in PHOTOS:
        return _PHOTOS
    start = name.partition(":")[:2]
    fitting = (scheme for key, scheme in _SCHEMES.items() if key.partition(":")[:2] == start)
    return next(fitting, _PREPARED)


def resizes(name: str, data_dir: str | None) -> bool:
    """Whether a data set's images are brought to `image_size`."""
    return scheme_of(name).resizes(name, data_dir)


def meant_folder(name: str) -> str | None:
    """Return `folder:PATH` where a data set's name is a path without that; else None."""
    if not isinstance(name, str) or scheme_of(name) is not _PREPARED:
        return None
    scheme, _, rest = name.partition(":")
    if scheme.casefold() in ("folder", "file", "dir", "path", "images") and rest:
        return f"folder:{rest.removeprefix('//')}"
    is_path = name.startswith(("/", "./", "../", ".\\", "~")) or name in (".", "..")
    is_path |= re.match(r"[A-Za-z]:[\\/]", name) is not None or "\\" in name
    return f"folder:{name}" if is_path else None


def open_source(
    name: str,
    data_dir: str | None,
    *,
    image_size: int | None,
    download: bool,
    progress: bool = True,
    image_column: str | None = None,
    label_column: str | None = None,
    **options,
) -> Source:
    """Return the source of a data set's name; see `jax_train.data.load` for the arguments."""
    if meant := meant_folder(name):
        raise UserError(
            f"config.data.name is {name!r}, which is no data set. For a folder of images write "
            f"--config.data.name={shlex.quote(meant)}."
        )
    scheme = scheme_of(name)
    if image_size is not None and not scheme.resizes(name, data_dir):
        raise UserError(
            f"config.data.image_size is {image_size!r}, but the images of {name} have one size "
            "already: the field is for folder:PATH, parquet:PATH and hf:ORG/NAME. Leave it out, "
            "and set --config.augment.resize=64, for example, to train on another size."
        )
    if scheme.has_columns:
        options |= {"image_column": image_column, "label_column": label_column}
    options |= {"data_dir": data_dir, "image_size": image_size, "download": download}
    return scheme.open(name, progress=progress, **options)
