"""Where data comes from: scikit-learn's digits, prepared TFDS data sets, and folders of images."""

import contextlib
import difflib
import fnmatch
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jax_train.data_cache import Arrays, fingerprint
from jax_train.errors import UserError

PREPARABLE = ("cifar10", "cifar100", "mnist")  # what `jax_train.prepare` has recipes for
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?")
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_BATCH = 500  # records fetched in one call: ten times quicker than one by one
# TFDS writes them last, so a folder without them is not complete.
_DESCRIPTIONS = ("dataset_info.json", "features.json")
_FORMATS = ("PNG", "WEBP", "JPEG", "GIF", "BMP")  # each one tried before costs 10 %
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Records:
    """Random access to the examples of a base split.

    Attributes:
        image_shape: height and width in pixels, and channels, of every image.
        class_names: name of each class.
        read: (indices within the base split, at least one) -> images uint8 [n, H, W, C] and
            labels int32 [n]; may be called from several threads. Raises UserError.
    """

    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    read: Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Source:
    """One data set that can be read.

    Attributes:
        name: for messages.
        identity: the same for every way to name the same data.
        splits: base split -> number of examples in each of its shards.
        read: (base split, show progress) -> its arrays.
        open: base split -> random access to it, decoding nothing yet but perhaps one image.
        fingerprint: changes with the source's files; None: too quick to read to be cached.
    """

    name: str
    identity: str
    splits: dict[str, tuple[int, ...]]
    read: Callable[[str, bool], Arrays]
    open: Callable[[str], Records]
    fingerprint: str | None


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
        from jax_train.data_folder import folder_source

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


def progress_bar(total: int, what: str, show: bool):
    """Return a tqdm bar on stderr that shows up after 2 s, and only on a terminal."""
    from tqdm import tqdm

    # `disable=None` is tqdm's way to say: unless stderr is a terminal.
    return tqdm(
        total=total, desc=what, unit=" images", delay=2, leave=False, disable=None if show else True
    )


def digits_source() -> Source:
    """Return scikit-learn's embedded scans of digits: 1,797 images of 8x8 grey pixels.

    They stand in an order fixed by a hash of their position. Of that order, sorted by class, every
    fifth is the split `test` (360, each class with its share to within one); `train` holds the
    other 1,437. Pixels 0..16 are scaled to 0..255 and rounded. From the UCI Machine Learning
    Repository, "Optical Recognition of Handwritten Digits" (test part), CC BY 4.0.
    """
    return Source(
        name="digits",
        identity="digits",
        splits={"train": (1437,), "test": (360,)},
        read=_read_digits,
        open=lambda split: _in_memory(_read_digits(split, False)),
        fingerprint=None,
    )


