"""The page and the table of a comparison: `python -m jax_train compare`."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from jax_models.cnn import ConvNet
from jax_models.vit import VisionTransformer
from jax_train.analysis import comparison as compare
from jax_train.analysis import explain
from jax_train.analysis.comparison import Compared, Group, agreement, p_text
from jax_train.drawing import cnn as drawing_cnn
from jax_train.drawing import results as drawing_results
from jax_train.drawing import vit as drawing_vit
from jax_train.drawing.canvas import Example, Picture
from jax_train.pages.page import Page, count, interval, metric, percent
from jax_train.pages.run import data_name, notes, splits

_SHOWN = 8  # images of each group


_CHANNELS = 6  # of a stage


def write(compared: Sequence[Compared], page: Page) -> str:
    """Write the page; return a line that says where it is."""
    first, names = compared[0], [one.name for one in compared]
    found = compare.groups(compared)
    by_class = {one.name: one.evaluation.by_class["recall"] for one in compared}
    class_names = first.evaluation.class_names
    pictured = len(class_names) <= drawing_results.MOST_NAMED
    return page.write(
        "comparison.html",
        title=f"{', '.join(names[:-1])} and {names[-1]} on {data_name(first.run)}",
        names=names,
        splits=list(dict.fromkeys(map(_data, compared))),
        accuracies=[_accuracy(one) for one in compared],
        notes=_notes(compared),
        verdicts=verdicts(compared),
        table=table(compared),
        curves=[page.picture(one) for one in
                drawing_results.curves({one.name: one.history for one in compared})],
        pairs=pair_rows(compared),
        groups=[_group(page, compared, group) for group in found],
        by_class=class_rows(class_names, by_class, first.evaluation.by_class["images"]),
        class_picture=page.picture(drawing_results.accuracy_by_class(by_class, class_names))
        if pictured else None,
        looks=[_looks(page, compared, group) for group in _to_explain(found, len(compared))],
        differences=compare.config_differences(compared),
    )  # fmt: skip


def _data(one: Compared) -> str:
    return "; ".join(splits(one.run, one.evaluation))


def _accuracy(one: Compared) -> tuple[str, str, str]:
    found = one.evaluation
    return one.name, percent(found.figures["top1"]), interval(found.top1_interval)


def _notes(compared) -> list[str]:
    """Notes on each run; those that hold for all are said once."""
    of_each = [notes(one.run, one.evaluation, one.split) for one in compared]
    shared = [note for note in of_each[0] if all(note in other for other in of_each)]
    own = [f"{one.name}: {note}" for one, found in zip(compared, of_each, strict=True)
           for note in found if note not in shared]  # fmt: skip
    return shared + own


# Figures


def table(compared: Sequence[Compared]) -> list[tuple[str, str, list[str]]]:
    """Rows (what, explanation, a value for each model)."""

    def row(what, hint, value):
        return what, hint, [value(one) for one in compared]

    def result(one, key):
        return one.run.results[key]

    sizes = {f"{one.run.config.eval.batch_size:,}" for one in compared}
    batches = " or ".join(sorted(sizes))
    rows = [
        row("Test accuracy", "top-1", lambda one: percent(one.evaluation.figures["top1"])),
        row("95 % interval", "Wilson", lambda one: interval(one.evaluation.top1_interval)),
    ]
    if len(compared[0].evaluation.class_names) > 5:
        rows.append(row("Top-5 accuracy", "", lambda one: percent(one.evaluation.figures["top5"])))
    return [
        *rows,
        row("Test loss", "nats", lambda one: f"{one.evaluation.figures['loss']:.4f}"),
        row("Calibration error", "expected, in 15 bins",
            lambda one: percent(one.evaluation.calibration_error)),
        row("Final validation accuracy", "", _final_val),
        row("Best validation accuracy", "its epoch", _best_val),
        row("Last training loss", "nats, of the last log points",
            lambda one: f"{one.history.last_train_loss:.4f}"),
        row("Weights", "that the figures are of", _weights),
        row("Parameters", "", lambda one: count(result(one, "parameters"))),
        row("Forward pass", "per image", lambda one: metric(one.flops.forward, "FLOP")),
        row("Training step", "per image", lambda one: metric(one.flops.train, "FLOP")),
        row("Training speed", "without compilation and validation", _train_speed),
        row("Inference speed", f"measured now, in batches of {batches}",
            lambda one: f"{one.evaluation.images_per_sec:,.0f} images/s"),
        row("Training time", "all included", lambda one: f"{result(one, 'seconds'):,.0f} s"),
        row("Time per epoch", "all included",
            lambda one: f"{compare.seconds_per_epoch(one):,.1f} s"),
        row("Epochs", "", lambda one: str(result(one, "epochs"))),
        row("Trained on", "", lambda one: result(one, "device")),
    ]  # fmt: skip


def _final_val(one: Compared) -> str:
    return percent(one.history.val[-1, 2]) if len(one.history.val) else "–"


def _best_val(one: Compared) -> str:
    if not len(one.history.val):
        return "–"
    best, epoch = one.history.best_val
    return f"{percent(best)} ({epoch:g})"


def _train_speed(one: Compared) -> str:
    speed = one.run.results["train_images_per_sec"]
    return f"{speed:,.0f} images/s" if speed else "–"


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
        share = percent(one.evaluation.confidences[number], 0)
        lines.append({"model": one.name, "said": said, "share": share,
                      "right": bool(one.right[number])})  # fmt: skip
    return lines


def _group(page: Page, compared, group: Group) -> dict:
    first = compared[0]
    shown, names = group.images[:_SHOWN], first.evaluation.class_names
    images = []
    for number, pixels in zip(shown, first.split.take(shown)[0], strict=True):
        true = names[first.evaluation.labels[number]]
        alt = f"Test image {number}: {true}"
        thumb = page.thumbnail(f"{group.slug}_image_{number}", pixels, alt)
        images.append({"image": thumb, "number": int(number), "true": true,
                       "says": _says(compared, number)})  # fmt: skip
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
        drawn = pictures_of(one, number, f"_{k + 1}_image_{number}")
        models.append({"name": one.name, "pictures": [page.picture(picture) for picture in drawn]})
    return {"title": group.title, "number": number, "true": true, "models": models,
            "says": _says(compared, number)}  # fmt: skip


def pictures_of(one: Compared, number: int, end: str) -> list[Picture]:
    """Where a model looks on a test image: attention of a ViT, Grad-CAM and features of a CNN.

    Args:
      one: the model.
      number: of the image.
      end: of the pictures' names.
    """
    model, names = one.run.model, one.run.class_names
    seen = explain.look(one.run, one.split.take([number])[0])
    best = int(seen.logits[0].argmax())
    example = Example(
        f"test image {number}", seen.pixels[0], names[best], float(seen.probabilities[0, best]),
        names[one.evaluation.labels[number]],
    )  # fmt: skip
    drawn = []
    if isinstance(model, VisionTransformer):
        tokens = explain.token_map(model.patch_embed)
        attention = explain.class_token_attention(seen.attention)
        rollout = explain.rollout(seen.attention)[:, 0, 1:]
        drawn = [
            drawing_vit.attention_over_images([example], attention, rollout, tokens),
            drawing_vit.attention_by_head(example, attention[:, 0], tokens, "by_head"),
        ]
    elif isinstance(model, ConvNet):
        stages = range(len(model.stages))
        maps = [explain.grad_cam(model, seen.features[i], np.array([best]), i) for i in stages]
        places = [explain.stage_pixels(model, i) for i in stages]
        features = [part[0] for part in seen.features]
        channels = [explain.strongest_channels(part, _CHANNELS) for part in features]
        drawn = [
            drawing_cnn.grad_cams([example], maps, stages, places),
            drawing_cnn.feature_maps(example, features, channels, "feature_maps"),
        ]
    return [Picture(picture.name + end, picture.figure, picture.alt) for picture in drawn]
