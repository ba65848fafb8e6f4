"""What a trained model says of image files: the work behind `predict`."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_train import trained
from jax_train.data_sources import progress_bar
from jax_train.errors import UserError
from jax_train.images import FAR, count_differences, find_images, image_shape, read_images
from jax_train.printing import WIDTH, check_csv, shorten, write_csv
from jax_train.scoring import Scorer, parse_tta, tta_notes
from jax_train.train import enable_compilation_cache
from jax_train.trained import TrainedRun

_BATCH = 100


@dataclass(frozen=True, eq=False, kw_only=True)
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
    run: TrainedRun, files: Sequence[str | os.PathLike], *, top: int = 5,
    tta: Sequence[str] = (), keep_all: bool = False, progress: bool = False,
) -> Predictions:  # fmt: skip
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
    shape, scorer, size = image_shape(run), Scorer(run, tta), min(_BATCH, len(files))
    classes, probabilities, everything, differences = [], [], [], Counter()
    with progress_bar(len(files), "Predicting", progress) as bar:
        for start in range(0, len(files), size):
            block = files[start : start + size]
            found = scorer.probabilities(read_images(block, shape), size)
            if not np.isfinite(found).all():
                raise UserError(
                    f"The logits of {run.folder} are not finite: its training did not converge. "
                    "Train it again with a lower config.optim.learning_rate."
                )
            order = np.argsort(-found, axis=1, kind="stable")[:, :top]
            classes.append(order)
            probabilities.append(np.take_along_axis(found, order, axis=1))
            everything += [found] if keep_all else []
            differences += count_differences(block, shape)
            bar.update(len(block))
    return Predictions(
        files=files, class_names=run.class_names, differences=differences,
        classes=np.concatenate(classes), probabilities=np.concatenate(probabilities),
        all_probabilities=np.concatenate(everything) if keep_all else None,
    )  # fmt: skip


def predict_and_describe(
    folder: str | os.PathLike, places: Sequence[str], *, top: int = 5, tta: str = "",
    csv_path: str | None = None, keep_all: bool = False, overwrite: bool = False,
) -> str:  # fmt: skip
    """Predict the classes of image files with the run in a folder.

    Args:
      folder: the run folder.
      places: image files, and folders to search for them.
      top: classes to show for each file.
      tta: see `scoring.parse_tta`.
      csv_path: file to write; None: none.
      keep_all: write the probabilities of all classes into it.
      overwrite: replace that file where it exists.

    Returns:
      The predictions and notes for people, at most 80 columns wide.

    Raises:
      UserError: an argument is wrong, or the run or a file cannot be used.
    """
    views = parse_tta(tta)
    if top < 1:
        raise UserError(f"--top {top}: expected a whole number of classes, at least 1.")
    if keep_all and not csv_path:
        raise UserError("--all writes all probabilities into a file: give --csv FILE too.")
    check_csv(csv_path, overwrite)
    files = find_images(places)
    enable_compilation_cache()
    run = trained.open_run(folder)
    found = predict(run, files, top=top, tta=views, keep_all=keep_all, progress=True)
    lines = [describe(found)]
    lines += [f"note: {note}" for note in (*tta_notes(run, views), *_changes(found, run))]
    if csv_path:
        write_csv(csv_path, csv_rows(found))
        lines.append(f"{csv_path}: {len(files):,} files")
    return "\n".join(lines)


def _changes(found: Predictions, run: TrainedRun) -> list[str]:
    """One line on the images that had to be changed much; none where none had."""
    height, width, _ = image_shape(run)
    texts = {
        "resized": f"resized over {FAR}x to {width}x{height}",
        "colour": "colour read as grey",
        "grey": "grey in a colour model",
        "transparent": "transparent",
    }
    counts = [f"{found.differences[kind]:,} {text}" for kind, text in texts.items()
              if found.differences[kind]]  # fmt: skip
    return [f"of {len(found.files):,} images {', '.join(counts)}"] if counts else []


def describe(found: Predictions) -> str:
    """The predictions for people, at most 80 columns wide, the likeliest class first.

    A line for each file where that fits, otherwise the file and its classes below it.
    """
    files = [readable(file) for file in found.files]
    names = [shorten(name, 40) for name in found.class_names]
    width = max(len(names[k]) for k in np.unique(found.classes))
    cells = [
        [f"   {names[k]:{width}} {share:6.1%}" for k, share in zip(*row, strict=True)]
        for row in zip(found.classes, found.probabilities, strict=True)
    ]
    margin = max(len(file) for file in files)
    if margin + len("".join(cells[0])) <= WIDTH:
        return "\n".join(
            f"{file:{margin}}{''.join(row)}" for file, row in zip(files, cells, strict=True)
        )
    lines, fitting = [], WIDTH // len(cells[0][0])
    for file, row in zip(files, cells, strict=True):
        # The end of a long path says more than its beginning; the CSV file has it whole.
        lines.append(file if len(file) <= WIDTH else f"…{file[1 - WIDTH :]}")
        lines += ["".join(row[i : i + fitting]) for i in range(0, len(row), fitting)]
    return "\n".join(lines)


def readable(path: Path) -> str:
    """A path as text of one line; bytes and signs that cannot be printed are spelled out."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def csv_rows(found: Predictions) -> list[list[str]]:
    """Header and rows of the CSV file: file, then class and probability by rank, then all."""
    ranks = range(1, found.classes.shape[1] + 1)
    header = ["file", *(f"{what}_{rank}" for rank in ranks for what in ("class", "probability"))]
    if found.all_probabilities is not None:
        header += [f"p({name})" for name in found.class_names]
    rows = [header]
    for i, file in enumerate(found.files):
        row = [readable(file)]
        for k, share in zip(found.classes[i], found.probabilities[i], strict=True):
            row += [found.class_names[k], f"{share:.6g}"]
        if found.all_probabilities is not None:
            row += [f"{share:.6g}" for share in found.all_probabilities[i]]
        rows.append(row)
    return rows
