"""From the name of a data set to its source."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jax_train.data.source import Source
from jax_train.data.sources.digits import digits_source
from jax_train.data.sources.folder import folder_source
from jax_train.data.sources.tfds import tfds_source
from jax_train.data.sources.tfds_folder import data_root
from jax_train.errors import UserError
from jax_train.files import expand


def _absolute(path: str | Path) -> str:
    return os.path.abspath(expand(path))


class Scheme(NamedTuple):
    """A kind of source.

    Attributes:
      open: (name, **options) -> the source, with the options of `open_source`. Raises UserError.
      resizes: whether it brings images to `image_size`.
      title: name -> that of the data for people, without the path to it.
      located: (name, data_dir) -> the same, understood in every working folder.
      is_path: whether the name says where the data lies and not what it is.
    """

    open: Callable[..., Source]
    resizes: bool = False
    title: Callable[[str], str] = str
    located: Callable[[str, str | None], tuple[str, str | None]] = lambda name, data_dir: (
        name,
        data_dir,
    )
    is_path: bool = False


_SCHEMES = {  # by how their names are written
    "digits": Scheme(lambda name, **_: digits_source()),
    "folder:PATH": Scheme(
        lambda name, *, image_size, **_: folder_source(name.removeprefix("folder:"), image_size),
        resizes=True,
        title=lambda name: Path(name.removeprefix("folder:")).name or name,
        located=lambda name, _: (f"folder:{_absolute(name.removeprefix('folder:'))}", None),
        is_path=True,
    ),
}
_PREPARED = Scheme(
    lambda name, *, image_size, **options: tfds_source(name, **options, others=tuple(_SCHEMES)),
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
    start = name.partition(":")[:2]
    fitting = (scheme for key, scheme in _SCHEMES.items() if key.partition(":")[:2] == start)
    return next(fitting, _PREPARED)


def open_source(
    name: str, data_dir: str | None, image_size: int | None, download: bool, progress: bool = True
) -> Source:
    """Return the source of a data set's name; see `jax_train.data.load` for the arguments."""
    scheme = scheme_of(name)
    if image_size is not None and not scheme.resizes:
        raise UserError(
            f"config.data.image_size is {image_size!r}, but the images of {name} have one size "
            "already: the field is for --config.data.name=folder:PATH. Leave it out, and set "
            "--config.augment.resize=64, for example, to train on another size."
        )
    options = {"data_dir": data_dir, "image_size": image_size, "download": download}
    return scheme.open(name, progress=progress, **options)
