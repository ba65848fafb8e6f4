"""Features: what a model makes of images before its head reads it, batch by batch."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_train.analysis.scoring import check_finite
from jax_train.data import Dataset, StreamedDataset
from jax_train.data.given_images import try_images
from jax_train.data.source import DamagedFiles
from jax_train.data.sources.by_name import scheme_of
from jax_train.data.sources.folder_layout import named_like_splits
from jax_train.data.split import AUTO, automatic
from jax_train.data.splits import open_store
from jax_train.engine import feed
from jax_train.engine.state import leaf_paths
from jax_train.errors import UserError
from jax_train.printing import progress_bar
from jax_train.runs.trained import TrainedRun, image_shape

_BATCH = 100


@dataclass(frozen=True, eq=False)
class Images:
    """N images that a model is to be shown, which are read when it is.

    Attributes:
      data: what they are, for people.
      names: of each: the path of its file within the data, or such as 'test image 17'.
      class_names: K names; none where the classes are not known.
      read: places [n] -> (images uint8 [m,H,W,C], labels int32 [m] or None, place among the n of
        each image that cannot be read -> why).
      notes: what has to be told of them.
    """

    data: str
    names: Sequence[str]
    class_names: tuple[str, ...]
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None, dict[int, str]]]
    notes: tuple[str, ...] = ()


class Part(NamedTuple):
    """Features of some images.

    Attributes:
      features: pooled [n,F], or those of a ViT's last tokens [n,T,F], or the last feature map of a
        CNN [n,H,W,F]; float32 at least.
      places: int64 [n], of the images among those asked for.
      labels: int32 [n]; None where they are not known.
    """

    features: np.ndarray
    places: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N images, with what they are of.

    Attributes:
      features: [N,…], see `Part`.
      names: as of `Images`.
      labels: int32 [N]; None where they are not known.
      class_names: K names; none without labels.
      model: name of the model.
      weights: the same for the same weights behind the same preprocessing, see `digest`.
      source: run folder or pretrained model.
      data: what the images are.
    """

    features: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    model: str
    weights: str
    source: str
    data: str


def extract(
    run: TrainedRun,
    images: Images,
    unread: dict[str, str],
    *,
    tokens: bool = False,
    progress: bool = False,
) -> Iterator[Part]:
    """Yield the features of images, batch by batch; of images a batch is in memory at once.

    Args:
      run: the model.
      images: at least one.
      unread: takes the names of the files that cannot be read, with the reason.
      tokens: the last tokens, or the last feature map, instead of what the head reads.
      progress: show a progress bar, where stderr is a terminal and it takes longer than 2 s.

    Raises:
      UserError: no file can be read, or the features are not finite.
    """
    count = len(images.names)
    of_batch = jax.jit(functools.partial(_features, run.recipe, tokens))
    size, found = feed.even_batch(count, _BATCH), 0
    with progress_bar(count, "Features", progress) as bar:
        for start in range(0, count, size):
            places = np.arange(start, min(start + size, count))
            pixels, labels, damaged = images.read(places)
            unread |= {images.names[start + place]: why for place, why in damaged.items()}
            bar.update(len(places))
            if not len(pixels):
                continue
            features = of_batch(run.params, run.stats, feed.padded(pixels, size))
            features = np.asarray(features)[: len(pixels)]
            check_finite(run, features, "features")
            found += len(features)
            yield Part(features, np.delete(places, list(damaged)), labels)
    if not found:
        raise DamagedFiles([f"{name} ({why})" for name, why in unread.items()])


def _features(recipe, tokens: bool, params, stats, images) -> jax.Array:
    model, inputs = recipe.merge(params, stats), recipe.inputs(images)
    found = model.forward_features(inputs) if tokens else model.pooled_features(inputs)
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))


def gather(run: TrainedRun, images: Images, parts: Iterator[Part]) -> Features:
    """Bring parts from `extract` together in memory."""
    features, places, labels = zip(*parts, strict=True)
    return describe(
        run,
        images,
        np.concatenate(features),
        np.concatenate(places),
        None if labels[0] is None else np.concatenate(labels),
    )


def describe(run: TrainedRun, images: Images, features, places, labels) -> Features:
    """Say of features [N,…] of the images at places [N] with labels [N] what they are of."""
    return Features(
        features=features,
        names=tuple(images.names[place] for place in places),
        labels=labels,
        class_names=() if labels is None else images.class_names,
        model=run.config.model.name,
        weights=digest(run),
        source=str(run.folder),
        data=images.data,
    )


