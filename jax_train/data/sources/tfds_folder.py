"""Folders of prepared TFDS data sets on disk; TFDS itself is not asked."""

import contextlib
import fnmatch
import json
import os
import re
from pathlib import Path

from jax_train.errors import UserError
from jax_train.files import expand

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
# TFDS writes them last, so a folder without them is not complete.
_DESCRIPTIONS = ("dataset_info.json", "features.json")


def data_root(given: str | os.PathLike | None = None) -> Path:
    """Return TFDS's data folder: as given, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: none is given, and the user has no home folder.
    """
    if root := expand(given) if given else default_root():
        return root
    raise UserError(
        "TFDS data sets are kept in ~/tensorflow_datasets, and this user has no home folder. Set "
        "TFDS_DATA_DIR to another folder."
    )


def default_root() -> Path | None:
    """Return TFDS's data folder where none is given; None without a home folder."""
    if given := os.environ.get("TFDS_DATA_DIR"):
        return expand(given)
    try:
        return Path.home() / "tensorflow_datasets"
    except RuntimeError:
        return None


def find_prepared(
    name: str, root: str | os.PathLike, config: str | None = None, version: str | None = None
) -> Path | None:
    """Return the folder of a prepared TFDS data set, in the highest version that matches.

    Looks at the disk only; TFDS is not asked, since it would try to download what is missing.

    Args:
      name, root: such as 'cifar10', and the data folder of TFDS.
      config: the TFDS config; None: the one TFDS recorded as the default, if there is one.
      version: such as '3.0.2' or '3.*.*'; None: any.
    """
    folder = Path(root) / name
    if config is None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            recorded = json.loads((folder / ".config" / "metadata.json").read_text("utf-8"))
            config = recorded["default_config_name"]
    if isinstance(config, str):
        folder = folder / config
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _VERSION.fullmatch(path.name)
            wanted = version is None or fnmatch.fnmatchcase(path.name, version)
            if match and wanted and all((path / file).is_file() for file in _DESCRIPTIONS):
                found.append((tuple(map(int, match.groups())), path))
    return max(found)[1] if found else None


def read_splits(folder: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """Return the shard sizes of each split from dataset_info.json, after checking its format."""
    path = Path(folder) / "dataset_info.json"
    try:
        info = json.loads(path.read_text("utf-8"))
        stored = info.get("fileFormat") or "tfrecord"
        splits = {
            split["name"]: tuple(int(n) for n in split["shardLengths"])
            for split in info["splits"]
            if split.get("shardLengths")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a readable description of a prepared data set "
            f"({type(error).__name__}: {error}). Remove the folder {folder} and prepare it again."
        ) from error
    if stored != "array_record":
        raise UserError(
            f"{folder} holds its records as {stored}, which TFDS reads only with TensorFlow. "
            "Expected array_record: prepare the data set with file_format='array_record' into "
            "another folder and name that with --config.data.data_dir=FOLDER."
        )
    if not splits:
        raise UserError(f"{path} lists no split with examples. Prepare the data set again.")
    return splits


def has_photos(folder: str | os.PathLike) -> bool:
    """Whether images of a prepared data set have no fixed size, by its features.json."""
    try:
        features = json.loads((Path(folder) / "features.json").read_text("utf-8"))
        features = features["featuresDict"]["features"].values()
        shapes = [one["image"]["shape"]["dimensions"] for one in features if "image" in one]
        return any(int(side) < 0 for shape in shapes for side in shape[:2])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # what is wrong with it is told when it is opened


@contextlib.contextmanager
def quiet_tfds():
    """Import TFDS and keep its log lines below errors away from the user.

    Raises:
      UserError: what it needs is not there; it logs why and comes half imported.
    """
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import tensorflow_datasets as tfds

        if not hasattr(tfds, "builder_from_directory"):
            raise UserError(
                "tensorflow-datasets cannot be imported; why stands above. Install it with all it "
                "needs: pip uninstall tensorflow-datasets, then pip install tensorflow-datasets"
            )
        yield tfds
    finally:
        logging.set_verbosity(before)
