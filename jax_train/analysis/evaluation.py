"""Figures of a trained model on any split: the work behind `evaluate`."""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from jax_train.analysis.scoring import Scorer, tta_notes
from jax_train.data import Dataset, Examples, StreamedDataset, count_shared
from jax_train.data.split import resolve_split, with_view
from jax_train.data.splits import open_store
from jax_train.engine import feed, metrics
from jax_train.errors import UserError
from jax_train.printing import counted, progress_bar
from jax_train.runs import data_record
from jax_train.runs.trained import TrainedRun, image_shape


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model makes of a split. N images in the order of the split, K classes.

    Attributes:
      data: name of the data set.
      split: as given.
      class_names: K names.
      tta: test-time augmentation, from `scoring.TTA`.
      labels: int32 [N], the true classes.
      predictions: int32 [N], the classes of the largest probability.
      confidences: float32 [N], that probability.
      true_probabilities: float32 [N], the probability of the true class.
      sums: on the host; `sums.confusion` is [K,K] by true and predicted class.
      seconds: without compilation; None where they are not of all that happens to an image.
    """

    data: str
    split: str
    class_names: tuple[str, ...]
    tta: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    true_probabilities: np.ndarray
    sums: metrics.EvalSums
    seconds: float | None

    @property
    def confusion(self) -> np.ndarray:
        """Counts [K,K] by true and predicted class."""
        return np.asarray(self.sums.confusion)

    @property
    def figures(self) -> dict[str, float]:
        """As `metrics.reported_figures`; what results.json holds under `test`."""
        return metrics.reported_figures(self.sums)

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the top-1 accuracy, in [0, 1]: Wilson's score interval.

        Both are nan where the figures are. Source: Wilson 1927,
        https://doi.org/10.1080/01621459.1927.10502953.
        """
        if not math.isfinite(self.figures["top1"]):
            return math.nan, math.nan
        from scipy.stats import binomtest

        test = binomtest(int(np.trace(self.confusion)), len(self.labels))
        low, high = test.proportion_ci(confidence_level=0.95, method="wilson")
        return float(low), float(high)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in 15 bins, in [0, 1]; see `calibration_error`."""
        return calibration_error(self.confidences, self.predictions == self.labels)

    @property
    def images_per_sec(self) -> float:
        """Images, not views of them, per second."""
        return len(self.labels) / self.seconds

    @cached_property
    def by_class(self) -> dict[str, np.ndarray]:
        """`images`, and `precision`, `recall`, `f1` as of `metrics.class_figures`: [K] each.

        The macro figures are the means over the classes that have images.
        """
        return {"images": self.confusion.sum(axis=1)} | metrics.class_figures(self.confusion)

    @cached_property
    def mistakes(self) -> np.ndarray:
        """Counts [K,K] by true and wrongly predicted class; 0 on the diagonal."""
        return self.confusion - np.diag(np.diag(self.confusion))

    @property
    def most_confused(self) -> tuple[np.ndarray, np.ndarray]:
        """The wrong class that each class was taken for most often [K], and how often [K]."""
        return self.mistakes.argmax(axis=1), self.mistakes.max(axis=1)


def calibration_error(confidences: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3).

    The mean, over all images, of the gap between mean confidence and accuracy in the image's bin;
    the 15 bins are equally wide and closed above.

    Args:
      confidences: probability [N] of the predicted class.
      right: bool [N], whether that class is the true one.

    Returns:
      From 0 to 1; nan if a confidence is none.
    """
    if not np.isfinite(confidences).all():
        return math.nan
    confidences = confidences.astype(np.float64)
    place = np.clip(np.ceil(15 * confidences).astype(int) - 1, 0, 14)
    gaps = np.bincount(place, confidences - right)
    return float(np.abs(gaps).sum() / len(confidences))


