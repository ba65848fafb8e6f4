"""What a trained model says of image files: the work behind `predict`."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_train.analysis.scoring import Scorer, check_finite
from jax_train.data.given_images import count_differences, read_images
from jax_train.engine.feed import even_batch
from jax_train.printing import progress_bar
from jax_train.runs.trained import TrainedRun, image_shape

_BATCH = 100


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says of N images; K classes, of which k are kept for each image.

    Attributes:
      files: the N files.
      class_names: K names.
      classes: int [N,k], the likeliest classes, the likeliest first.
      probabilities: float32 [N,k], theirs.
      all_probabilities: float32 [N,K] by class, where asked for.
      differences: how many images had to be changed much; see `images.count_differences`.
    """

    files: list[Path]
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
      files: at least one; see `images.read_images` for what may be in them.
      top: classes to keep for each image, at least 1; more than there are means all.
      tta: test-time augmentation, see `scoring.views`.
      keep_all: also keep the probabilities of all classes.
      progress: show a progress bar, where stderr is a terminal and it takes longer than 2 s.

    Raises:
      UserError: a file cannot be read, or the model's logits are not finite.
    """
    files = [Path(file) for file in files]
    shape, scorer, size = image_shape(run), Scorer(run, tta), even_batch(len(files), _BATCH)
    classes, probabilities, everything, differences = [], [], [], Counter()
    with progress_bar(len(files), "Predicting", progress) as bar:
        for start in range(0, len(files), size):
            block = files[start : start + size]
            found = scorer.probabilities(read_images(block, shape), size)
            check_finite(run, found)
            order = np.argsort(-found, axis=1, kind="stable")[:, :top]
            classes.append(order)
            probabilities.append(np.take_along_axis(found, order, axis=1))
            everything += [found] if keep_all else []
            differences += count_differences(block, shape)
            bar.update(len(block))
    likeliest = np.concatenate(classes), np.concatenate(probabilities)
    all_probabilities = np.concatenate(everything) if keep_all else None
    return Predictions(files, run.class_names, *likeliest, all_probabilities, differences)
