"""What a trained model says of image files: the work behind `predict`."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_train.analysis.scoring import Scorer, check_finite
from jax_train.data.given_images import count_differences, try_images
from jax_train.data.source import DamagedFiles
from jax_train.engine.feed import even_batch
from jax_train.printing import progress_bar
from jax_train.runs.trained import TrainedRun, image_shape

_BATCH = 100


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of N images; K classes, of which k are kept for each image.

    Attributes:
      files: the N files that could be read.
      unread: the other files, with the reason.
      class_names: K names.
      classes: int [N,k], the likeliest classes, the likeliest first.
      probabilities: float32 [N,k], theirs.
      all_probabilities: float32 [N,K] by class, where asked for.
      differences: how many images had to be changed much; see `given_images.count_differences`.
    """

    files: list[Path]
    unread: dict[Path, str]
    class_names: tuple[str, ...]
    classes: np.ndarray
    probabilities: np.ndarray
    all_probabilities: np.ndarray | None
    differences: Counter[str]


def predict(
    run: TrainedRun,
    files: Sequence[str | os.PathLike],
    *,
    top: int = 5,
    tta: Sequence[str] = (),
    keep_all: bool = False,
    progress: bool = False,
) -> Predictions:
    """Predict the classes of image files, batch by batch.

    Args:
      run: the model.
      files: at least one; see `given_images.try_images` for what may be in them.
      top: classes to keep for each image, at least 1; more than there are means all.
      tta: test-time augmentation, see `scoring.views`.
      keep_all: also keep the probabilities of all classes.
      progress: show a progress bar, where stderr is a terminal and it takes longer than 2 s.

    Raises:
      UserError: no file can be read, or the model's logits are not finite.
    """
    files, read, unread = [Path(file) for file in files], [], {}
    shape, scorer, size = image_shape(run), Scorer(run, tta), even_batch(len(files), _BATCH)
    limit = run.config.data.max_megapixels
    classes, probabilities, everything, differences = [], [], [], Counter()
    with progress_bar(len(files), "Predicting", progress) as bar:
        for start in range(0, len(files), size):
            block = files[start : start + size]
            bar.update(len(block))
            images, damaged = try_images(block, shape, limit, run.fit)
            unread |= {block[place]: why for place, why in damaged.items()}
            if not len(images):
                continue
            block = [file for place, file in enumerate(block) if place not in damaged]
            read += block
            found = scorer.probabilities(images, size)
            check_finite(run, found)
            order, shares = likeliest(found, top)
            classes.append(order)
            probabilities.append(shares)
            everything += [found] if keep_all else []
            differences += count_differences(block, shape, limit)
    if not read:
        raise DamagedFiles([f"{file} ({why})" for file, why in unread.items()])
    all_probabilities = np.concatenate(everything) if keep_all else None
    said = np.concatenate(classes), np.concatenate(probabilities), all_probabilities, differences
    return Predictions(read, unread, run.class_names, *said)


def likeliest(probabilities: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest classes of N images, the likeliest first, and their probabilities, [N,k].

    Of the probabilities [N,K]; more than K of the `top` means all.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return order, np.take_along_axis(probabilities, order, axis=1)
