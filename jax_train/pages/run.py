"""The page of a run, `python -m jax_train report`: how it learned, where it looks and fails."""

import numpy as np

from jax_train.analysis.evaluation import Evaluation
from jax_train.config.fields import flatten
from jax_train.drawing import results
from jax_train.pages import pictures
from jax_train.pages.facts import began_with, data_name, notes, splits
from jax_train.pages.page import Page, count, fields, interval, percent
from jax_train.printing import counted, figure
from jax_train.runs.history import read_history
from jax_train.runs.results import epochs_of
from jax_train.runs.trained import TrainedRun

_MISTAKES = 24
_CONFUSIONS = 10


def write(run: TrainedRun, evaluation: Evaluation, split, page: Page) -> str:
    """Write the page, with the evaluation and the images of the test split; say where it is."""
    history, confused = read_history(run.folder), confusions(evaluation)
    fact = "No image was taken for another class."
    if confused:
        true, taken_for, often, _ = confused[0]
        fact = f"Most often {true} was taken for {taken_for}, {counted(often, 'time')}."
    matrix = results.confusion(evaluation.confusion, evaluation.class_names, fact)
    chosen = pictures.choose_examples(run, None)
    kinds = {"best": ", the best on validation", "last": ", the last"}
    which = kinds.get((run.results or {}).get("reported_weights"), "")
    return page.write(
        "report.html",
        title=f"{run.config.model.name} on {data_name(run)}",
        facts=facts(run, evaluation, history),
        splits=[*splits(run, evaluation), *began_with(run), f"weights of step {run.step:,}{which}"],
        notes=notes(run, evaluation, split),
        curves=[page.picture(one) for one in results.curves({"": history})],
        confusion=page.picture(matrix),
        confusions=confused,
        mistakes=mistakes(page, evaluation, split),
        mistake_count=int(evaluation.mistakes.sum()),
        classes=class_rows(evaluation),
        looks=[page.picture(one) for one in pictures.pictures(run, chosen)],
        look_notes=pictures.remarks(run),
        config=fields(flatten(run.config)),
        environment=environment(run),
    )


def facts(run: TrainedRun, evaluation: Evaluation, history) -> list[tuple[str, str]]:
    """The main figures, as names and text."""
    figures, trained = evaluation.figures, run.results or {}
    lines = [("Test accuracy (top-1)", percent(figures["top1"]))]
    lines.append(("95 % interval", interval(evaluation.top1_interval)))
    if len(evaluation.class_names) > 5:
        lines.append(("Top-5 accuracy", percent(figures["top5"])))
    lines += [
        ("Test loss", figure(figures["loss"], ".4f")),
        ("Macro F1", percent(figures["f1_macro"])),
        ("Calibration error", percent(evaluation.calibration_error)),
    ]
    if len(history.val):
        best, epoch = history.best_val
        lines.append(("Best validation", f"{percent(best)} (epoch {epoch:g})"))
    if trained:
        speed = trained["train_images_per_sec"]
        lines += [
            ("Parameters", count(trained["parameters"])),
            ("Epochs", epochs_of(trained)),
            ("Time", f"{count(trained['seconds'])} s"),
            ("Training speed", f"{speed:,.0f} images/s" if speed else "–"),
        ]
    return lines


def confusions(evaluation: Evaluation) -> list[tuple[str, str, int, str]]:
    """The most frequent confusions: true class, taken for, how often, share of the class."""
    wrong = evaluation.mistakes
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
    rows, shown = [], zip(worst, split.names(worst), split.take(worst)[0], strict=True)
    for rank, (i, name, pixels) in enumerate(shown, start=1):
        said, true = names[evaluation.predictions[i]], names[evaluation.labels[i]]
        alt = f"{name}: {true}, taken for {said}"
        row = {"name": name, "said": said, "true": true}
        row["image"] = page.thumbnail(f"mistake_{rank:02}_image_{i}", pixels, alt)
        row["confidence"] = percent(evaluation.confidences[i], 0)
        row["share"] = percent(evaluation.true_probabilities[i], 0)
        rows.append(row)
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
    lines, found = [("run folder", str(run.folder))], run.results
    if found:
        lines += [("device", found["device"]), ("git commit", found["git_commit"] or "none")]
        lines += list(found["versions"].items())
    return lines
