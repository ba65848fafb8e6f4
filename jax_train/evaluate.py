"""Figures of a trained model on any split: the work behind `evaluate`, and test-time augmentation.

With test-time augmentation a model sees several views of an image, and the mean of its
probabilities (softmax of the logits) counts. Its logarithm then stands where the logits stood, so
that loss, accuracy and all else are computed as ever.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jax_train import augment, build, data, metrics, report, steps, trained
from jax_train.data import Dataset, Examples
from jax_train.data_sources import open_source, progress_bar
from jax_train.data_stream import StreamedDataset
from jax_train.errors import UserError
from jax_train.images import image_shape
from jax_train.train import enable_compilation_cache
from jax_train.trained import TrainedRun

TTA = ("flip", "crops")
_MOST_CLASSES = 30  # shown in the table; of more only the worst
_WORST = 20
WIDTH = 80  # columns of what is printed


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What a model makes of a split. N images in the order of the split, K classes.

    Attributes:
      data: name of the data set.
      split: as given.
      class_names: K names.
      tta: test-time augmentation, from `TTA`.
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
        return wilson_interval(int(np.trace(self.confusion)), len(self.labels))

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


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share: the score interval of E. B. Wilson (1927).

    https://doi.org/10.1080/01621459.1927.10502953

    Args:
      right: successes.
      count: trials, at least one.

    Returns:
      Lower and upper bound, in [0, 1].
    """
    z, share = 1.959963984540054, right / count  # z: 97.5 % of the normal distribution
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return (0.0 if right == 0 else low), (1.0 if right == count else high)


def calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3).

    The mean, over all images, of the gap between mean confidence and accuracy in the image's bin;
    the bins are equally wide and closed above.

    Args:
      confidences: probability [N] of the predicted class.
      right: bool [N], whether that class is the true one.
      bins: their number.

    Returns:
      From 0 to 1; nan if a confidence is none.
    """
    if not np.isfinite(confidences).all():
        return math.nan
    confidences = confidences.astype(np.float64)
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, confidences - right, bins)
    return float(np.abs(gaps).sum() / len(confidences))


# Test-time augmentation


def parse_tta(text: str) -> tuple[str, ...]:
    """Read 'flip', 'crops' or 'flip,crops'; '' is none.

    Raises:
      UserError: it is something else.
    """
    asked = [part.strip() for part in text.split(",")] if text else []
    if unknown := [part for part in asked if part not in TTA]:
        raise UserError(f"--tta {text}: {unknown[0]!r} is none of {', '.join(TTA)}. Give one or "
                        "both, as in --tta flip,crops.")  # fmt: skip
    return tuple(name for name in TTA if name in asked)


def views(run: TrainedRun, tta: Sequence[str]) -> list[tuple[np.ndarray, bool]]:
    """Views of an image as (place [2] of the crop in the padded image, whether it is mirrored).

    Args:
      run: the model.
      tta: 'flip' adds the mirror image of each view. 'crops' adds to the image itself four that
        are shifted to the corners by the recipe's crop padding, at least 1 pixel of what the
        model sees; black comes in.
    """
    near, far = crop_padding(run), 2 * crop_padding(run)
    places = [(near, near)]
    if "crops" in tta:
        places += [(0, 0), (0, far), (far, 0), (far, far)]
    mirrors = (False, True) if "flip" in tta else (False,)
    return list(itertools.product(np.array(places, np.int32), mirrors))


def crop_padding(run: TrainedRun) -> int:
    """Pixels by which crops are shifted: those of the recipe, at least 1."""
    return max(1, run.config.augment.crop_padding)


class Scorer:
    """What a run says of images: its logits, or, with augmentation, log mean probabilities.

    Args:
      run: the model.
      tta: see `views`.
    """

    def __init__(self, run: TrainedRun, tta: Sequence[str] = ()):
        self._weights = run.params, run.stats
        self._views = views(run, tta) if tta else []
        self._logits = jax.jit(functools.partial(steps.logits, run.recipe))
        of_view = functools.partial(_view_log_probabilities, run.recipe, crop_padding(run))
        self._of_view = jax.jit(of_view)
        self._tally = jax.jit(_tally)
        self._tally_images = jax.jit(functools.partial(_tally_images, run.recipe))

    def scores(self, images: np.ndarray) -> jax.Array:
        """Scores [B,K], float32 at least, of raw images uint8 [B,H,W,C]; softmax them."""
        if not self._views:
            return self._logits(*self._weights, images)
        parts = (self._of_view(*self._weights, images, *view) for view in self._views)
        return functools.reduce(jnp.logaddexp, parts) - math.log(len(self._views))

    def probabilities(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Probabilities float32 [n,K] of raw images uint8 [n,H,W,C], n up to `batch_size`.

        Each call runs a batch of that size, so that it is compiled once.
        """
        short = batch_size - len(images)
        padded = np.concatenate([images, np.repeat(images[-1:], short, axis=0)])
        return np.asarray(_softmax(self.scores(padded)))[: len(images)]

    def tally(self, sums: metrics.EvalSums, images: np.ndarray, labels: np.ndarray, count: int):
        """Add the first `count` examples of a batch to the sums.

        Returns:
          (sums, (predictions, confidences, true_probabilities)), as in `Evaluation` but [B].
        """
        count = np.int32(count)
        if self._views:
            return self._tally(sums, self.scores(images), labels, count)
        return self._tally_images(*self._weights, sums, images, labels, count)