def _in_memory(arrays: Arrays) -> Records:
    def read(indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.asarray(indices)
        return arrays.images[chosen], arrays.labels[chosen]

    return Records(arrays.images.shape[1:], arrays.class_names, read)


def _read_digits(split: str, progress: bool) -> Arrays:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = sorted(range(len(labels)), key=lambda i: hashlib.sha256(b"digits %d" % i).digest())
    order = np.array(order)
    held_out = np.zeros(len(labels), bool)  # in the shuffled order
    held_out[np.argsort(labels[order], kind="stable")[::5]] = True
    chosen = order[held_out if split == "test" else ~held_out]
    images = np.rint(pixels[chosen] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return Arrays(images, labels[chosen].astype(np.int32), tuple("0123456789"))


def default_data_dir() -> Path:
    """Return TFDS's own default folder: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find_prepared(
    name: str, root: Path, config: str | None = None, version: str | None = None
) -> Path | None:
    """Return the folder of a prepared TFDS data set, in the highest version that matches.

    Looks at the disk only; TFDS is not asked, since it would try to download what is missing.

    Args:
        name: such as 'cifar10'.
        root: the data folder of TFDS.
        config: the TFDS config; None: the one TFDS recorded as the default, if there is one.
        version: such as '3.0.2' or '3.*.*'; None: any.
    """
    folder = root / name
    if config is None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            recorded = json.loads((folder / ".config" / "metadata.json").read_text("utf-8"))
            config = recorded["default_config_name"]
    if config is not None:
        folder = folder / config
    found = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _VERSION.fullmatch(path.name)
            wanted = version is None or fnmatch.fnmatchcase(path.name, version)
            if match and wanted and all((path / file).is_file() for file in _DESCRIPTIONS):
                found.append((tuple(map(int, match.groups())), path))
    return max(found)[1] if found else None


def tfds_source(name: str, data_dir: str | None, *, download: bool, progress: bool) -> Source:
    """Return a TFDS data set of images of one shape, prepared in the array_record format.

    Raises:
        UserError: the data set is unknown, not prepared, or not one of images with class labels.
    """
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    match = _NAME.fullmatch(name)
    if match is None:
        raise _unknown(name)
    folder = find_prepared(match["name"], root, match["config"], match["version"])
    if folder is None:
        if match["name"] not in PREPARABLE or match["config"]:
            raise _not_prepared(name, match["name"], root)
        from jax_train import prepare

        if not download:
            raise UserError(prepare.missing_message(name, root, "config.data.download is False"))
        if match["version"]:
            with quiet_tfds() as tfds:
                version = str(tfds.builder_cls(match["name"]).VERSION)
            if not fnmatch.fnmatchcase(version, match["version"]):
                raise UserError(
                    f"config.data.name is {name!r}, which is not prepared in {root}, and the "
                    f"version that can be prepared is {version}. Leave the version out: "
                    f"--config.data.name={match['name']}."
                )
        folder = prepare.prepare(match["name"], root, progress=progress)
    splits = read_splits(folder)
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    return Source(
        name=name,
        identity=f"tfds {folder.resolve()}",
        splits=splits,
        read=lambda split, show: _read_tfds(folder, split, show),
        open=lambda split: _open_tfds(folder, split),
        fingerprint=fingerprint(files),
    )


def read_splits(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shard sizes of each split from dataset_info.json, after checking its format."""
    path = folder / "dataset_info.json"
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


@contextlib.contextmanager
def quiet_tfds():
    """Import TFDS and keep its log lines below errors away from the user."""
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import tensorflow_datasets as tfds

        yield tfds
    finally:
        logging.set_verbosity(before)


def _read_tfds(folder: Path, split: str, progress: bool) -> Arrays:
    """Decode one split of a prepared data set."""
    records = _open_tfds(folder, split)
    with quiet_tfds(), _readable(folder, split):
        count = sum(read_splits(folder)[split])
        images = np.empty((count, *records.image_shape), np.uint8)
        labels = np.empty(count, np.int32)
        what = f"Decoding {folder.parent.name} {split}"
        with progress_bar(count, what, progress) as bar:
            for start in range(0, count, _BATCH):
                block = slice(start, min(start + _BATCH, count))
                found = records.read(range(block.start, block.stop))
                images[block], labels[block] = found
                bar.update(len(found[1]))
    return Arrays(images, labels, records.class_names)


def _open_tfds(folder: Path, split: str) -> Records:
    """Return random access to one split of a prepared data set."""
    with quiet_tfds() as tfds, _readable(folder, split):
        builder = tfds.builder_from_directory(folder)
        image_key, label_key = _find_features(tfds, builder.info, folder)
        for path in builder.info.splits[split].filepaths:
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path} is missing")
        skip = {image_key: tfds.decode.SkipDecoding()}  # TFDS's own decoder logs a warning
        parse = partial(builder.info.features.deserialize_example_np, decoders=skip)
        records = builder.as_data_source(split).data_source
        shape = builder.info.features[image_key].shape
        names = tuple(builder.info.features[label_key].names)

    def read(indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        indices = [int(i) for i in indices]
        with _readable(folder, split):
            images, labels = _decode_all(records, parse, (image_key, label_key), shape, indices)
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(wrong):
            raise UserError(
                f"Example {indices[wrong[0]]} of the split {split} of {folder} has label "
                f"{labels[wrong[0]]}; expected 0 to {len(names) - 1}. Choose a split whose labels "
                "are known, or repair the data set and prepare it again."
            )
        return images, labels.astype(np.int32)

    return Records(shape, names, read)


@contextlib.contextmanager
def _readable(folder: Path, split: str) -> Iterator[None]:
    """Turn what goes wrong while records are read into a UserError."""
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:  # the C++ reader raises several kinds on damaged files
        raise UserError(
            f"The split {split} of {folder} cannot be read: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. Remove the folder and prepare it again."
        ) from error


def _decode_all(records, parse: Callable, keys: tuple[str, str], shape: tuple, indices: list[int]):
    """Return images uint8 [n, *shape] and labels int64 [n] of the records chosen."""
    images = np.empty((len(indices), *shape), np.uint8)
    labels = np.empty(len(indices), np.int64)
    found = records.__getitems__(indices)
    for i, (index, record) in enumerate(zip(indices, found, strict=True)):
        example = parse(record)
        images[i] = _decode(example[keys[0]], shape, index)
        labels[i] = example[keys[1]]
    return images, labels


def _decode(encoded: bytes, shape: tuple[int, int, int], index: int) -> np.ndarray:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(encoded), formats=_FORMATS)
        if image.mode != _MODES[shape[2]]:
            image = image.convert(_MODES[shape[2]])
        pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the image of example {index} is damaged ({error})") from error
    pixels = pixels.reshape(*pixels.shape[:2], shape[2])
    if pixels.shape != shape:
        raise ValueError(f"the image of example {index} has shape {pixels.shape}, not {shape}")
    return pixels


def _find_features(tfds, info, folder: Path) -> tuple[str, str]:
    """Return the keys of the image and of the class label, by supervised_keys or if unique."""
    kinds = {"image": tfds.features.Image, "class label": tfds.features.ClassLabel}
    found = []
    for position, (what, kind) in enumerate(kinds.items()):
        keys = [key for key, feature in info.features.items() if isinstance(feature, kind)]
        supervised = info.supervised_keys
        if supervised and len(supervised) == 2 and supervised[position] in keys:
            keys = [supervised[position]]
        if len(keys) != 1:
            raise UserError(
                f"{folder} has {len(keys)} features that can be the {what} ({', '.join(keys)}); "
                "expected one, or two supervised keys (image, label). Its features are: "
                f"{', '.join(info.features)}. Choose an image classification data set."
            )
        found.append(keys[0])
    feature = info.features[found[0]]
    shape = feature.shape
    if feature.np_dtype != np.uint8 or None in shape or len(shape) != 3 or shape[2] not in _MODES:
        raise UserError(
            f"The images of {folder} have shape {shape} and type {np.dtype(feature.np_dtype)}; "
            "expected one fixed height and width, 1, 3 or 4 channels, and uint8. Write the images "
            "out as files by class and read them with --config.data.name=folder:PATH "
            "--config.data.image_size=64."
        )
    return found[0], found[1]


def _not_prepared(name: str, base: str, root: Path) -> UserError:
    """Return the error for a data set that neither stands on disk nor can be prepared here."""
    with quiet_tfds() as tfds:
        builders = tfds.list_builders(with_community_datasets=False)
    if base not in builders:
        return _unknown(name, builders, root)
    return UserError(
        f"config.data.name is {name!r}, which is not prepared in {root} (looked for "
        "dataset_info.json in its version folders), and only "
        f"{', '.join(PREPARABLE)} can be prepared by jax_train. "
        "Where TensorFlow is installed, prepare it with tfds.builder("
        f"{name!r}, data_dir={str(root)!r}).download_and_prepare(file_format='array_record')."
    )


def _unknown(name: str, builders: list[str] | tuple = (), root: Path | None = None) -> UserError:
    known = ["digits", *PREPARABLE, "folder:PATH"]
    if root is not None and root.is_dir():
        known += [p.name for p in sorted(root.iterdir()) if find_prepared(p.name, root)]
    # Names in use here come first: 'cifar' should suggest cifar10, not a rare relative.
    near = difflib.get_close_matches(name, known[:-1], n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(name, builders, n=1, cutoff=0.75)
    if os.sep in name or Path(name).is_dir():
        near = [f"folder:{name}"]
    hint = f" Did you mean --config.data.name={near[0]} ?" if near else ""
    return UserError(
        f"config.data.name is {name!r}, which is no known data set.{hint} Known are: "
        f"{', '.join(dict.fromkeys(known))}, and any TFDS image classification set that is "
        "prepared in the array_record format in config.data.data_dir."
    )
