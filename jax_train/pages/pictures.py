"""Which pictures explain a trained run, of which images: `python -m jax_train explain`."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_models.cct import ConvEmbed
from jax_train.analysis import explain, looks
from jax_train.analysis.explain import Intermediates
from jax_train.analysis.scoring import check_finite
from jax_train.data.given_images import read_images
from jax_train.drawing import canvas, cnn, vit
from jax_train.drawing.canvas import Example, Picture
from jax_train.errors import UserError
from jax_train.printing import counted, readable
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
      more: uint8 [n,H,W,C], further images for what is averaged over images; None: none.
    """

    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray | None
    more: np.ndarray | None = None


# Images


def choose_files(run: TrainedRun, files: Sequence[str | os.PathLike]) -> Chosen:
    """Read image files as the run reads its own.

    Raises:
      UserError: a file cannot be read as an image.
    """
    images = read_images(files, image_shape(run), run.config.data.max_megapixels, run.fit)
    return Chosen(tuple(readable(Path(file).name) for file in files), images, None, images)


def choose_examples(run: TrainedRun, split: str | None, index: Sequence[int] = ()) -> Chosen:
    """Take images of a split of the run's data: those asked for, or one per class, up to 4.

    Raises:
      UserError: the split cannot be read, or has no such image.
    """
    split = split or run.config.data.test_split
    data = run.split(split)
    for number in index:
        if not 0 <= number < len(data):
            raise UserError(
                f"--index {number}: the split {split!r} of {data.name} has "
                f"{counted(len(data), 'image')}, 0 to {len(data) - 1}."
            )
    first = np.arange(min(len(data), _DISTANCE_IMAGES))
    more, labels = data.take(first)
    chosen = list(index) or sorted(np.unique(labels, return_index=True)[1])[:4]
    images, labels = data.take(np.array(chosen))
    return Chosen(tuple(data.names(chosen)), images, labels, more)


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
    seen, examples = _forward(run, chosen)
    check_finite(run, seen.logits)
    for family in _families(run):
        yield family.overview(seen, examples, stage)
        for i, slug in enumerate(slugs(chosen.names)):
            for picture in family.of_image(seen, examples, i):
                yield picture.named(f"_{slug}")
        yield from family.of_model(chosen.more)


def closer_look(run: TrainedRun, chosen: Chosen) -> Iterator[Picture]:
    """The two pictures that say most of where a run's model looks on one image."""
    seen, examples = _forward(run, chosen)
    for family in _families(run):
        yield family.overview(seen, examples)
        yield next(family.of_image(seen, examples, 0))


def remarks(run: TrainedRun) -> list[str]:
    """What a model lacks or has of its own, a line for each."""
    name = run.config.model.name
    lines = [line for family in _families(run) for line in family.remarks(name)]
    return lines or [f"{name} has neither patches nor stages: nothing to draw."]


def _forward(run: TrainedRun, chosen: Chosen) -> tuple[Intermediates, list[Example]]:
    seen, names = explain.forward(run, chosen.images), run.class_names
    examples = []
    for i, best in enumerate(seen.logits.argmax(axis=1)):
        truth = None if chosen.labels is None else names[chosen.labels[i]]
        share = float(seen.probabilities[i, best])
        examples.append(Example(chosen.names[i], seen.pixels[i], names[best], share, truth))
    return seen, examples


