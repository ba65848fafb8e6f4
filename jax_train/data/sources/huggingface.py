"""`hf:ORG/DATASET` and `parquet:FOLDER`: image data sets that the library `datasets` reads."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jax_train.config.ranges import refusal
from jax_train.data.contents import Contents, contents_of
from jax_train.data.decoding import Encoded, ImageFile
from jax_train.data.image_files import is_hidden
from jax_train.data.source import Source
from jax_train.data.sources.folder_layout import role_in, words_for
from jax_train.data.sources.images import Images
from jax_train.errors import UserError, close
from jax_train.files import expand
from jax_train.printing import counted, listing, on_terminal

_NAME = re.compile(r"([\w.-]+/[\w.-]+|[\w.-]+)(?:/([\w.-]+))?(?:@(\S+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")  # a revision that never moves
_PROBE_SECONDS = 8
# Of columns that could be labels, beside those that have names of classes.
_LABELS = ("label", "labels", "fine_label", "class", "target", "category")


def hub_source(name: str, *, download: bool, **options) -> Source:
    """Return a data set of the Hugging Face hub, with its own splits.

    A validation split of another name is called `val`. Within a split the images stand in a fixed
    shuffled order. For how images come out see `Images`, for the columns `_columns`. What is in the
    cache of `datasets` serves where the hub cannot be reached.

    Args:
      name: `ORG/NAME`, `ORG/NAME/CONFIG`, each with `@REVISION` if need be.
      download: whether the hub may be asked.
      **options: as of `_source`.

    Raises:
      UserError: there is no such data set or revision, it cannot be fetched, or it is not one of
        images with labels.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise refusal(
            "data.name", f"hf:{name}", "hf:ORG/NAME, with /CONFIG and @REVISION if need be"
        )
    repository, config, revision = match.groups()
    datasets = _library(f"hf:{name}")
    unreached = _why_unreached(datasets) if download else "config.data.download is False"
    with _quietly(datasets, offline=bool(unreached)):
        builder = _built(datasets, f"hf:{name}", unreached, repository, config, revision=revision)
        commit = builder.hash
        if revision and COMMIT.fullmatch(revision) and revision != commit:
            raise UserError(
                f"config.data.name is hf:{name}, but the hub cannot be reached ({unreached}) and "
                f"the newest revision in the cache is {commit}. Name that one, or connect."
            )
        found = _prepared(builder, f"hf:{name}")
    notes = (f"{name} is read from the cache of datasets: {unreached}",) if unreached else ()
    whole = f"{repository}{f'/{config}' if config else ''}@{commit}"

    def contents(base: str, rows: int) -> Contents:
        return {f"{whole}/{base}": [rows, None]}

    return _source(datasets, f"hf:{whole}", f"hf {whole}", found, contents, notes=notes, **options)


def parquet_source(path: str, **options) -> Source:
    """Return the parquet files in a folder as a data set; splits follow from their names.

    As those of the hub are called: `train-00000-of-00001.parquet`, `data/test.parquet`,
    `validation/0.parquet`. Without such names all is `train`; beside them others are left out, and
    that is noted. Hidden files and folders never count.

    Args:
      path: the folder; `~` is the user's home.
      **options: as of `_source`.

    Raises:
      UserError: there is no such folder, or what is in it is not images with labels.
    """
    root, name = expand(path), f"parquet:{path}"
    if not path or not os.path.isdir(root):
        raise UserError(
            f"config.data.name is {name!r}, but there is no folder {root.absolute()}. Expected a "
            "folder with parquet files, such as train.parquet and test.parquet."
        )
    files, others = _by_split(root := root.resolve())
    if not files:
        raise UserError(
            f"No parquet file in {root}. For image files by class write "
            f"--config.data.name=folder:{path}."
        )
    datasets = _library(name)
    with _quietly(datasets):
        # The library would also look for the names of splits in the path to the folder, and takes
        # what it is given for patterns.
        whole = {split: [str(root / file) for file in some] for split, some in files.items()}
        given = {split: list(map(glob.escape, some)) for split, some in whole.items()}
        found = _prepared(_built(datasets, name, None, "parquet", data_files=given), name)

    def contents(base: str, rows: int) -> Contents:
        here = ((file, root / file) for file in files[base])
        return contents_of((file, path, path.stat().st_size) for file, path in here)

    unused = f"left out, being named like no split: {listing(others, 120)}"
    notes = (unused,) if others else ()
    return _source(datasets, name, f"parquet {root}", found, contents, notes=notes, **options)


