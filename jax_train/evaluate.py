"""Figures of a trained model on any split: the work behind `evaluate`."""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np

from jax_train import build, data, metrics, printing, trained
from jax_train.data import Dataset, Examples
from jax_train.data_sources import open_source, progress_bar
from jax_train.data_stream import StreamedDataset
from jax_train.errors import UserError
from jax_train.images import image_shape
from jax_train.printing import shorten
from jax_train.scoring import Scorer, parse_tta, tta_notes, views
from jax_train.train import enable_compilation_cache
from jax_train.trained import TrainedRun

_MOST_CLASSES = 30  # shown in the table; of more only the worst
_WORST = 20


@dataclass(frozen=True, eq=False, kw_only=True)
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
      seconds: without compilation.
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
    seconds: float

    @property
    def confusion(self) -> np.ndarray:
        """Counts [K,K] by true and predicted class."""
        return np.asarray(self.sums.confusion)

    @property
    def figures(self) -> dict[str, float]:
        """As `metrics.eval_figures`; what results.json holds under `test`."""
        return metrics.eval_figures(self.sums)

    @property
    def top1_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the top-1 accuracy, in [0, 1]."""
        return metrics.wilson_interval(int(np.trace(self.confusion)), len(self.labels))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in 15 bins, in [0, 1]; see `metrics`."""
        return metrics.calibration_error(self.confidences, self.predictions == self.labels)

    @property
    def images_per_sec(self) -> float:
        """Images, not views of them, per second."""
        return len(self.labels) / self.seconds

    @cached_property
    def by_class(self) -> dict[str, np.ndarray]:
        """`images`, `precision`, `recall`, `f1`: [K] each; a ratio 0/0 counts as 0."""
        from sklearn.metrics import precision_recall_fscore_support

        precision, recall, f1, images = precision_recall_fscore_support(
            self.labels, self.predictions, labels=np.arange(len(self.class_names)), zero_division=0
        )
        return {"images": images, "precision": precision, "recall": recall, "f1": f1}

    @property
    def most_confused(self) -> tuple[np.ndarray, np.ndarray]:
        """The wrong class that each class was taken for most often [K], and how often [K]."""
        wrong = self.confusion - np.diag(np.diag(self.confusion))
        return wrong.argmax(axis=1), wrong.max(axis=1)