class _Patches:
    """Of a model with `patch_embed`, `positions`, `pool`, and its tokens before the patches."""

    def __init__(self, run: TrainedRun):
        self._run, self._embed = run, run.model.patch_embed
        self._looks = looks.Patches(run)
        self._tokens, self._reader = self._looks.tokens, self._looks.reader

    def remarks(self, name: str) -> list[str]:
        lines = [f"{name} has no convolutions: no feature maps, no Grad-CAM."]
        if isinstance(self._embed, ConvEmbed):
            lines = [f"{name}'s convolutions make its tokens: no feature maps, no Grad-CAM."]
        if self._embed.raster:
            lines.append(
                f"{name}'s tokens are runs of memory, not squares: its maps are drawn by colour."
            )
        return lines

    def overview(self, seen: Intermediates, examples, stage: int | None = None) -> Picture:
        attention, rollout = self._looks.attention(seen), self._looks.rollout(seen)
        place = self._tokens, self._looks.prefix(seen), self._reader
        return vit.attention_over_images(examples, attention, rollout, *place)

    def of_image(self, seen: Intermediates, examples, i: int) -> Iterator[Picture]:
        attention = self._looks.attention(seen)[:, i]
        place = self._tokens, self._looks.prefix(seen), self._reader
        yield vit.attention_by_head(examples[i], attention, *place)
        yield vit.image_and_patches(examples[i], self._embed)

    def of_model(self, images: np.ndarray) -> Iterator[Picture]:
        yield self._distances(images)
        positions = np.asarray(self._run.model.positions)[0, -self._embed.num_patches :]
        yield vit.position_similarities(explain.position_similarity(positions), self._embed)
        if isinstance(self._embed, ConvEmbed):
            yield _first_filters(self._embed.convs[0].kernel[...])
        else:
            kernel = np.asarray(self._embed.projection.kernel[...])
            yield vit.patch_filters(*explain.principal_filters(kernel, _FILTERS), self._embed)

    def _distances(self, images: np.ndarray) -> Picture:
        centres = explain.token_centres(self._tokens)
        placed = centres[np.isfinite(centres).all(axis=1)]
        note = ""
        if len(self._tokens) > 1:
            note = "Between the middles of the runs, whatever their colour."
            if missing := len(centres) - len(placed):
                over = counted(missing, "run over two colours is", "runs over two colours are")
                note += f"\n{over} left out."
        distances = explain.mean_attention_distance(self._run, images)
        even = explain.pairwise_distances(placed).mean()
        return vit.attention_distances(distances, even, len(images), note)


class _Stages:
    """Of a model with `stages` and, for each, `after`, `stage_pixels`; see `ConvNet`."""

    def __init__(self, run: TrainedRun):
        self._run, self._looks = run, looks.Stages(run)
        self._model = self._looks.model

    def remarks(self, name: str) -> list[str]:
        if self._model.attention_stages:
            return [f"{name} has no patches and no class token: no attention rollout or distance."]
        return [f"{name} has no attention: Grad-CAM and the feature maps show where it looks."]

    def overview(self, seen: Intermediates, examples, stage: int | None = None) -> Picture:
        stages = range(len(self._model.stages)) if stage is None else [stage - 1]
        maps, places = self._looks.grad_cams(seen, stages)
        return cnn.grad_cams(examples, maps, stages, places)

    def of_image(self, seen: Intermediates, examples, i: int) -> Iterator[Picture]:
        features = [maps[i] for maps in seen.features]
        channels = [explain.strongest_channels(maps, _CHANNELS) for maps in features]
        yield cnn.feature_maps(examples[i], features, channels)
        if stages := self._model.attention_stages:
            queries = query_positions(*examples[i].pixels.shape[:2])
            maps = [
                [explain.query_attention(weights[i], features[stage].shape[1], q) for q in queries]
                for stage, weights in zip(stages, seen.attention, strict=True)
            ]
            yield cnn.query_attention(examples[i], np.array(maps), queries, stages)

    def of_model(self, images: np.ndarray) -> Iterator[Picture]:
        yield _first_filters(self._run.model.first_filters)


def _first_filters(kernel) -> Picture:
    """The filters of a convolution that sees the image, of its kernel [h,w,C,F]."""
    filters = np.asarray(kernel).transpose(3, 0, 1, 2)
    title = f"The {len(filters)} filters of the first convolution"
    figure = canvas.show_filters(filters[:64], title, "" if len(filters) <= 64 else "64 shown")
    return Picture("first_filters", figure, f"{title}, {filters.shape[1]}×{filters.shape[2]}.")


# How a model is shown, by what it has; it may have several of these.
FAMILIES = {"patch_embed": _Patches, "stages": _Stages}


def _families(run: TrainedRun) -> list:
    return [family(run) for has, family in FAMILIES.items() if hasattr(run.model, has)]


def query_positions(height: int, width: int) -> list[tuple[int, int]]:
    """Four positions (row, column) spread over an image: its middle and towards three corners."""
    rows, columns = (height // 5, height // 2, height - 1 - height // 5), (width // 5, width // 2)
    last = width - 1 - columns[0]
    return [(rows[0], columns[0]), (rows[1], columns[1]), (rows[0], last), (rows[2], last)]


def slugs(names: Sequence[str]) -> list[str]:
    """Names for files, different in any case, of letters, digits, '-' and '_'."""
    found, known = [], set()
    for name in names:
        stem = Path(name).stem if re.search(r"\.\w+$", name) else name
        slug = re.sub(r"[^\w-]+", "-", stem).strip("-").encode()[:120].decode(errors="ignore")[:60]
        slug = slug or "image"
        taken, number = slug, 1
        while taken.casefold() in known:
            number += 1
            taken = f"{slug}-{number}"
        known.add(taken.casefold())
        found.append(taken)
    return found
