"""`folder:PATH`: image files sorted into one folder per class, decoded with Pillow."""

import os

from jax_train.data.cache import Folder
from jax_train.data.contents import Contents, contents_of
from jax_train.data.source import Fit, Source
from jax_train.data.sources.folder_layout import find_layout
from jax_train.data.sources.folder_scan import Split, scan
from jax_train.data.sources.images import Images
from jax_train.errors import UserError
from jax_train.files import expand


def folder_source(
    path: str,
    image_size: int | None,
    *,
    interpolation: str | None = None,
    fit: Fit | None = None,
    on_damaged: str = "stop",
    max_megapixels: float | None = None,
    cache_dir: Folder = None,
) -> Source:
    """Return the images below a folder as a data set.

    With a subfolder `train` that itself has subfolders, the splits are `train` and those of
    `test`, `val` and `validation` that are there, each with one folder per class; see
    `folder_layout` for other names of them. Otherwise the folder holds one folder per class and
    everything is the split `train`. Classes are numbered in the order of the sorted names of
    train's; the other splits may lack some of them. Within a split the files stand in the order of
    a hash of their relative path, so that slices hold all classes, on every machine the same.
    For the files within a class folder, and what is left out, see `image_files.image_files`.

    Images are turned upright by their EXIF tag. They come out grey (1 channel) if all images of
    all splits are stored as grey, otherwise RGB; transparency is dropped, 16-bit samples keep
    their upper 8 bits, and animations their first frame.

    Args:
      path: the folder; `~` is the user's home.
      image_size: side of the square, in pixels, that images are brought to: the shorter side
        resized (antialiased), then the centre cropped. None: as they are, if all have one size.
      interpolation: of resizing, one of `decoding.INTERPOLATIONS`; None: bilinear.
      fit: brings them to its shape instead.
      on_damaged: 'skip' leaves out the files that cannot be decoded; all are tried beforehand.
      max_megapixels: see `decoding.open_image`.
      cache_dir: see `cache_root`.

    Raises:
      UserError: a folder is missing, empty or has a single class, or a split has classes that
        train lacks.
    """
    if image_size is not None and not (type(image_size) is int and image_size > 0):
        raise UserError(
            f"config.data.image_size is {image_size!r}; expected a positive whole number of "
            "pixels, such as --config.data.image_size=64."
        )
    root = expand(path)
    if not path or not os.path.isdir(root):  # Path's own raises on names that are too long
        raise UserError(
            f"config.data.name is 'folder:{path}', but there is no folder {root.absolute()}. "
            "Expected a folder with one folder of images per class."
        )
    found = scan(layout := find_layout(root))
    how = {"image_size": image_size, "interpolation": interpolation, "fit": fit}
    how |= {"max_megapixels": max_megapixels, "cache_dir": cache_dir}
    images = Images(found.splits, f"folder {root.resolve()}", **how)
    notes = found.notes
    if on_damaged == "skip":
        notes = notes + images.leave_out_damaged(found.unreadable)
    elif found.unreadable:
        raise images.refusal(found.unreadable)
    return Source(
        name=f"folder:{path}",
        identity=images.identity,
        splits={name: (len(split.files),) for name, split in images.splits.items()},
        open=images.open,
        fingerprint=images.fingerprint(),
        contents=lambda name: _contents(images.splits[name]),
        file=lambda name, i: os.path.relpath(images.splits[name].path(i), root),
        aliases=layout.aliases,
        absent=found.absent,
        labels=lambda name: images.splits[name].labels,
        notes=tuple(notes),
    )


def _contents(split: Split) -> Contents:
    return contents_of((file, split.root / file, stat.st_size) for file, _, stat in split.files)
