"""Photos on their way from an archive to a folder by split and class."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from jax_train.data.sources.archives.recipe import ANOTHER
from jax_train.errors import UserError


class Photos:
    """Photos that are written as they come, and sorted once it is known where they belong.

    Args:
      place: an empty folder, which becomes `SPLIT/CLASS/NAME`.
      tell: called for each photo.
    """

    def __init__(self, place: Path, tell: Callable[[], None] = lambda: None):
        self._place, self._tell, self._loose = place, tell, {}
        (place / "loose").mkdir()

    def add(self, key: str, content: bytes) -> None:
        """Take a photo in under a name that `sort` knows it by."""
        path = self._place / "loose" / str(len(self._loose))
        path.write_bytes(content)
        self._loose[key] = path
        self._tell()

    def sort(self, where: Iterable[tuple[str, str, str, str]], source: Path) -> None:
        """Put photos, given as (key, split, class, name of the file), where they belong.

        Those that are not given are left out; `source` says which photos there have to be.

        Raises:
          UserError: one is not there.
        """
        for key, split, label, name in where:
            if key not in self._loose:
                raise UserError(
                    f"{source} names the photo {key!r}, which is not in the archive. {ANOTHER}"
                )
            folder = self._place / split / label
            folder.mkdir(parents=True, exist_ok=True)
            os.replace(self._loose.pop(key), folder / name)
        for path in self._loose.values():
            path.unlink()
        (self._place / "loose").rmdir()
