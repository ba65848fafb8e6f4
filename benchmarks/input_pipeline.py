"""What it costs to read photos of ImageNet's size: decoding, random resized crops, and a step.

The photos are made up: 1,000 classes, files of about 110 kB. All runs on one core of a process of
its own, by the time that it ran, so that other programs do not matter.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import deit_small_imagenet, resnet50_imagenet
from jax_train import data
from jax_train.engine import feed
from jax_train.engine.parallel import Layout
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.printing import say
from tests import records
from tests.parity.measure import ROOT

RECIPES = {"resnet50_imagenet": resnet50_imagenet, "deit_small_imagenet": deit_small_imagenet}
_CLASSES, _PER_CLASS, _BATCH = 1000, 2, 8
# Width and height, as often as they stand here: 195,000 pixels on average.
_SIZES = ((500, 375),) * 5 + ((375, 500),) * 2 + ((500, 333), (333, 500), (640, 480))
_QUALITY, _TEXTURE = 86, 1024  # of JPEG; side of what photos are cut out of, in pixels
_STORED = 256  # shorter side of the photos that are stored smaller
_READ = 512  # photos, drawn from all, that a sample reads


def tables(rounds: int, quick: bool = False) -> str:
    """How fast photos are read, by source, and what a step takes beside it.

    Of few photos, and without steps, if `quick`.
    """
    command = [sys.executable, "-m", "benchmarks.input_pipeline", str(rounds), str(int(quick))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.check_output(command, cwd=ROOT, env=environment, text=True).strip()


def main() -> None:
    """Measure in this process: `python -m benchmarks.input_pipeline ROUNDS QUICK`."""
    rounds, quick = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        photos = write(Path(folder), 4 if quick else _CLASSES, _PER_CLASS)
        say(_reading(photos, rounds))
        if not quick:
            say(f"\n{_steps(photos, rounds)}")


# The photos


class Photos(NamedTuple):
    """The same photos several times.

    Attributes:
      sources: kind -> name and folder of the data.
      files: those of the folder.
    """

    sources: dict[str, tuple[str, str | None]]
    files: list[Path]

    @property
    def kilobytes(self) -> float:
        """Of a file, on average."""
        return sum(path.stat().st_size for path in self.files) / len(self.files) / 1e3


def write(root: Path, classes: int, per_class: int) -> Photos:
    """Write photos as a folder of files, as one of smaller files, and as records."""
    random, files = np.random.default_rng(0), []
    textures = [_texture(random) for _ in range(min(8, classes // 2))]
    names = [f"n{label:08}" for label in range(classes)]
    for label, name in enumerate(names):
        for place in (root / "files" / name, root / "small" / name):
            place.mkdir(parents=True)
        for number in range(per_class):
            photo, path = _photo(random, textures), Path(name, f"{number}.JPEG")
            photo.save(root / "files" / path, quality=_QUALITY)
            scale = _STORED / min(photo.size)
            size = tuple(round(scale * side) for side in photo.size)
            small = photo.resize(size, Image.Resampling.BICUBIC)
            small.save(root / "small" / path, quality=_QUALITY)
            files.append((root / "files" / path, label))
    name = records.write(root / "records", {"train": files}, names)
    sources = {
        "`folder:`": (f"folder:{root / 'files'}", None),
        "`array_record`": (name, str(root / "records")),
        f"`folder:`, files of {_STORED} pixels": (f"folder:{root / 'small'}", None),
    }
    return Photos(sources, [path for path, _ in files])


def _texture(random) -> np.ndarray:
    """Noise with the spectrum of photographs, 1/f (Field 1987): float32 [H,W,3] around 0."""
    rows, columns = np.fft.fftfreq(_TEXTURE)[:, None], np.fft.rfftfreq(_TEXTURE)
    weight = 1 / np.maximum(np.hypot(rows, columns), 1 / _TEXTURE)
    grey, *colours = (
        np.fft.irfft2(np.fft.rfft2(random.normal(size=(_TEXTURE, _TEXTURE))) * weight)
        for _ in range(4)
    )
    pixels = np.stack([grey + colour / 3 for colour in colours], -1)  # colours differ less
    return (pixels / pixels.std()).astype(np.float32)


def _photo(random, textures) -> Image.Image:
    """Parts of two textures on each other."""
    width, height = _SIZES[random.integers(len(_SIZES))]
    parts = []
    for texture in random.choice(len(textures), 2, replace=False):
        top, left = random.integers(_TEXTURE - height), random.integers(_TEXTURE - width)
        parts.append(textures[texture][top : top + height, left : left + width])
    pixels = np.clip(118 + 42 * (parts[0] + parts[1]), 0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _config(recipe: str, photos: Photos, source: str) -> ConfigDict:
    """A recipe on the photos, in small batches."""
    config = RECIPES[recipe].get_config()
    config.data.name, config.data.data_dir = photos.sources[source]
    config.data.memory_limit = 0.0
    config.data.train_split, config.data.val_split, config.data.test_split = "train", "", "train"
    config.train.batch_size = _BATCH
    return config


# Reading


def _reading(photos: Photos, rounds: int) -> str:
    rows = {"Pillow alone": partial(_decoded, photos)}
    rows["the same, at half the sides (`draft`)"] = partial(_decoded, photos, half=True)
    first, *_ = photos.sources
    for source in photos.sources:
        rows[f"{source}, random crops"] = partial(_read, photos, source, crops=True)
    rows[f"{first}, squares"] = partial(_read, photos, first, crops=False)
    what = f"{len(photos.files):,} JPEGs of {photos.kilobytes:.0f} kB"
    lines = [f"| {what} | images/s of a core | ms an image |", "|---|---|---|"]
    for name, read in rows.items():
        seconds = min(_seconds(read) for _ in range(rounds))
        lines.append(f"| {name} | {1 / seconds:,.0f} | {1e3 * seconds:.2f} |")
    return "\n".join(lines)


def _drawn(photos: Photos) -> np.ndarray:
    count = min(_READ, len(photos.files)) // _BATCH * _BATCH
    return np.random.default_rng(1).permutation(len(photos.files))[:count]


def _seconds(read: Callable[[], tuple[int, Iterator]]) -> float:
    """Of a core, an image."""
    count, images = read()
    begin = time.process_time()
    for _ in images:
        pass
    return (time.process_time() - begin) / count


def _decoded(photos: Photos, half: bool = False) -> tuple[int, Iterator[np.ndarray]]:
    """Images of files, opened and decoded, nothing else; and how many."""

    def decode(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            if half:
                image.draft(None, (image.width // 2, image.height // 2))
            return np.asarray(image)

    drawn = _drawn(photos)
    return len(drawn), (decode(photos.files[i]) for i in drawn)


def _read(photos: Photos, source: str, crops: bool) -> tuple[int, Iterator]:
    """Batches as a run reads them: crops to train on, or squares to evaluate; and how many."""
    config = _config("resnet50_imagenet", photos, source)
    split = data.load_splits(config).train
    order = _drawn(photos).reshape(-1, _BATCH)
    how = {"crops": feed.crops_of(config, split)(0)} if crops else {}
    return order.size, split.batches(order, threads=1, **how)


# Steps


def _steps(photos: Photos, rounds: int) -> str:
    """What a step of the recipes takes of a core, and the reading of its images beside it."""
    source, *_ = photos.sources
    read = partial(_read, photos, source, crops=True)
    reading = min(_seconds(read) for _ in range(rounds))
    lines = [
        f"| a step of {_BATCH} images | images/s of a core | ms an image | reading, of both |",
        "|---|---|---|---|",
    ]
    for recipe in RECIPES:
        seconds = _step_seconds(_config(recipe, photos, source), rounds) / _BATCH
        share = reading / (seconds + reading)
        lines.append(f"| `{recipe}` | {1 / seconds:.1f} | {1e3 * seconds:.0f} | {share:.1%} |")
    return "\n".join(lines)


def _step_seconds(config: ConfigDict, rounds: int) -> float:
    splits = data.load_splits(config)
    config = resolve(config, splits)
    program = Program(config, splits.train, Layout())
    training = feed.create_training(splits.train, program.layout, config)
    call = next(iter(program.train_calls(training, 0, 0)))
    progress, seconds = program.start(), []
    for _ in range(rounds + 1):
        begin = time.process_time()
        progress = program.train(training, call, progress, lambda line: None)
        progress.sums.loss.block_until_ready()
        seconds.append(time.process_time() - begin)
    return min(seconds[1:])  # the first compiles


if __name__ == "__main__":
    main()