def _view_log_probabilities(recipe, padding: int, params, stats, images, shift, mirror):
    """Log probabilities [B,K] of one view: the crop at `shift` [2], of the mirror image or not."""
    evaluate = recipe.augmentation.evaluate

    def inputs(images):
        whole = evaluate(images)
        whole = jnp.where(mirror, whole[:, :, ::-1], whole)
        shifts = jnp.broadcast_to(shift, (len(images), 2))
        inside = augment.crop_at(jnp.ones_like(whole[:1, :, :, :1]), shifts[:1], padding)
        # Black pixels come in before normalisation; afterwards they are no zeros.
        return jnp.where(
            inside > 0, augment.crop_at(whole, shifts, padding), evaluate(0 * images[:1])
        )

    augmentation = recipe.augmentation._replace(evaluate=inputs)
    recipe = dataclasses.replace(recipe, augmentation=augmentation)
    return jax.nn.log_softmax(steps.logits(recipe, params, stats, images))


def _softmax(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32))


def _tally_images(recipe, params, stats, sums, images, labels, count):
    # One program, as in training: the sums are then the same to the last bit.
    return _tally(sums, steps.logits(recipe, params, stats, images), labels, count)


def _tally(sums: metrics.EvalSums, scores: jax.Array, labels: jax.Array, count: jax.Array):
    new = metrics.eval_sums(scores, labels, jnp.arange(len(labels)) < count)
    shares = _softmax(scores)
    true = jnp.take_along_axis(shares, labels[:, None], axis=-1)[:, 0]
    parts = scores.argmax(axis=-1).astype(jnp.int32), shares.max(axis=-1), true
    return jax.tree.map(jnp.add, sums, new), parts


# Evaluating


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
      tta: see `views`.
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
      tta: see `parse_tta`.
      csv_path: file for the table by class; None: none.
      overwrite: replace that file where it exists.

    Returns:
      The report for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run, the data or the file cannot be used.
    """
    parts = parse_tta(tta)
    check_csv(csv_path, overwrite)
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
        write_csv(csv_path, by_class_rows(evaluation))
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


def tta_notes(run: TrainedRun, tta: Sequence[str]) -> list[str]:
    """A warning where mirror images are asked for that the recipe does not train on."""
    if "flip" in tta and not run.config.augment.flip:
        return ["this recipe trains on no mirror images; --tta flip may do harm"]
    return []


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
    return "\n".join(shorten(line, WIDTH) for line in lines)


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
        lines.append(
            f"  {shorten(names[k], width):{width}} {by_class['images'][k]:7,} "
            f"{by_class['precision'][k]:10.2%} {by_class['recall'][k]:8.2%} "
            f"{by_class['f1'][k]:8.2%}  {taken_for}"
        )
    return lines


def shorten(text: str, width: int) -> str:
    """Cut a text that is longer than `width` characters, and mark that by '…'."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def by_class_rows(evaluation: Evaluation) -> list[list]:
    """Header and rows of the CSV file, a row for each class; shares are in [0, 1]."""
    by_class, (wrong, often) = evaluation.by_class, evaluation.most_confused
    rows = [[*("class", *by_class), "most_often_taken_for", "times"]]
    for k, name in enumerate(evaluation.class_names):
        figures = [f"{by_class[key][k]:.6g}" for key in ("precision", "recall", "f1")]
        other = evaluation.class_names[wrong[k]] if often[k] else ""
        rows.append([name, int(by_class["images"][k]), *figures, other, int(often[k])])
    return rows


def check_csv(path: str | None, overwrite: bool) -> None:
    """Check, before anything slow starts, that a CSV file can be written.

    Raises:
      UserError: it exists and is not to be replaced, or its folder is missing or not writable.
    """
    if path is None:
        return
    folder = Path(path).absolute().parent
    if Path(path).is_dir():
        raise UserError(f"--csv {path} is a folder. Name a file, such as {path}/out.csv.")
    if Path(path).exists() and not overwrite:
        raise UserError(f"--csv {path} exists already; give --overwrite or choose another name.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "cannot be written to" if folder.is_dir() else "does not exist"
        raise UserError(f"--csv {path}: the folder {folder} {what}. Choose another one.")


def write_csv(path: str, rows: Sequence[Sequence]) -> None:
    """Write rows as CSV; the file appears when it is complete.

    Raises:
      UserError: it cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    try:
        report.write_atomically(Path(path), text.getvalue())
    except OSError as error:
        raise UserError(f"--csv {path} cannot be written: {error}. Choose another one.") from error
