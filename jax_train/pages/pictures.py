"""Which pictures explain a trained run, of which images: `python -m jax_train explain`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_models.cnn import ConvNet
from jax_models.vit import VisionTransformer
from jax_train.analysis import explain
from jax_train.data import load_split
from jax_train.data.given_images import read_images
from jax_train.drawing import canvas
from jax_train.drawing import cnn as drawing_cnn
from jax_train.drawing import vit as drawing_vit
from jax_train.drawing.canvas import Example, Picture
from jax_train.errors import UserError
from jax_train.printing import readable
from jax_train.runs.trained import TrainedRun, image_shape

_FILTERS, _CHANNELS = 32, 6


_DISTANCE_IMAGES = 128  # as many as in the ViT paper


@dataclass(frozen=True)
class Chosen:
    """Images to explain.

    Attributes:
      names: of each, for people.
      images: uint8 [B,H,W,C], raw.
      labels: int [B], None where they are not known.
      more: uint8 [n,H,W,C], further images for what is averaged over images.
    """

    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray | None
    more: np.ndarray


# Images


def choose_files(run: TrainedRun, files: Sequence[Path]) -> Chosen:
    """Read image files as the run reads its own.

    Raises:
      UserError: a file cannot be read as an image.
    """
    images = read_images(files, image_shape(run))
    return Chosen(tuple(readable(Path(file.name)) for file in files), images, None, images)


def choose_examples(run: TrainedRun, split: str | None, index: Sequence[int] = ()) -> Chosen:
    """Take images of a split of the run's data: those asked for, or one per class, up to 4.

    Raises:
      UserError: the split cannot be read, or has no such image.
    """
    split = split or run.config.data.test_split
    data = load_split(run.config, split)
    for number in index:
        if not 0 <= number < len(data):
            raise UserError(
                f"--index {number}: the split {split!r} of {data.name} has {len(data):,} images, "
                f"0 to {len(data) - 1}."
            )
    first = np.arange(min(len(data), _DISTANCE_IMAGES))
    more, labels = data.take(first)
    chosen = list(index) or sorted(np.unique(labels, return_index=True)[1])[:4]
    images, labels = data.take(np.array(chosen))
    return Chosen(tuple(f"{split} {number}" for number in chosen), images, labels, more)


# Pictures


def pictures(run: TrainedRun, chosen: Chosen, stage: int | None = None) -> Iterator[Picture]:
    """Draw all that can be drawn of a run's model.

    Args:
      run: whose model is explained.
      chosen: the images.
      stage: of Grad-CAM, from 1; None: each.

    Raises:
      UserError: the model's logits are not finite.
    """
    seen = explain.look(run, chosen.images)
    if not np.isfinite(seen.logits).all():
        raise UserError(
            f"The logits of {run.folder} are not finite: its training did not converge. Train it "
            "again with a lower config.optim.learning_rate."
        )
    examples = _examples(run, chosen, seen)
    if isinstance(run.model, VisionTransformer):
        yield from _vit_pictures(run, chosen, seen, examples)
    if isinstance(run.model, ConvNet):
        yield from _cnn_pictures(run, seen, examples, stage)


def _examples(run, chosen, seen) -> list[Example]:
    names = run.class_names
    best = seen.logits.argmax(axis=1)
    return [
        Example(
            name,
            seen.pixels[i],
            names[best[i]],
            float(seen.probabilities[i, best[i]]),
            None if chosen.labels is None else names[chosen.labels[i]],
        )
        for i, name in enumerate(chosen.names)
    ]


def _vit_pictures(run, chosen, seen, examples) -> Iterator[Picture]:
    embed = run.model.patch_embed
    tokens = explain.token_map(embed)
    attention = explain.class_token_attention(seen.attention)
    yield drawing_vit.attention_over_images(
        examples, attention, explain.rollout(seen.attention)[:, 0, 1:], tokens
    )
    for i, (example, slug) in enumerate(zip(examples, slugs(chosen.names), strict=True)):
        name = f"attention_by_head_{slug}"
        yield drawing_vit.attention_by_head(example, attention[:, i], tokens, name)
        yield drawing_vit.image_and_patches(example, embed, f"patches_{slug}")
    yield _distance_picture(run, chosen, tokens)
    positions = np.asarray(run.model.pos_embed[...])
    yield drawing_vit.position_similarities(explain.position_similarity(positions), embed)
    kernel = np.asarray(embed.projection.kernel[...])
    yield drawing_vit.patch_filters(*explain.principal_filters(kernel, _FILTERS), embed)


def _distance_picture(run, chosen, tokens) -> Picture:
    centres = explain.token_centres(tokens)
    placed = centres[np.isfinite(centres).all(axis=1)]
    note = ""
    if len(tokens) > 1:
        note = "Between the middles of the runs, whatever their colour."
        if missing := len(centres) - len(placed):
            note += f"\n{missing} runs over two colours are left out."
    return drawing_vit.attention_distances(
        explain.mean_attention_distance(run, chosen.more),
        explain.pairwise_distances(placed).mean(),
        len(chosen.more),
        note,
    )


def _cnn_pictures(run, seen, examples, stage) -> Iterator[Picture]:
    model = run.model
    stages = range(len(model.stages)) if stage is None else [stage - 1]
    classes = seen.logits.argmax(axis=1)
    yield drawing_cnn.grad_cams(
        examples,
        [explain.grad_cam(model, seen.features[i], classes, i) for i in stages],
        stages,
        [explain.stage_pixels(model, i) for i in stages],
    )
    for i, (example, slug) in enumerate(
        zip(examples, slugs([e.name for e in examples]), strict=True)
    ):
        features = [maps[i] for maps in seen.features]
        channels = [explain.strongest_channels(maps, _CHANNELS) for maps in features]
        yield drawing_cnn.feature_maps(example, features, channels, f"feature_maps_{slug}")
        if seen.attention:
            yield _query_picture(model, example, [a[i] for a in seen.attention], features, slug)
    filters = np.asarray(model.stages[0].convs[0].kernel[...]).transpose(3, 0, 1, 2)
    title = f"The {len(filters)} filters of the first convolution"
    figure = canvas.show_filters(filters[:64], title, "" if len(filters) <= 64 else "64 shown")
    yield Picture("first_filters", figure, f"{title}, {filters.shape[1]}×{filters.shape[2]}.")


def _query_picture(model, example, attention, features, slug) -> Picture:
    stages = [i for i, stage in enumerate(model.stages) if stage.attention is not None]
    queries = query_positions(*example.pixels.shape[:2])
    maps = [
        [explain.query_attention(weights, features[stage].shape[1], q) for q in queries]
        for stage, weights in zip(stages, attention, strict=True)
    ]
    name = f"queries_{slug}"
    return drawing_cnn.query_attention(example, np.array(maps), queries, stages, name)


def query_positions(height: int, width: int) -> list[tuple[int, int]]:
    """Four positions (row, column) spread over an image: its middle and towards three corners."""
    rows, columns = (height // 5, height // 2, height - 1 - height // 5), (width // 5, width // 2)
    last = width - 1 - columns[0]
    return [(rows[0], columns[0]), (rows[1], columns[1]), (rows[0], last), (rows[2], last)]


def slugs(names: Sequence[str]) -> list[str]:
    """Different names for files, of letters, digits, '-' and '_'."""
    found = []
    for name in names:
        stem = Path(name).stem if re.search(r"\.\w+$", name) else name
        slug = re.sub(r"[^\w-]+", "-", stem).strip("-")[:60] or "image"
        taken, number = slug, 1
        while taken in found:
            number += 1
            taken = f"{slug}-{number}"
        found.append(taken)
    return found


def notes(run: TrainedRun) -> list[str]:
    """What a model lacks or has of its own, a line for each."""
    model, name = run.model, run.config.model.name
    if isinstance(model, VisionTransformer):
        lines = [f"{name} has no convolutions: no feature maps, no Grad-CAM."]
        if model.patch_embed.raster:
            lines.append(
                f"{name}'s tokens are runs of memory, not squares: its maps are drawn by colour."
            )
        return lines
    if not isinstance(model, ConvNet):
        return [f"{name} is neither a VisionTransformer nor a ConvNet: nothing to draw."]
    lines = [f"{name} has no patches and no class token: no attention rollout or distance."]
    if not explain.has_attention(model):
        lines = [f"{name} has no attention: Grad-CAM and the feature maps show where it looks."]
    return lines