def evaluate(
    run: TrainedRun,
    split: str | Dataset | StreamedDataset,
    tta: Sequence[str] = (),
    *,
    progress: bool = False,
) -> Evaluation:
    """Evaluate a run on a split, in batches of `config.eval.batch_size`.

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
        split = build.load_split(run.config, split)
    else:
        _check_shape(run, split)
    _check_classes(run, split)
    scorer, size, count = Scorer(run, tta), run.config.eval.batch_size, len(split)
    sums = metrics.zero_eval_sums(split.num_classes)
    blank = np.zeros((size, *split.image_shape), np.uint8), np.zeros(size, np.int32)
    jax.block_until_ready(scorer.tally(sums, *blank, 0))  # compiles; counts nothing
    labels, parts = [], []
    begin = time.monotonic()
    with (
        contextlib.closing(_batches(split, size)) as batches,
        progress_bar(count, f"Evaluating {split.split}", progress) as bar,
    ):
        for start, (images, true) in zip(range(0, count, size), batches, strict=True):
            valid = min(size, count - start)
            sums, part = scorer.tally(sums, images, true, valid)
            labels.append(true[:valid])
            # Waits for the device, so that no more than one batch is in memory.
            parts.append([array[:valid] for array in jax.device_get(part)])
            bar.update(valid)
    seconds = time.monotonic() - begin
    predictions, confidences, true_probabilities = map(np.concatenate, zip(*parts, strict=True))
    return Evaluation(
        data=split.name, split=split.split, class_names=split.class_names, tta=tuple(tta),
        labels=np.concatenate(labels), predictions=predictions, confidences=confidences,
        true_probabilities=true_probabilities, sums=jax.device_get(sums), seconds=seconds,
    )  # fmt: skip


def _batches(split: Dataset | StreamedDataset, size: int) -> Iterator:
    """Yield images and labels of batches; the last one is filled up with the first example."""
    count = len(split)
    order = np.arange(math.ceil(count / size) * size).reshape(-1, size)
    order = np.where(order < count, order, 0)
    if isinstance(split, StreamedDataset):
        yield from split.batches(order)
    else:
        for rows in order:
            yield split.images[rows], split.labels[rows]


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


def load_other(run: TrainedRun, name: str, data_dir: str | None, split: str):
    """Load a split of other data for a run; images of a folder are brought to the run's size.

    Raises:
      UserError: it cannot be loaded.
    """
    side = image_shape(run)[0] if name.startswith("folder:") else None
    fields = run.config.data
    return data.load(
        name, split, data_dir,
        image_size=side, download=fields.download, memory_limit=fields.memory_limit,
    )  # fmt: skip


# The command


def evaluate_and_describe(
    folder: str | os.PathLike, *, split: str | None = None, name: str | None = None,
    data_dir: str | None = None, tta: str = "", csv_path: str | None = None,
    overwrite: bool = False,
) -> str:  # fmt: skip
    """Evaluate the run in a folder.

    Args:
      folder: the run folder.
      split: None: the run's test split; of other data 'test'.
      name: other data with the run's classes; None: the run's own.
      data_dir: where it is prepared; of the run's own data None is where the run found it.
      tta: see `scoring.parse_tta`.
      csv_path: file for the table by class; None: none.
      overwrite: replace that file where it exists.

    Returns:
      The report for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run, the data or the file cannot be used.
    """
    parts = parse_tta(tta)
    printing.check_csv(csv_path, overwrite)
    enable_compilation_cache()
    run = trained.open_run(folder)
    if data_dir and not name:
        run.config.data.data_dir = data_dir
    split = split if split is not None else "test" if name else run.config.data.test_split
    examples = load_other(run, name, data_dir, split) if name else split
    evaluation = evaluate(run, examples, parts, progress=True)
    lines = [describe(run, evaluation)]
    held = examples if name else _examples(run, split)
    lines += [f"note: {note}" for note in notes(run, evaluation, held)]
    if csv_path:
        printing.write_csv(csv_path, by_class_rows(evaluation))
        lines.append(f"{csv_path}: {len(evaluation.class_names)} classes")
    return "\n".join(lines)


def notes(run: TrainedRun, evaluation: Evaluation, held: Examples) -> list[str]:
    """What the figures have to be read with; `held` are the examples evaluated."""
    found = tta_notes(run, evaluation.tta)
    if run.results is None:
        found.append(f"the run is not finished; these weights are of step {run.step:,}")
    with contextlib.suppress(UserError):  # the run's own data may be gone
        train = _examples(run, run.config.data.train_split)
        if shared := data.count_shared(train, held):
            found.append(f"{shared:,} of these images are among the training images")
    if not np.isfinite(evaluation.confidences).all():
        found.append("some logits are no finite numbers: the training did not converge")
    return found


def _examples(run: TrainedRun, split: str) -> Examples:
    """Which examples a split holds, without reading them."""
    fields = run.config.data
    source = open_source(
        fields.name, fields.data_dir,
        image_size=fields.image_size, download=fields.download, progress=False,
    )  # fmt: skip
    return Examples(
        name=fields.name, split=split, class_names=run.class_names, source=source.identity,
        ranges=data.resolve_split(split, source),
    )  # fmt: skip


def describe(run: TrainedRun, evaluation: Evaluation) -> str:
    """The figures and the table by class for people, at most 80 columns wide."""
    figures, (low, high) = evaluation.figures, evaluation.top1_interval
    lines = [
        f"{run.config.model.name} on {evaluation.data}",
        f"  {evaluation.split}: {len(evaluation.labels):,} images; weights of step {run.step:,}",
    ]
    if evaluation.tta:
        count, named = len(views(run, evaluation.tta)), " and ".join(evaluation.tta)
        lines.append(f"  probabilities averaged over {count} views of each image ({named})")
    lines += [
        "",
        f"  top-1              {figures['top1']:7.2%}   95 % interval {low:.2%} to {high:.2%}",
        f"  top-5              {figures['top5']:7.2%}",
        f"  loss               {figures['loss']:7.4f}",
        f"  calibration error  {evaluation.calibration_error:7.2%}   expected, in 15 bins",
        f"  images per second  {evaluation.images_per_sec:7,.0f}",
        "",
        "               macro     micro",
    ]
    if len(evaluation.class_names) <= 5:
        lines = [line for line in lines if "top-5" not in line]
    for label, key in (("precision", "precision"), ("recall", "recall"), ("F1", "f1")):
        macro, micro = figures[f"{key}_macro"], figures[f"{key}_micro"]
        lines.append(f"  {label:9} {macro:9.2%} {micro:9.2%}")
    lines += ["", *_table(evaluation)]
    return "\n".join(shorten(line, printing.WIDTH) for line in lines)


def _table(evaluation: Evaluation) -> list[str]:
    """The table by class, or of many classes the worst."""
    by_class, names = evaluation.by_class, evaluation.class_names
    shown = range(len(names))
    lines = []
    if len(names) > _MOST_CLASSES:
        shown = np.argsort(by_class["f1"], kind="stable")[:_WORST]
        lines.append(f"  the {_WORST} classes with the lowest F1; --csv FILE writes all")
    width = min(24, max(5, *(len(name) for name in names)))
    lines.append(f"  {'class':{width}}  images  precision   recall       F1  most often taken for")
    wrong, often = evaluation.most_confused
    for k in shown:
        taken_for = f"{shorten(names[wrong[k]], 16)} ({often[k]:,})" if often[k] else "-"
        if often[k] and (ties := np.sum(np.delete(evaluation.confusion[k], k) == often[k]) - 1):
            taken_for = f"{taken_for} and {ties} more"
        lines.append(
            f"  {shorten(names[k], width):{width}} {by_class['images'][k]:7,} "
            f"{by_class['precision'][k]:10.2%} {by_class['recall'][k]:8.2%} "
            f"{by_class['f1'][k]:8.2%}  {taken_for}"
        )
    return lines


def by_class_rows(evaluation: Evaluation) -> list[list]:
    """Header and rows of the CSV file, a row for each class; shares are in [0, 1]."""
    by_class, (wrong, often) = evaluation.by_class, evaluation.most_confused
    rows = [[*("class", *by_class), "most_often_taken_for", "times"]]
    for k, name in enumerate(evaluation.class_names):
        figures = [f"{by_class[key][k]:.6g}" for key in ("precision", "recall", "f1")]
        other = evaluation.class_names[wrong[k]] if often[k] else ""
        rows.append([name, int(by_class["images"][k]), *figures, other, int(often[k])])
    return rows
