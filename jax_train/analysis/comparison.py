"""Finished runs on the same test images, side by side: figures, costs, where they disagree.

Letters in shapes: M models, N test images, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_train.analysis import costs
from jax_train.analysis.costs import Flops
from jax_train.analysis.evaluation import Evaluation, evaluate
from jax_train.config.fields import flatten
from jax_train.data import Dataset, StreamedDataset
from jax_train.data.sources.by_name import scheme_of
from jax_train.errors import UserError
from jax_train.printing import counted, readable
from jax_train.runs import trained
from jax_train.runs.history import History, read_history
from jax_train.runs.trained import TrainedRun


@dataclass(frozen=True, eq=False)
class Compared:
    """A run and what is compared of it.

    Attributes:
      name: of the model, or of the run where several have the same model.
      run: finished.
      split: its test images.
      evaluation: of them, by the reported weights.
      flops: per image.
      history: how it learned.
    """

    name: str
    run: TrainedRun
    split: Dataset | StreamedDataset
    evaluation: Evaluation
    flops: Flops
    history: History

    @property
    def right(self) -> np.ndarray:
        """bool [N]: which images are classified right."""
        return self.evaluation.predictions == self.evaluation.labels


class Agreement(NamedTuple):
    """How two models agree on N images; the four counts add up to N.

    Attributes:
      both, only_first, only_second, neither: images that these models classify right.
      p_value: of McNemar's exact test: how likely a difference at least this large would be if
        each image that only one of them classifies right were as likely to be the other's.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float


class Group(NamedTuple):
    """Test images that the same models classify right.

    Attributes:
      title: for people.
      slug: for names of files.
      images: numbers of all its images, those to show first first.
    """

    title: str
    slug: str
    images: np.ndarray


def load(
    folders: Sequence[str | Path],
    data_name: str | None = None,
    data_dir: str | None = None,
    *,
    progress: bool = False,
) -> list[Compared]:
    """Open finished runs and evaluate each on its test images.

    Args:
      folders: at least two different run folders.
      data_name, data_dir: where their data are now; None: where they were in training.
      progress: show progress bars, where stderr is a terminal.

    Raises:
      UserError: fewer than two runs, one twice, one that is not finished, or runs on different
        data, classes or test images.
    """
    folders = [Path(folder) for folder in folders]
    if len(folders) < 2:
        raise UserError("compare takes at least two run folders, such as runs/a runs/b.")
    for first, second in combinations(folders, 2):
        if first.resolve() == second.resolve():
            raise UserError(f"{first} and {second} are the same run: name each run once.")
    runs = [_open(folder, data_name, data_dir) for folder in folders]
    names = [(run, run.config.data.name) for run in runs]
    if not all(scheme_of(name).is_path for _, name in names):  # else their files tell
        _check_alike(names, "runs on the same data")
    classes = [(run, run.class_names) for run in runs]
    _check_alike(classes, "runs with the same classes in the same order")
    splits = [run.split() for run in runs]
    pairs = list(zip(runs, splits, strict=True))
    held = [(run, (split.ranges, split.image_shape[2])) for run, split in pairs]
    _check_alike(held, "runs with the same config.data.test_split")  # in whatever words
    files = [(run, [split.contents(base) for base, _, _ in split.ranges]) for run, split in pairs]
    _check_alike(files, "runs on the same data: the files differ")
    labels = [(run, split.labels.tobytes()) for run, split in pairs if not split.streamed]
    _check_alike(labels, "runs on the same files: these have other labels")
    compared = []
    for name, (run, split) in zip(model_names(runs), pairs, strict=True):
        found = evaluate(run, split, progress=progress)
        flops = costs.flops(run, split.image_shape)
        compared.append(Compared(name, run, split, found, flops, read_history(run.folder)))
    return compared


def _open(folder: Path, data_name: str | None, data_dir: str | None) -> TrainedRun:
    run = trained.open_run(folder, data_name, data_dir)
    if run.results is None:
        raise UserError(
            f"{folder} is not finished, so there are no final figures to compare: run its training "
            "command again, it goes on to the end."
        )
    return run


def _check_alike(values: Sequence[tuple[TrainedRun, object]], what: str) -> None:
    """Refuse runs that are given with different values."""

    def of(run):
        fields, names = run.config.data, run.class_names
        classes = f"{counted(len(names), 'class', 'classes')} from {names[0]!r} to {names[-1]!r}"
        return f"{run.folder} was tested on {fields.test_split!r} of {fields.name} ({classes})"

    for (first, value), (other, another) in combinations(values, 2):
        if value != another:
            raise UserError(f"{of(first)}, but {of(other)}. Compare {what}.")


def model_names(runs: Sequence[TrainedRun]) -> list[str]:
    """Different names for runs: of the models, else of the folders, else their paths."""
    models = [run.config.model.name for run in runs]
    for names in (models, [readable(run.folder.resolve().name) for run in runs]):
        if len(set(names)) == len(names):
            return names
    return [readable(run.folder) for run in runs]


# Where they disagree


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Count on which images two models, right or wrong by image bool [N], agree.

    Source: McNemar 1947, https://doi.org/10.1007/BF02295996; exact by the binomial distribution.
    """
    from scipy.stats import binomtest

    pairs = (first, second), (first, ~second), (~first, second), (~first, ~second)
    counts = [int((one & other).sum()) for one, other in pairs]
    split = counts[1] + counts[2]
    return Agreement(*counts, float(binomtest(counts[1], split).pvalue) if split else 1.0)


def groups(compared: Sequence[Compared]) -> list[Group]:
    """Sort the images by which models classify them right; every image is in one group.

    Shown first are, of images all models have right, those they are least sure of; elsewhere
    those on which the models are most sure, right or wrong.
    """
    right = np.stack([one.right for one in compared])
    sure = np.sum([one.evaluation.confidences for one in compared], axis=0)
    hits, pair = right.sum(axis=0), len(compared) == 2

    def group(title, slug, mask, order=-sure):
        images = np.flatnonzero(mask)
        return Group(title, slug, images[np.argsort(order[images], kind="stable")])

    found = [group("Both are right" if pair else "All are right", "all", right.all(axis=0), sure)]
    found += [
        group(f"Only {one.name} is right", f"only_{k + 1}", right[k] & (hits == 1))
        for k, one in enumerate(compared)
    ]
    if not pair:
        some = (hits > 1) & (hits < len(compared))
        found.append(group("Several, but not all, are right", "some", some))
    none = "Neither is right" if pair else "None is right"
    return [*found, group(none, "none", hits == 0)]


# What differs


def config_differences(compared: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Fields of the configs that differ, each with its values as text, one for each model."""
    flat = [flatten(one.run.config) for one in compared]
    rows = []
    for field in dict.fromkeys(name for one in flat for name in one):
        values = [one.get(field) for one in flat]
        if any(value != values[0] for value in values):
            rows.append((field, ["–" if value is None else str(value) for value in values]))
    return rows


def seconds_per_epoch(compared: Compared) -> float:
    """All included: compilation, validation, checkpoints; nan where it was not recorded."""
    seconds, epochs = (compared.run.results[key] or math.nan for key in ("seconds", "epochs"))
    return seconds / epochs


def p_text(p_value: float) -> str:
    """A p-value for people: 'p = 0.03', 'p < 0.001'."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.{max(2, 1 - math.floor(math.log10(p_value)))}f}"
