"""Data sets of TFDS, prepared in the array_record format; read without TensorFlow."""

import contextlib
import fnmatch
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from jax_train.config.ranges import refusal
from jax_train.data.cache import Folder, fingerprint_of
from jax_train.data.contents import contents_of
from jax_train.data.decoding import Encoded, decode_image, fitted, open_image, try_decoding
from jax_train.data.source import Fit, Records, Source
from jax_train.data.sources import prepare
from jax_train.data.sources.archives import RECIPES
from jax_train.data.sources.tfds_folder import (
    data_root,
    find_prepared,
    has_photos,
    quiet_tfds,
    read_splits,
)
from jax_train.errors import UserError, close

_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>[\d.*]+))?")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def resizes(name: str, data_dir: str | None) -> bool:
    """Whether the images of a TFDS data set are brought to `image_size`: photos of many sizes.

    One that is not prepared may be of them, unless its name is also that of a folder.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["name"] in RECIPES:
        return False
    folder = find_prepared(match["name"], data_root(data_dir), match["config"], match["version"])
    if folder is None:
        return os.sep not in name and not os.path.isdir(name)
    return has_photos(folder)


def tfds_source(
    name: str,
    data_dir: str | None,
    *,
    download: bool,
    progress: bool,
    others: tuple[str, ...],
    image_size: int | None = None,
    interpolation: str | None = None,
    fit: Fit | None = None,
    on_damaged: str = "stop",
    max_megapixels: float | None = None,
    cache_dir: Folder = None,
) -> Source:
    """Return a TFDS data set of images, prepared in the array_record format.

    Photos of many sizes are brought to `image_size`, as those of a folder are. A split `validation`
    answers to `val` as well.

    Arguments are those of `jax_train.data.load`; `others` are names of other sources, for errors,
    and `fit` brings photos to its shape instead.

    Raises:
      UserError: the data set is unknown, not prepared, or not one of images with class labels; or
        its photos need an `image_size`.
    """
    folder = _find_folder(name, data_root(data_dir), download, progress, others)
    files = sorted((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    form, settings = None, ()
    if has_photos(folder):
        form = _form(name, image_size, interpolation, fit, on_damaged)
        settings = (image_size, interpolation, max_megapixels)
    splits = read_splits(folder)
    return Source(
        name=name,
        identity=f"tfds {folder.resolve()}",
        splits=splits,
        open=lambda split: _open_tfds(folder, split, form, max_megapixels),
        fingerprint=fingerprint_of(files, *settings),
        contents=lambda split: contents_of(
            (file, folder / file, stat.st_size)
            for file, stat in files
            if f"-{split}.array_record" in file
        ),
        aliases={} if "val" in splits or "validation" not in splits else {"val": "validation"},
    )


def _form(
    name: str, image_size: int | None, interpolation: str | None, fit: Fit | None, on_damaged: str
) -> Callable[[int], Fit]:
    """What brings photos of so many channels to one shape."""
    if on_damaged != "stop":
        expected = f"'stop' for {name}, whose records are whole or not to be trusted"
        raise refusal("data.on_damaged", on_damaged, expected)
    if fit:
        return lambda channels: fit
    if image_size is None:
        expected = f"a side in pixels, because the images of {name} have many sizes"
        cure = "For example --config.data.image_size=256."
        raise refusal("data.image_size", None, expected, cure)
    apply = partial(fitted, size=(image_size, image_size), interpolation=interpolation)
    return lambda channels: Fit((image_size, image_size, channels), apply)


def _find_folder(
    name: str, root: Path, download: bool, progress: bool, others: tuple[str, ...]
) -> Path:
    """The folder of a data set, prepared now where that can be."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise _refusal(name, None, root, others)
    folder = find_prepared(match["name"], root, match["config"], match["version"])
    if folder is None:
        if match["name"] not in RECIPES or match["config"]:
            raise _refusal(name, match["name"], root, others)
        if not download:
            raise UserError(prepare.missing_message(name, root, "config.data.download is False"))
        with quiet_tfds() as tfds:
            version = str(tfds.builder_cls(match["name"]).VERSION)
        if not fnmatch.fnmatchcase(version, match["version"] or "*"):
            raise UserError(
                f"config.data.name is {name!r}, which is not prepared in {root}, and the "
                f"version that can be prepared is {version}. Leave the version out: "
                f"--config.data.name={match['name']}."
            )
        folder = prepare.prepare(match["name"], root, progress=progress)
    return folder


