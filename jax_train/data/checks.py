"""What `config.data` may hold, as far as can be told without looking at the data."""

from pathlib import Path

from ml_collections import ConfigDict

from jax_train.config import ranges


def _is_folder(value: object) -> bool:
    return isinstance(value, str) and not Path(value).expanduser().is_file()


def _is_split(value: object) -> bool:
    if not isinstance(value, str) or value.isidentifier():  # TFDS takes half a second to import
        return isinstance(value, str)
    from tensorflow_datasets.core.splits import ReadInstruction

    try:
        return bool(ReadInstruction.from_spec(value))
    except Exception:  # TFDS raises many kinds for the one cause: a bad spec
        return False


_SPLIT = "a split such as 'train', 'train[:90%]', 'train[1000:2000]' or 'train+test'"
CHECKS = {
    "data.name": ranges.Check(
        "a data set's name, such as cifar10 or folder:PATH",
        lambda value: isinstance(value, str) and bool(value),
    ),
    "data.data_dir": ranges.optional(ranges.Check("a folder", _is_folder)),
    "data.download": ranges.switch,
    "data.image_size": ranges.optional(ranges.whole(1)),
    "data.memory_limit": ranges.at_least(0, "gigabytes, a number"),
    "data.train_split": ranges.Check(_SPLIT, _is_split),
    "data.val_split": ranges.Check(
        f"{_SPLIT}, or '' for none", lambda value: value == "" or _is_split(value)
    ),
    "data.test_split": ranges.Check(_SPLIT, _is_split),
}


def check(config: ConfigDict) -> None:
    """Check what has to go together in `config.data`.

    Raises:
      UserError: names the field, its value and what was expected.
    """
    size, name = config.data.image_size, config.data.name
    if size is not None and not name.startswith("folder:"):
        cure = "To train on another size set config.augment.resize."
        expected = f"None, because the images of {name} have one size already"
        raise ranges.refusal("data.image_size", size, expected, cure)