def _by_split(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The parquet files below a folder by split, as paths below it; and those of no split."""
    # Some programs write a folder of such a name, with the files in it.
    found = (path.relative_to(root) for path in root.rglob("*.parquet") if not path.is_dir())
    names = sorted(file.as_posix() for file in found if not any(map(is_hidden, file.parts)))
    files = {}
    for name in names:
        words = (role_in(part) for part in reversed(name.split("/")))  # the file's own word first
        files.setdefault(next(filter(None, words), ""), []).append(name)
    without = files.pop("", [])
    return (files, without) if files else ({"train": without} if without else {}, [])


def _source(
    datasets,
    name: str,
    identity: str,
    found: Mapping[str, Any],
    contents,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    on_damaged: str = "stop",
    notes: tuple[str, ...] = (),
    **how,
) -> Source:
    """Return the source of loaded splits; `how` goes to `Images`.

    A split `val` answers to `validation` as well, as that of a folder does.

    Args:
      datasets: the library.
      name, identity, notes: as of `Source`.
      found: split -> `datasets.Dataset`.
      contents: (split, number of rows) -> what it consists of.
      image_column, label_column: None: found, see `_columns`.
      on_damaged: as of `data.load`.
    """
    image, label = _columns(datasets, name, found, image_column, label_column)
    label_name = f"{name}, column {label}"
    first = found.get("train", next(iter(found.values())))
    class_names, splits, absent, of = _class_names(first, label), {}, {}, {}
    other = [word for word in words_for("val") if word in found]
    aliases = {} if "val" in found or len(other) > 1 else dict.fromkeys(other, "val")
    for base, table in found.items():
        split = aliases.get(base, base)
        why, labels = _labels(table, label, class_names)
        if why and base == "train":
            raise UserError(f"{label_name}: {why} in train. Expected a class for every image.")
        if why or image not in table.column_names:
            absent[split] = why or f"it has no column {image}"
            continue
        of[split] = base
        table = table.select_columns([image]).cast_column(image, _undecoded(datasets, table, image))
        order = _order(len(labels))
        table, titles = table.with_format("arrow"), (f"{split} row", label)
        splits[split] = _Rows(table, *titles, order, class_names, labels[order])
    if not splits:
        told = listing([f"{split}: {why}" for split, why in absent.items()], 200)
        raise UserError(f"{label_name}: no split can be used. {told}.")
    if "val" in splits and "validation" not in splits:
        aliases |= {"validation": "val"}
    images = Images(splits, identity, **how)
    if on_damaged == "skip":
        notes += tuple(images.leave_out_damaged())
    notes += tuple(f"the split {split} is not used: {why}" for split, why in absent.items())
    return Source(
        name=name,
        identity=images.identity,
        splits={split: (len(rows.labels),) for split, rows in images.splits.items()},
        open=images.open,
        fingerprint=images.fingerprint(),
        contents=lambda split: contents(of[split], len(splits[split].labels)),
        file=lambda split, i: f"{split} row {images.splits[split].order[i]}",
        aliases=aliases,
        absent=absent,
        labels=lambda split: images.splits[split].labels,
        notes=notes,
    )


@dataclass(frozen=True)
class _Rows:
    """The images of a split, row by row; see `images.Split`.

    Attributes:
      table: `datasets.Dataset` with one column of encoded images.
      title: of the rows, for people.
      label_column: that the labels are of.
      order: row of each image.
      class_names, labels: as of `images.Split`.
    """

    table: Any
    title: str
    label_column: str
    order: np.ndarray
    class_names: tuple[str, ...]
    labels: np.ndarray

    @property
    def names(self) -> list[str]:
        """The numbers of the rows."""
        return [str(row) for row in self.order]

    def images(self, indices: Sequence[int]) -> list[ImageFile]:
        """The encoded images, or the paths to them."""
        rows = self.order[np.asarray(indices)]
        found = self.table[rows.tolist()].column(0).to_pylist()
        return [self._image(*pair) for pair in zip(rows, found, strict=True)]

    def _image(self, row: int, value: dict | bytes | None) -> ImageFile:
        value = value if isinstance(value, dict) else {"bytes": value}
        if value["bytes"] is None and value.get("path"):
            return Path(value["path"])
        return Encoded(f"{self.title} {row}", value["bytes"] or b"")

    def stats(self) -> Iterator[tuple[str, os.stat_result]]:
        """The files of the library's cache, with what is made of them."""
        columns = [*self.table.column_names, self.label_column]
        about = f"{columns} {len(self.order)}"
        for file in self.table.cache_files:
            yield f"{Path(file['filename']).name} {about}", os.stat(file["filename"])

    def keep(self, indices: Sequence[int]) -> "_Rows":
        """The split with these images alone."""
        return replace(self, order=self.order[indices], labels=self.labels[indices])


def _order(count: int) -> np.ndarray:
    """The fixed order of rows, which are often stored class by class; of a generator's own bits."""
    return np.argsort(np.random.Philox(key=count).random_raw(count), kind="stable")


# Columns


def _columns(datasets, name: str, found, image: str | None, label: str | None) -> tuple[str, str]:
    """Return the columns of images and labels: those named, or the only ones that can be.

    Images are columns of the library's feature `Image`, or of bytes with or without a path; labels
    are of the feature `ClassLabel`, or else texts or whole numbers under a usual name.

    Raises:
      UserError: none, or several can be, or the one that is named cannot.
    """
    features = found.get("train", next(iter(found.values()))).features
    images = [key for key, feature in features.items() if _is_image(datasets, feature)]
    plain = [key for key, feature in features.items() if _is_plain(datasets, feature)]
    labels = [key for key in plain if isinstance(features[key], datasets.ClassLabel)]
    labels = labels or [key for key in plain if key.casefold() in _LABELS]
    kinds = ("image", image, images, images), ("label", label, labels, plain)
    return tuple(_column(name, features, *kind) for kind in kinds)


def _column(name: str, features, kind: str, given: str | None, likely, possible) -> str:
    what = "images" if kind == "image" else "labels"
    if given is not None and given not in possible:
        near = close(given, possible)
        cure = f"Did you mean {near}?" if near else f"Columns are: {listing(features, 200)}."
        raise refusal(f"data.{kind}_column", given, f"a column of {what} of {name}", cure)
    if given is None and len(likely) != 1:
        some = f"several columns of {what}: {listing(likely, 200)}"
        none = f"no column of {what}; its columns are: {listing(features, 200)}"
        example = likely[0] if likely else "NAME"
        raise UserError(
            f"config.data.name is {name}, which has {some if likely else none}. Say which one is "
            f"meant with --config.data.{kind}_column={example}, or choose other data."
        )
    return given or likely[0]


def _is_image(datasets, feature) -> bool:
    if isinstance(feature, dict):  # files written without the library
        return "bytes" in feature
    is_bytes = isinstance(feature, datasets.Value) and "binary" in feature.dtype
    return is_bytes or isinstance(feature, datasets.Image)


def _is_plain(datasets, feature) -> bool:
    texts = ("string", "large_string", "bool")
    is_value = isinstance(feature, datasets.Value)
    is_label = is_value and (feature.dtype in texts or "int" in feature.dtype)
    return is_label or isinstance(feature, datasets.ClassLabel)


def _undecoded(datasets, table, column: str):
    """The feature of a column of images under which they are handed out encoded."""
    feature = table.features[column]
    return datasets.Image(decode=False) if isinstance(feature, datasets.Image) else feature


def _class_names(table, label: str) -> tuple[str, ...]:
    names = getattr(table.features[label], "names", None)
    if names is None:
        names = map(str, sorted(value for value in table.unique(label) if value is not None))
    return tuple(names)


def _labels(table, label: str, class_names: tuple[str, ...]) -> tuple[str, np.ndarray]:
    """Return why a split has no labels that can be used, or '' and its labels: int32 [N]."""
    if label not in table.column_names:
        return f"it has no column {label}", np.empty(0, np.int32)
    values = table.data.column(label).to_pylist()
    if hasattr(table.features[label], "names"):
        known = {number: number for number in range(len(class_names))}
    else:
        known = {name: i for i, name in enumerate(class_names)}
        values = [value if value is None else str(value) for value in values]
    wrong = [value for value in values if value not in known]
    if wrong:
        text = f"{counted(len(wrong), 'image has', 'images have')} the label {wrong[0]}"
        return f"{text}, which is no class", np.empty(0, np.int32)
    if not values:
        return "it is empty", np.empty(0, np.int32)
    return "", np.array([known[value] for value in values], np.int32)


# The library


def _library(name: str):
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"config.data.name is {name}, which is read with the library datasets: pip install "
            "datasets, or write the images out as files and use folder:PATH."
        ) from None
    return datasets


