"""From the name of a data set to its source."""

from jax_train.data.source import Source
from jax_train.data.sources.digits import digits_source
from jax_train.data.sources.tfds import tfds_source
from jax_train.errors import UserError


def open_source(
    name: str, data_dir: str | None, *, image_size: int | None, download: bool, progress: bool
) -> Source:
    """Return the source of a data set's name; see `jax_train.data.load` for the arguments."""
    if not isinstance(name, str) or not name:
        raise UserError(
            f"config.data.name is {name!r}; expected a data set's name, such as "
            "--config.data.name=cifar10."
        )
    if name.startswith("folder:"):
        from jax_train.data.sources.folder import folder_source

        return folder_source(name.removeprefix("folder:"), image_size)
    if image_size is not None:
        raise UserError(
            f"config.data.image_size is {image_size!r}, but the images of {name} have one size "
            "already: the field is for --config.data.name=folder:PATH. Leave it out, and set "
            "--config.augment.resize=64, for example, to train on another size."
        )
    if name == "digits":
        return digits_source()
    return tfds_source(name, data_dir, download=download, progress=progress)
