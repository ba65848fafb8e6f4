"""The page that compares runs: `python -m jax_train compare`."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from jax_train.analysis import comparison as compare
from jax_train.analysis.comparison import Compared, Group, agreement, p_text, seconds_per_epoch
from jax_train.drawing import results
from jax_train.pages.facts import data_name, notes, splits
from jax_train.pages.page import Page, count, interval, metric, percent
from jax_train.pages.pictures import Chosen, closer_look

_SHOWN = 8  # images of each group


def write(compared: Sequence[Compared], page: Page) -> str:
    """Write the page; return a line that says where it is."""
    first, names = compared[0], [one.name for one in compared]
    found = compare.groups(compared)
    by_class = {one.name: one.evaluation.by_class["recall"] for one in compared}
    class_names = first.evaluation.class_names
    class_picture = None
    if len(class_names) <= results.MOST_NAMED:
        class_picture = page.picture(results.accuracy_by_class(by_class, class_names))
    histories = {one.name: one.history for one in compared}
    return page.write(
        "comparison.html",
        title=f"{', '.join(names[:-1])} and {names[-1]} on {data_name(first.run)}",
        names=names,
        splits=list(dict.fromkeys(map(_data, compared))),
        accuracies=[_accuracy(one) for one in compared],
        notes=_notes(compared),
        verdicts=verdicts(compared),
        table=table(compared),
        curves=[page.picture(one) for one in results.curves(histories)],
        pairs=pair_rows(compared),
        groups=[_group(page, compared, group) for group in found],
        by_class=class_rows(class_names, by_class, first.evaluation.by_class["images"]),
        class_picture=class_picture,
        looks=[_looks(page, compared, group) for group in _to_explain(found, len(compared))],
        differences=compare.config_differences(compared),
    )


def _data(one: Compared) -> str:
    return "; ".join(splits(one.run, one.evaluation))


def _accuracy(one: Compared) -> tuple[str, str, str]:
    found = one.evaluation
    return one.name, percent(found.figures["top1"]), interval(found.top1_interval)


def _notes(compared) -> list[str]:
    """Notes on each run; those that hold for all are said once."""
    of_each = [notes(one.run, one.evaluation, one.split) for one in compared]
    shared = [note for note in of_each[0] if all(note in other for other in of_each)]
    pairs = zip(compared, of_each, strict=True)
    own = [(one.name, note) for one, found in pairs for note in found if note not in shared]
    return shared + [f"{name}: {note}" for name, note in own]


# Figures


def table(compared: Sequence[Compared]) -> list[tuple[str, str, list[str]]]:
    """Rows (what, explanation, a value for each model)."""
    sizes = {f"{one.run.config.eval.batch_size:,}" for one in compared}
    measured = f"measured now, in batches of {' or '.join(sorted(sizes))}"
    rows = [
        ("Test accuracy", "top-1", lambda one: percent(one.evaluation.figures["top1"])),
        ("95 % interval", "Wilson", lambda one: interval(one.evaluation.top1_interval)),
        ("Top-5 accuracy", "", lambda one: percent(one.evaluation.figures["top5"])),
        ("Test loss", "nats", lambda one: f"{one.evaluation.figures['loss']:.4f}"),
        ("Calibration error", "expected, in 15 bins", _calibration_error),
        ("Final validation accuracy", "", _final_val),
        ("Best validation accuracy", "its epoch", _best_val),
        ("Last training loss", "nats, of the last log points", _last_train_loss),
        ("Weights", "that the figures are of", _weights),
        ("Parameters", "", lambda one: count(one.run.results["parameters"])),
        ("Forward pass", "per image", lambda one: metric(one.flops.forward, "FLOP")),
        ("Training step", "per image", lambda one: metric(one.flops.train, "FLOP")),
        ("Training speed", "without compilation and validation", _train_speed),
        ("Inference speed", measured, lambda one: _speed(one.evaluation.images_per_sec)),
        ("Training time", "all included", lambda one: f"{one.run.results['seconds']:,.0f} s"),
        ("Time per epoch", "all included", lambda one: f"{seconds_per_epoch(one):,.1f} s"),
        ("Epochs", "", lambda one: str(one.run.results["epochs"])),
        ("Trained on", "", lambda one: one.run.results["device"]),
    ]
    if len(compared[0].evaluation.class_names) <= 5:
        del rows[2]
    return [(what, hint, [value(one) for one in compared]) for what, hint, value in rows]


def _calibration_error(one: Compared) -> str:
    return percent(one.evaluation.calibration_error)


def _last_train_loss(one: Compared) -> str:
    return f"{one.history.last_train_loss:.4f}"


def _final_val(one: Compared) -> str:
    return percent(one.history.val[-1, 2]) if len(one.history.val) else "–"


def _best_val(one: Compared) -> str:
    if not len(one.history.val):
        return "–"
    best, epoch = one.history.best_val
    return f"{percent(best)} ({epoch:g})"


def _train_speed(one: Compared) -> str:
    speed = one.run.results["train_images_per_sec"]
    return _speed(speed) if speed else "–"


def _speed(images_per_sec: float) -> str:
    return f"{images_per_sec:,.0f} images/s"


def _weights(one: Compared) -> str:
    which = "best" if one.run.results["reported_weights"] == "best" else "last"
    return f"epoch {one.run.results['reported_epoch']}, {which}"


def verdicts(compared: Sequence[Compared]) -> list[str]:
    """Which of two models is better on these images, and whether that may be chance."""
    lines = []
    for first, second in combinations(compared, 2):
        counts = agreement(first.right, second.right)
        gap = counts.only_first - counts.only_second
        if gap == 0:
            lines.append(f"{first.name} and {second.name} classify equally many images right.")
            continue
        better, other = (first, second) if gap > 0 else (second, first)
        chance = (
            "more than chance would explain"
            if counts.p_value < 0.05
            else "which may well be chance"
        )
        images = "image" if abs(gap) == 1 else "images"
        lines.append(
            f"{better.name} classifies {abs(gap):,} more {images} right than {other.name} "
            f"({percent(abs(gap) / len(first.right))} of them), {chance} "
            f"({p_text(counts.p_value)}, McNemar's exact test)."
        )
    return lines


def pair_rows(compared: Sequence[Compared]) -> list[dict]:
    """How each two models agree."""
    return [
        {"first": a.name, "second": b.name}
        | (counts := agreement(a.right, b.right))._asdict()
        | {"p": p_text(counts.p_value)}
        for a, b in combinations(compared, 2)
    ]


def class_rows(class_names, by_class: dict[str, np.ndarray], images) -> list[dict]:
    """A row for each class: images, and each model's accuracy in it with whether it is best."""
    shares = np.array(list(by_class.values()))
    rows = []
    for k, name in enumerate(class_names):
        best = shares[:, k].max()
        differ = best > shares[:, k].min()
        cells = [(percent(share), bool(differ and share == best)) for share in shares[:, k]]
        rows.append({"name": name, "images": int(images[k]), "cells": cells})
    return rows