def _why_unreached(datasets) -> str | None:
    """Why the hub cannot be reached; None if it can. The library itself tries for half a minute."""
    import requests

    if datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        requests.head(datasets.config.HF_ENDPOINT, timeout=_PROBE_SECONDS)
    except requests.RequestException as error:
        return f"{datasets.config.HF_ENDPOINT} cannot be reached ({type(error).__name__})"
    return None


@contextlib.contextmanager
def _quietly(datasets, offline: bool = False) -> Iterator[None]:
    """Keep the library's log lines away from the user, and, if it is to be, from the network.

    Its progress bars are shown on terminals only.
    """
    before, verbosity = datasets.config.HF_HUB_OFFLINE, datasets.logging.get_verbosity()
    has_bars = not datasets.are_progress_bars_disabled()
    try:
        if not on_terminal():
            datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        datasets.config.HF_HUB_OFFLINE = before or offline
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        datasets.logging.set_verbosity(verbosity)
        if has_bars:
            datasets.enable_progress_bars()


def _built(datasets, name: str, unreached: str | None, *what, **how):
    """Return the library's builder of a data set; or raise UserError."""
    try:
        return datasets.load_dataset_builder(*what, **how)
    except datasets.exceptions.DatasetNotFoundError as error:
        says = "has no such revision: check the part after '@'"
        if "evision" not in str(error):
            says = "does not exist on the hub, or is private: check the name, or run hf auth login"
        raise UserError(f"config.data.name is {name}, which {says}.") from error
    except ConnectionError as error:
        why = unreached or "the hub cannot be reached"
        raise UserError(
            f"config.data.name is {name}, which is not in the cache of datasets, and {why}. "
            "Connect once, or give a folder of its files with --config.data.name=parquet:PATH."
        ) from error
    except Exception as error:  # of the network, the disk or the files
        raise _refused(name, error) from error


def _prepared(builder, name: str) -> dict:
    """Return the splits by name, after downloading and converting what is not in the cache."""
    try:
        builder.download_and_prepare()
        return dict(builder.as_dataset())
    except Exception as error:
        raise _refused(name, error) from error


def _refused(name: str, error: Exception) -> UserError:
    cause = error.__cause__ or error  # the library's own words are that something went wrong
    reason = " ".join(str(cause).split())[:300].rstrip(".") or type(cause).__name__
    cure = "If a configuration is missing, write hf:ORG/NAME/CONFIG."
    if not name.startswith("hf:"):
        cure = "Expected whole parquet files of the same columns."
    return UserError(f"config.data.name is {name}, which cannot be read: {reason}. {cure}")