def digest(run: TrainedRun) -> str:
    """SHA-256 of a run's reported weights, and of the size, mean and std of its images."""
    weights = run.params, run.stats
    data = run.config.data
    found = hashlib.sha256(repr((image_shape(run), data.mean, data.std)).encode())
    for path, leaf in zip(leaf_paths(weights), jax.tree.leaves(weights), strict=True):
        found.update(path.encode())
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


# Which images


def of_files(
    run: TrainedRun, files: Sequence[Path], names: Sequence[str], data: str, labels=None, classes=()
) -> Images:
    """Image files of any size, brought to the model's as `predict` does.

    Args:
      run: the model.
      files: their paths.
      names: what each is called in the result.
      data: what they are.
      labels: int32 [N]; None where they are not known.
      classes: names of the classes.
    """
    shape, limit = image_shape(run), run.config.data.max_megapixels

    def read(places):
        pixels, damaged = try_images([files[i] for i in places], shape, limit, run.fit)
        known = None if labels is None else np.delete(labels[places], list(damaged))
        return pixels, known, damaged

    return Images(data, names, tuple(classes), read)


def of_places(run: TrainedRun, files: Sequence[Path], given: Sequence[str | os.PathLike]) -> Images:
    """Files that `given_images.find_images` found in what was given.

    Of one folder the names are relative to it, and labels are known where all images lie in
    folders of classes; of several places the names are the paths.
    """
    data = ", ".join(map(str, given))
    if len(given) > 1 or not os.path.isdir(given[0]):
        return of_files(run, files, list(map(str, files)), data)
    names = [os.path.relpath(file, given[0]) for file in files]
    return of_files(run, files, names, data, *classes_of(names))


def classes_of(names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels int32 [N] and K class names of paths CLASS/…/FILE, or SPLIT/CLASS/…/FILE.

    (None, ()) where a file stands outside, or there is one class alone.
    """
    folders = [Path(name).parts[:-1] for name in names]
    if all(folders) and named_like_splits({parts[0] for parts in folders}):
        folders = [parts[1:] for parts in folders]
    if not all(folders) or len({parts[0] for parts in folders}) < 2:
        return None, ()
    classes, labels = np.unique([parts[0] for parts in folders], return_inverse=True)
    return labels.astype(np.int32), tuple(classes.tolist())


def of_split(run: TrainedRun, split: str, other: tuple[str, str | None] | None = None) -> Images:
    """Images of a split of a run's own data, or of other data.

    Args:
      run: the model.
      split: such as 'test' or 'train[:1000]'.
      other: name and `data_dir` of other data; images of a folder are brought to the model's size.

    Raises:
      UserError: the split cannot be read, or its images have another shape than the model takes.
    """
    config = run.config.copy_and_resolve_references()
    config.data.memory_limit = 0.0  # nothing is kept
    lean = dataclasses.replace(run, config=config)
    examples = lean.other_split(*other, split) if other else lean.split(split)
    names = examples.exact_names(np.arange(len(examples)))
    data = f"{examples.split} of {examples.name}"
    if root := scheme_of(examples.name).root(examples.name):
        files = [root / name for name in names]
        found = of_files(run, files, names, data, examples.labels, examples.class_names)
    else:
        _check_shape(run, examples)
        found = Images(data, names, examples.class_names, lambda i: (*examples.take(i), {}))
    return dataclasses.replace(found, notes=tuple(examples.notes))


def splits(
    run: TrainedRun, other: tuple[str, str | None] | None, train: str | None, test: str | None
) -> tuple[str, str]:
    """The splits to train and to test a classifier on, where they are not given.

    Of a run's own data its own; of other data the training images, and the test images or else the
    validation images; where there are none of these, a part of the training images, of each class
    alike (see `split.automatic`), is left for the test.

    Raises:
      UserError: there are no such data.
    """
    if other is None:
        own = run.config.data
        return train or own.train_split, test or own.test_split
    config = run.config.copy_and_resolve_references()
    with config.ignore_type():
        config.data.update(name=other[0], data_dir=other[1], image_size=None)
    source = open_store(config).source
    names = {*source.splits, *source.aliases}
    held = next((name for name in ("test", "validation", "val") if name in names), AUTO)
    wanted = {"train": train or AUTO, "val": "", "test": test or held}
    found = automatic(source, wanted)
    return found["train"], found["test"]


def _check_shape(run: TrainedRun, examples: Dataset | StreamedDataset) -> None:
    if (shape := image_shape(run)) != examples.image_shape:
        raise UserError(
            f"The images of {examples.name} are {examples.image_shape} (height, width, channels), "
            f"and {run.folder} takes {shape}. Save them as files and name their folder."
        )