def _open_tfds(
    folder: Path,
    split: str,
    form: Callable[[int], Fit] | None = None,
    max_megapixels: float | None = None,
) -> Records:
    """Return random access to one split of a prepared data set; see `_form`."""
    with quiet_tfds() as tfds, _readable(folder, split):
        builder = tfds.builder_from_directory(folder)
        image_key, label_key = _find_features(tfds, builder.info, folder)
        for path in builder.info.splits[split].filepaths:
            if not Path(path).is_file():
                raise FileNotFoundError(f"{path} is missing")
        # TFDS's own decoder asks for OpenCV; and images that are not the data's own cost time.
        features, image = builder.info.features, tfds.features.Image
        images = [key for key, feature in features.items() if isinstance(feature, image)]
        skip = dict.fromkeys(images, tfds.decode.SkipDecoding())
        parse = partial(builder.info.features.deserialize_example_np, decoders=skip)
        records = builder.as_data_source(split).data_source
        shape = builder.info.features[image_key].shape
        names = tuple(builder.info.features[label_key].names)
    fit = form and form(shape[2])

    def decoded(indices: np.ndarray, decode: Callable, shape: Sequence[int], fits: Iterable):
        images = np.empty((len(indices), *shape), np.uint8)
        labels = np.empty(len(indices), np.int64)
        with _readable(folder, split):
            found = records.__getitems__(indices.tolist())
            for i, (index, record, how) in enumerate(zip(indices, found, fits, strict=False)):
                example = parse(record)
                images[i] = decode(example[image_key], index, how)
                labels[i] = example[label_key]
        wrong = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(wrong):
            raise UserError(
                f"Example {indices[wrong[0]]} of the split {split} of {folder} has label "
                f"{labels[wrong[0]]}; expected 0 to {len(names) - 1}. Choose a split whose labels "
                "are known, or repair the data set and prepare it again."
            )
        return images, labels.astype(np.int32)

    if fit is None:
        return Records(
            shape, names, lambda rows: decoded(rows, partial(_decode, shape), shape, repeat(None))
        )
    channels = fit.image_shape[2]
    decode = partial(_decode_photo, channels, max_megapixels)

    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return decoded(rows, decode, fit.image_shape, repeat(fit.apply))

    def read_fitted(rows: np.ndarray, fits: Sequence[Callable], size: tuple[int, int]):
        return decoded(rows, decode, (*size, channels), fits)

    return Records(fit.image_shape, names, read, read_fitted=read_fitted)


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


def _decode_photo(
    channels: int, max_megapixels: float | None, encoded: bytes, index: int, fit: Callable
) -> np.ndarray:
    decode = partial(decode_image, channels=channels, fit=fit, max_megapixels=max_megapixels)
    found = try_decoding(Encoded(f"example {index}", encoded), decode)
    if isinstance(found, str):
        raise ValueError(f"the image of example {index} is damaged ({found})")
    return found


def _decode(shape: tuple[int, int, int], encoded: bytes, index: int, fit: None) -> np.ndarray:
    try:
        image = open_image(io.BytesIO(encoded))
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
    modes = (1, 3) if None in shape else _MODES  # photos become grey or RGB
    if feature.np_dtype != np.uint8 or len(shape) != 3 or shape[2] not in modes:
        raise UserError(
            f"The images of {folder} have shape {shape} and type {np.dtype(feature.np_dtype)}; "
            "expected 1 or 3 channels, of images of one size also 4, and uint8. Write the images "
            "out as files by class and read them with --config.data.name=folder:PATH "
            "--config.data.image_size=64."
        )
    return found[0], found[1]


def _refusal(name: str, base: str | None, root: Path, others: tuple[str, ...]) -> UserError:
    """Return the error for a data set that neither stands on disk nor can be prepared here.

    `base` is its name without config and version; None: what is given is no name of TFDS.
    """
    builders = []
    if base:
        with quiet_tfds() as tfds:
            builders = tfds.list_builders(with_community_datasets=False)
    if base in builders:
        return UserError(
            f"config.data.name is {name!r}, which is not prepared in {root} (looked for "
            "dataset_info.json in its version folders), and only "
            f"{', '.join(RECIPES)} can be prepared by jax_train. "
            "Where TensorFlow is installed, prepare it with tfds.builder("
            f"{name!r}, data_dir={str(root)!r}).download_and_prepare(file_format='array_record')."
        )
    plain = [other for other in others if ":" not in other] + list(RECIPES)
    found = sorted(root.iterdir()) if base and root.is_dir() else []
    prepared = [path.name for path in found if find_prepared(path.name, root)]
    known = dict.fromkeys([*plain, *others, *prepared])
    # Names in use here come first: 'cifar' should suggest cifar10, not a rare relative.
    near = close(name, [*plain, *prepared]) or close(name, builders)
    if os.sep in name or Path(name).is_dir():
        near = f"folder:{name}"
    hint = f" Did you mean --config.data.name={near} ?" if near else ""
    return UserError(
        f"config.data.name is {name!r}, which is no known data set.{hint} Known are: "
        f"{', '.join(known)}, and any TFDS image classification set that is "
        "prepared in the array_record format in config.data.data_dir."
    )
