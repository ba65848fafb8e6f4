"""What `config.data` may hold, as far as can be told without looking at the data."""

import os
import shlex

from ml_collections import ConfigDict

from jax_train.config import ranges
from jax_train.data.decoding import INTERPOLATIONS
from jax_train.data.sources.by_name import meant_folder, resizes, scheme_of
from jax_train.data.split import AUTO, SYNTAX, is_split


def _is_folder(value: object) -> bool:
    return isinstance(value, str) and not os.path.isfile(os.path.expanduser(value))


_COLUMN = ranges.Check("the name of a column", lambda value: isinstance(value, str) and bool(value))
_SPLIT = ranges.Check(f"'{AUTO}', or a split such as {SYNTAX}", is_split)
CHECKS = {
    "data.name": ranges.Check(
        "a data set's name, such as cifar10 or folder:PATH",
        lambda value: isinstance(value, str) and bool(value),
    ),
    "data.data_dir": ranges.optional(ranges.Check("a folder", _is_folder)),
    "data.download": ranges.switch,
    "data.image_size": ranges.optional(ranges.whole(1)),
    "data.interpolation": ranges.optional(ranges.one_of(INTERPOLATIONS)),
    "data.image_column": ranges.optional(_COLUMN),
    "data.label_column": ranges.optional(_COLUMN),
    "data.memory_limit": ranges.at_least(0, "gigabytes, a number"),
    "data.threads": ranges.optional(ranges.whole(1)),
    "data.on_damaged": ranges.one_of(("stop", "skip")),
    "data.max_megapixels": ranges.optional(ranges.above(0)),
    "data.on_change": ranges.one_of(("refuse", "accept")),
    "data.train_split": _SPLIT,
    "data.val_split": ranges.Check(
        f"{_SPLIT.expected}; '' for none", lambda value: value == "" or is_split(value)
    ),
    "data.test_split": _SPLIT,
}


def check(config: ConfigDict) -> None:
    """Check what has to go together in `config.data`.

    Raises:
      UserError: names the field, its value and what was expected.
    """
    size, name = config.data.image_size, config.data.name
    if meant := meant_folder(name):
        cure = f"For a folder of images write --config.data.name={shlex.quote(meant)}."
        raise ranges.refusal("data.name", name, "a data set's name", cure)
    if size is not None and not resizes(name, config.data.data_dir):
        cure = "To train on another size set config.augment.resize."
        if os.sep in name or os.path.isdir(name):
            folder = shlex.quote(f"folder:{name}")
            cure = f"If a folder of images is meant, write --config.data.name={folder}."
        expected = f"None, because the images of {name} have one size already"
        raise ranges.refusal("data.image_size", size, expected, cure)
    for field in ("image_column", "label_column"):
        if config.data[field] is not None and not scheme_of(name).has_columns:
            expected = f"None, because {name} has no columns: those are of hf: and parquet:"
            raise ranges.refusal(f"data.{field}", config.data[field], expected)
    if config.data.interpolation is not None and size is None:
        cure = "Set that too, or for other resizing config.augment.interpolation."
        expected = "None without config.data.image_size, because no file is resized"
        raise ranges.refusal("data.interpolation", config.data.interpolation, expected, cure)