# Images


def _says(compared: Sequence[Compared], number: int) -> list[dict]:
    """What each model says of an image."""
    lines = []
    for one in compared:
        said = one.evaluation.class_names[one.evaluation.predictions[number]]
        share, right = percent(one.evaluation.confidences[number], 0), bool(one.right[number])
        lines.append({"model": one.name, "said": said, "share": share, "right": right})
    return lines


def _group(page: Page, compared, group: Group) -> dict:
    first = compared[0]
    shown, names = group.images[:_SHOWN], first.evaluation.class_names
    images = []
    for number, pixels in zip(shown, first.split.take(shown)[0], strict=True):
        true = names[first.evaluation.labels[number]]
        alt = f"Test image {number}: {true}"
        thumb = page.thumbnail(f"{group.slug}_image_{number}", pixels, alt)
        says = _says(compared, number)
        images.append({"image": thumb, "number": int(number), "true": true, "says": says})
    return {"title": group.title, "count": len(group.images), "images": images}


def _to_explain(found: Sequence[Group], models: int) -> list[Group]:
    """Groups whose first image is explained: few where each means many pictures."""
    return [group for group in found if len(group.images)][: 4 if models <= 3 else 2]


def _looks(page: Page, compared, group: Group) -> dict:
    """Where each model looks on the first image of a group."""
    number, first = int(group.images[0]), compared[0]
    true = first.evaluation.class_names[first.evaluation.labels[number]]
    models = []
    for k, one in enumerate(compared):
        chosen = Chosen((f"test image {number}",), *one.split.take([number]))
        drawn = [
            page.picture(picture.named(f"_{k + 1}_image_{number}"))
            for picture in closer_look(one.run, chosen)
        ]
        models.append({"name": one.name, "pictures": drawn})
    says = _says(compared, number)
    return {"title": group.title, "number": number, "true": true, "models": models, "says": says}
