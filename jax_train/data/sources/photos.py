"""Data sets of photos that are prepared as folders, such as food101, by their names in TFDS."""

from dataclasses import replace

from jax_train.data.source import Source
from jax_train.data.sources import prepare
from jax_train.data.sources.folder import folder_source
from jax_train.data.sources.tfds_folder import data_root
from jax_train.errors import UserError


def photos_source(
    name: str, data_dir: str | None, *, download: bool, progress: bool, **options
) -> Source:
    """Return a data set of `archives.PHOTOS`, prepared on first use; its splits are its own.

    Args:
      name: of the data set.
      data_dir, download, progress: as of `data.load`.
      **options: as of `folder_source`.

    Raises:
      UserError: it is not there and cannot be fetched, or as `folder_source`.
    """
    root = data_root(data_dir)
    folder = prepare.find(name, root)
    if folder is None:
        if not download:
            raise UserError(prepare.missing_message(name, root, "config.data.download is False"))
        folder = prepare.prepare(name, root, progress=progress)
    return replace(folder_source(str(folder), **options), name=name)
