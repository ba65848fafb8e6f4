"""The page that compares runs: `python -m jax_train compare`."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from jax_train.analysis import comparison as compare
from jax_train.analysis.comparison import Compared, Group, agreement, p_text, seconds_per_epoch
from jax_train.drawing import results
from jax_train.engine.feed import even_batch
from jax_train.pages.facts import data_name, notes, splits
from jax_train.pages.page import Page, count, interval, metric, percent
from jax_train.pages.pictures import Chosen, closer_look
from jax_train.printing import figure
from jax_train.runs.results import epochs_of

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
    most = 4 if len(compared) <= 3 else 2  # few where each means many pictures
    to_explain = [group for group in found if len(group.images)][:most]
    return page.write(
        "comparison.html",
        title=f"{', '.join(names[:-1])} and {names[-1]} on {data_name(first.run)}",
        names=names,
        splits=list(dict.fromkeys("; ".join(splits(one.run, one.evaluation)) for one in compared)),
        accuracies=[_accuracy(one) for one in compared],
        notes=_notes(compared),
        verdicts=verdicts(compared),
        table=table(compared),
        curves=[page.picture(one) for one in results.curves(histories)],
        pairs=pair_rows(compared),
        groups=[_group(page, compared, group) for group in found],
        by_class=class_rows(class_names, by_class, first.evaluation.by_class["images"]),
        class_picture=class_picture,
        looks=[_looks(page, compared, group) for group in to_explain],
        differences=compare.config_differences(compared),
    )


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
    most = [(len(one.split), one.run.config.eval.batch_size) for one in compared]
    sizes = sorted({even_batch(*sizes) for sizes in most})
    columns = [_values(one, " or ".join(f"{size:,}" for size in sizes)) for one in compared]
    rows = [(what, hint, [column[what, hint] for column in columns]) for what, hint in columns[0]]
    few = len(compared[0].evaluation.class_names) <= 5  # then any answer is among the top five
    return [row for row in rows if not (few and row[0] == "Top-5 accuracy")]


def _values(one: Compared, batch_sizes: str) -> dict[tuple[str, str], str]:
    """The column of a model: values by (what, explanation)."""
    found, history, trained = one.evaluation, one.history, one.run.results
    final = best = speed = "–"
    if len(history.val):
        share, epoch = history.best_val
        final, best = percent(history.val[-1, 2]), f"{percent(share)} ({epoch:g})"
    if trained["train_images_per_sec"]:
        speed = f"{trained['train_images_per_sec']:,.0f} images/s"
    which = "best" if trained["reported_weights"] == "best" else "last"
    last_loss = history.last_train_loss
    measured = f"measured now, in batches of {batch_sizes}"
    return {
        ("Test accuracy", "top-1"): percent(found.figures["top1"]),
        ("95 % interval", "Wilson"): interval(found.top1_interval),
        ("Top-5 accuracy", ""): percent(found.figures["top5"]),
        ("Test loss", "nats"): figure(found.figures["loss"], ".4f"),
        ("Calibration error", "expected, in 15 bins"): percent(found.calibration_error),
        ("Final validation accuracy", ""): final,
        ("Best validation accuracy", "its epoch"): best,
        ("Last training loss", "nats, of the last log points"): figure(last_loss, ".4f"),
        ("Weights", "that the figures are of"): f"epoch {trained['reported_epoch']}, {which}",
        ("Parameters", ""): count(trained["parameters"]),
        ("Forward pass", "per image"): metric(one.flops.forward, "FLOP"),
        ("Training step", "per image"): metric(one.flops.train, "FLOP"),
        ("Training speed", "without compilation and validation"): speed,
        ("Inference speed", measured): f"{found.images_per_sec:,.0f} images/s",
        ("Training time", "all included"): f"{count(trained['seconds'])} s",
        ("Time per epoch", "all included"): f"{figure(seconds_per_epoch(one), ',.1f')} s",
        ("Epochs", ""): epochs_of(trained),
        ("Trained on", ""): trained["device"],
    }


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
        sure, unsure = "more than chance would explain", "which may well be chance"
        chance = sure if counts.p_value < 0.05 else unsure
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
    images, all_pixels = [], first.split.take(shown)[0]
    for number, name, pixels in zip(shown, first.split.names(shown), all_pixels, strict=True):
        true = names[first.evaluation.labels[number]]
        alt = f"{name}: {true}"
        thumb = page.thumbnail(f"{group.slug}_image_{number}", pixels, alt)
        says = _says(compared, number)
        images.append({"image": thumb, "name": name, "true": true, "says": says})
    return {"title": group.title, "count": len(group.images), "images": images}


def _looks(page: Page, compared, group: Group) -> dict:
    """Where each model looks on the first image of a group."""
    number, first = int(group.images[0]), compared[0]
    true = first.evaluation.class_names[first.evaluation.labels[number]]
    models, names = [], first.split.names([number])
    for k, one in enumerate(compared):
        chosen = Chosen(tuple(names), *one.split.take([number]))
        looks = [look.named(f"_{k + 1}_image_{number}") for look in closer_look(one.run, chosen)]
        models.append({"name": one.name, "pictures": [page.picture(look) for look in looks]})
    says = _says(compared, number)
    return {"title": group.title, "name": names[0], "true": true, "models": models, "says": says}
