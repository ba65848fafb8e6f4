"""The page of a run, `python -m jax_train report`: how it learned, where it looks and fails."""

import numpy as np

from jax_train.analysis import evaluation as evaluate
from jax_train.analysis.evaluation import Evaluation
from jax_train.data.sources.by_name import scheme_of
from jax_train.drawing import results as drawing_results
from jax_train.pages.page import Page, count, interval, percent
from jax_train.runs.trained import TrainedRun

_MISTAKES = 24


_CONFUSIONS = 10


def data_name(run: TrainedRun) -> str:
    """Name of the data for a title: of a folder its own name, without the path to it."""
    name = run.config.data.name
    return scheme_of(name).title(name)


def notes(run: TrainedRun, evaluation: Evaluation, split) -> list[str]:
    """What the figures have to be read with, of this evaluation and of the training."""
    found = evaluate.notes(run, evaluation, split)
    of_training = [note.removeprefix("note: ") for note in (run.results or {}).get("notes", [])]
    # `evaluate.notes` has counted the test images among the training images already.
    return found + [note for note in of_training if "test images are among" not in note]


def facts(run: TrainedRun, evaluation: Evaluation, history) -> list[tuple[str, str]]:
    """The main figures, as names and text."""
    figures, results = evaluation.figures, run.results or {}
    lines = [
        ("Test accuracy (top-1)", percent(figures["top1"])),
        ("95 % interval", interval(evaluation.top1_interval)),
    ]
    if len(evaluation.class_names) > 5:
        lines.append(("Top-5 accuracy", percent(figures["top5"])))
    lines += [
        ("Test loss", f"{figures['loss']:.4f}"),
        ("Macro F1", percent(figures["f1_macro"])),
        ("Calibration error", percent(evaluation.calibration_error)),
    ]
    if len(history.val):
        best, epoch = history.best_val
        lines.append(("Best validation", f"{percent(best)} (epoch {epoch:g})"))
    if results:
        speed = results["train_images_per_sec"]
        lines += [
            ("Parameters", count(results["parameters"])),
            ("Epochs", str(results["epochs"])),
            ("Time", f"{results['seconds']:,.0f} s"),
            ("Training speed", f"{speed:,.0f} images/s" if speed else "–"),
        ]
    return lines


def splits(run: TrainedRun, evaluation: Evaluation) -> list[str]:
    """Which images the model was trained, validated and tested on."""
    fields, sizes = run.config.data, (run.results or {}).get("images", {})

    def of(name, split):
        return f"{split} ({sizes[name]:,} images)" if name in sizes else split

    lines = [f"Data: {fields.name}; trained on {of('train', fields.train_split)}"]
    if fields.val_split:
        lines.append(f"validated on {of('val', fields.val_split)}")
    lines.append(f"tested on {evaluation.split} ({len(evaluation.labels):,} images)")
    return lines


def weights(run: TrainedRun) -> str:
    """Which weights the figures are of."""
    which = {"best": ", the best on validation", "last": ", the last"}
    kind = which.get((run.results or {}).get("reported_weights"), "")
    return f"weights of step {run.step:,}{kind}"


def confusion_picture(evaluation: Evaluation):
    """The confusion matrix, with the most frequent confusion in its alternative text."""
    found = confusions(evaluation)
    fact = f"Most often {found[0][0]} was taken for {found[0][1]}, {found[0][2]} times." if found \
        else "No image was taken for another class."  # fmt: skip
    return drawing_results.confusion(evaluation.confusion, evaluation.class_names, fact)


def confusions(evaluation: Evaluation) -> list[tuple[str, str, int, str]]:
    """The most frequent confusions: true class, taken for, how often, share of the class."""
    wrong = evaluation.confusion - np.diag(np.diag(evaluation.confusion))
    names, images = evaluation.class_names, evaluation.confusion.sum(axis=1)
    rows = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:_CONFUSIONS]:
        true, taken_for = np.unravel_index(place, wrong.shape)
        if often := int(wrong[true, taken_for]):
            rows.append((names[true], names[taken_for], often, percent(often / images[true])))
    return rows


def mistakes(page: Page, evaluation: Evaluation, split) -> list[dict]:
    """The images with the highest confidence in a wrong class, most confident first."""
    wrong = np.flatnonzero(evaluation.predictions != evaluation.labels)
    order = np.argsort(-evaluation.confidences[wrong], kind="stable")
    worst, names = wrong[order][:_MISTAKES], evaluation.class_names
    rows = []
    for rank, (i, pixels) in enumerate(zip(worst, split.take(worst)[0], strict=True), start=1):
        said, true = names[evaluation.predictions[i]], names[evaluation.labels[i]]
        alt = f"Test image {i}: {true}, taken for {said}"
        rows.append({
            "image": page.thumbnail(f"mistake_{rank:02}_image_{i}", pixels, alt),
            "number": int(i), "said": said, "true": true,
            "confidence": percent(evaluation.confidences[i], 0),
            "share": percent(evaluation.true_probabilities[i], 0),
        })  # fmt: skip
    return rows


def class_rows(evaluation: Evaluation) -> list[dict]:
    """The table by class."""
    by_class, (wrong, often) = evaluation.by_class, evaluation.most_confused
    names = evaluation.class_names
    return [
        {
            "name": name,
            "images": int(by_class["images"][k]),
            **{key: percent(by_class[key][k]) for key in ("precision", "recall", "f1")},
            "taken_for": f"{names[wrong[k]]} ({often[k]})" if often[k] else "–",
        }
        for k, name in enumerate(names)
    ]


def environment(run: TrainedRun) -> list[tuple[str, str]]:
    """Versions, device and commit the run was trained with; nothing of an unfinished run."""
    results = run.results or {}
    lines = [("run folder", str(run.folder))]
    if results:
        lines += [("device", results["device"]), ("git commit", results["git_commit"] or "none")]
        lines += list(results["versions"].items())
    return lines