def evaluate(
    run: TrainedRun,
    split: str | Dataset | StreamedDataset,
    tta: Sequence[str] = (),
    *,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a run on a split, in even batches of up to `config.eval.batch_size`.

    Without augmentation, on the run's own test split, the figures are those of results.json; to
    the last bit of the loss if one device trained it and evaluates it.

    Args:
      run: the model.
      split: of the run's data, such as 'test' or 'train[:1000]'; or examples, in memory or
        streamed, with the run's image shape and classes.
      tta: see `scoring.views`.
      progress: show a progress bar, where stderr is a terminal and it takes longer than 2 s.

    Raises:
      UserError: the split is unknown, cannot be read, or its images or classes are others.
    """
    if isinstance(split, str):
        split = run.split(split)
    else:
        _check_shape(run, split)
    _check_classes(run, split)
    scorer, count = Scorer(run, tta), len(split)
    size = feed.even_batch(count, run.config.eval.batch_size)
    sums = metrics.zero_eval_sums(split.num_classes)
    blank = np.zeros((size, *split.image_shape), np.uint8), np.zeros(size, np.int32)
    jax.block_until_ready(scorer.tally(sums, *blank, 0))  # compiles; counts nothing
    places = np.arange(math.ceil(count / size) * size).reshape(-1, size)
    order = np.where(places < count, places, 0)  # the last one is filled up with the first example
    parts = []
    begin = time.monotonic()
    with (
        contextlib.closing(split.batches(order)) as batches,
        progress_bar(count, f"Evaluating {split.split}", progress) as bar,
    ):
        for start, (images, true) in zip(range(0, count, size), batches, strict=True):
            valid = min(size, count - start)
            sums, part = scorer.tally(sums, images, true, valid)
            # Waits for the device, so that no more than one batch is in memory.
            parts.append([array[:valid] for array in (true, *jax.device_get(part))])
            bar.update(valid)
    seconds = time.monotonic() - begin
    of_what = split.name, split.split, split.class_names, tuple(tta)
    arrays = map(np.concatenate, zip(*parts, strict=True))
    return Evaluation(*of_what, *arrays, jax.device_get(sums), seconds)


def _check_classes(run: TrainedRun, examples: Examples) -> None:
    if examples.class_names == run.class_names:
        return
    same = sorted(examples.class_names) == sorted(run.class_names)
    raise UserError(
        f"The classes of {examples.name} are not those of {run.folder}: "
        f"{_some(examples.class_names)} there, {_some(run.class_names)} in the run"
        f"{' (another order)' * same}. Choose data with the same classes in the same order."
    )


def _check_shape(run: TrainedRun, examples: Dataset | StreamedDataset) -> None:
    if (shape := image_shape(run)) != examples.image_shape:
        raise UserError(
            f"The images of {examples.name} are {examples.image_shape} (height, width, channels), "
            f"and {run.folder} takes {shape}. Save them in that form, grey for 1 channel and in "
            "colour for 3."
        )


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def notes(run: TrainedRun, evaluation: Evaluation) -> list[str]:
    """What the figures have to be read with, besides what `training_overlap` says."""
    found = [*tta_notes(run, evaluation.tta), *run.notes]
    if not np.isfinite(evaluation.confidences).all():
        found.append("some logits are no finite numbers: the training did not converge")
    return found


def absent_classes(evaluation: Evaluation) -> list[str]:
    """A note where classes have no image in the split."""
    absent, count = int((evaluation.by_class["images"] == 0).sum()), len(evaluation.class_names)
    text = f"{absent:,} of {count:,} classes have no image: macro figures are of the others"
    return [text] if absent else []


def data_changes(run: TrainedRun, held: Examples) -> list[str]:
    """A note where the files of a run's own data are not those that it began with."""
    if run.record is None or held.name != run.config.data.name:
        return []
    then = {base: run.record.files[base] for base in held.bases if base in run.record.files}
    now = run.record._replace(files={base: held.contents(base) for base in then})
    told = data_record.changes(run.record._replace(files=then), now)
    return [f"the data are not as they were when the run began: {told}"] if told else []


def training_overlap(run: TrainedRun, held: Examples) -> list[str]:
    """A note where some of the examples are among the training images, which are not read."""
    fields = run.config.data
    try:
        source = open_store(run.config, progress=False).source
        source = with_view(fields.train_split, source)
        ranges = resolve_split(fields.train_split, source)
    except UserError:  # the run's own data may be gone
        return []
    known = {"name": fields.name, "split": fields.train_split, "class_names": held.class_names}
    known |= {"source": source.identity, "views": source.views}
    shared = count_shared(Examples(**known, ranges=ranges), held)
    of_these = counted(shared, "of these images is", "of these images are")
    return [f"{of_these} among the training images"] if shared else []
