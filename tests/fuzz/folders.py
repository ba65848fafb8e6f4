"""Random folders of images, as a `folder:` data set meets them."""

import contextlib
import functools
import io
import os
import tempfile
import unittest.mock
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from configs import folder as recipe
from jax_train import data
from jax_train.__main__ import main
from jax_train.errors import UserError
from jax_train.train import train

_PLAIN = ("cat", "dog", "bird", "cow", "ant")
_SPLITS = ("train", "Train", "TRAINING", "test", "Testing", "val", "valid", "validation", "dev")
_SPLITS += ("train_set", "test set", "x_train", "x-test", "images")
_ODD = (" bird ", "ünï", "日本", "a\nb", "x" * 200, "-rf", "%s", "{}", "a.b.png", "🐱", "'q'", '"')
_ODD += (".hidden", "__MACOSX", "@eaDir", "runs", "checkpoints", "..a", "~", "*", "CON", "\x1b[31m")
_ODD += (
    os.fsdecode(b"\xff\xfe"),
    os.fsdecode(b"caf\xe9"),
    "\u202eabc",
    "a\\b",
    "$HOME",
    "folder:x",
)
_ENDINGS = (".png", ".png", ".jpg", ".JPG", ".gif", ".bmp", ".webp", ".tif", "", ".", ".txt")
_ENDINGS += (".heic", ".avif", ".eps", ".tga", ".jp2", ".png.part", ".jpeg~", ".csv", ".db")
_KINDS = ("PNG", "BMP", "TIFF", "TGA")  # without loss, so that an image says which it is


@functools.cache
def image_of(number: int, kind: str, side: int) -> bytes:
    """A flat image that holds a number of up to 16 bits."""
    buffer = io.BytesIO()
    colour = number % 256, number // 256, 77
    Image.new("RGB", (side, side), colour).save(buffer, kind)
    return buffer.getvalue()


class Folder:
    """A random folder; `paths` are those of its images, by number."""

    def __init__(self, root: Path, random):
        self.root, self.random, self.paths = root, random, []
        shape = random.random()
        names = random.sample(_PLAIN, random.randint(1, 4))
        if shape < 0.35:
            places = [Path(name) for name in names]
        elif shape < 0.75:
            splits = random.sample(_SPLITS, random.randint(1, 3))
            places = [Path(split, name) for split in splits for name in names]
        else:
            places = []
        for place in places:
            if random.random() < 0.95:
                self._fill(root / random.choice(["", "", "", "sub"]) / place, random.randint(0, 6))
        for _ in range(random.randint(0, 3) if places else 12):
            self._add_anything()

    def _fill(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            self._image(folder / f"{i}.png", "PNG")

    def _image(self, path: Path, kind: str) -> None:
        number, side = len(self.paths), self.random.choice([4] * 50 + [5])
        path.write_bytes(image_of(number, kind, side))
        self.paths.append(path)

    def _name(self) -> str:
        chance = self.random.random()
        pool = _PLAIN if chance < 0.4 else _SPLITS if chance < 0.6 else _ODD
        return self.random.choice(pool)

    def _place(self) -> Path:
        """A folder that is there, or a new one below it."""
        found = [self.root] + [Path(where) for where, _, _ in os.walk(self.root)]
        folder = self.random.choice(found)
        for _ in range(self.random.choice([0, 0, 1, 1, 2])):
            if len(os.fsencode(folder)) < 2000:
                folder = folder / self._name()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            return self.root
        return folder

    def _add_anything(self) -> None:
        other, folder, random = self._place(), self._place(), self.random
        path = folder / f"{self._name()[:100]}{random.choice(_ENDINGS)}"
        if path.exists() or path.is_symlink():
            return
        chance = random.random()
        if chance < 0.25:
            self._image(path, random.choice(_KINDS))
        elif chance < 0.35:
            whole = image_of(9, "PNG", 4)
            contents = b"", b"text\n", whole[:40], random.randbytes(30), b"%!PS-Adobe-3.0 EPSF-3.0"
            path.write_bytes(random.choice(contents))
        elif chance < 0.7:
            self._fill(folder, random.randint(1, 5))
        elif chance < 0.85:
            targets = [".", "..", "nowhere", path.name, self.root, "/dev/null", other]
            path.symlink_to(random.choice(targets), target_is_directory=True)
        elif chance < 0.9:
            os.mkfifo(path)
        elif chance < 0.95:
            (folder / "config.json").write_text("{}")
            (folder / "checkpoints").mkdir(exist_ok=True)
        # else an empty folder


def load(random) -> bool:
    """Load a random folder as a run does: whether it is taken; or it is refused with a message."""
    with _made(random) as (made, config):
        try:
            splits = data.load_splits(config)
            notes = [*splits.notes(), *splits.train.notes]
            check(made, splits)
        except UserError as error:
            return _refused(error)
        assert all(isinstance(note, str) for note in notes)
    return True


def run(random) -> bool:
    """Train on a random folder for an epoch, then report, evaluate and predict; see `load`.

    Commands return their exit codes; whatever else they raise goes through.
    """
    with _made(random) as (made, config), contextlib.redirect_stdout(io.StringIO()) as out:
        config.data.image_size, config.data.mean, config.data.std = 3, (0.3,) * 3, (0.2,) * 3
        config.augment.crop_padding, config.model.widths = 1, (3,)
        config.train.epochs, config.train.batch_size = 1, 2
        workdir = made.root.parent / "run"
        try:
            results = train(config, workdir)
        except UserError as error:
            assert not (workdir / "results.json").exists()
            return _refused(error)
        assert len(results["class_names"]) > 1
        check(made, data.load_splits(config))
        assert main(["report", str(workdir)]) == 0
        assert main(["evaluate", str(workdir)]) == 0
        # A folder that was asked for its images, odd ones among them: 1 where some are unreadable.
        table = workdir / "predictions.csv"
        assert main(["predict", str(workdir), str(made.root), "--csv", str(table)]) in (0, 1)
        assert "Traceback" not in out.getvalue()
    return True


@contextlib.contextmanager
def _made(random) -> Iterator[tuple["Folder", ConfigDict]]:
    """A random folder, and a config of a run on it; the cache lies beside it."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "set")
        root.mkdir()
        made = Folder(root, random)
        config = recipe.get_config()
        config.data.name = f"folder:{root}"
        config.data.image_size = random.choice([None, 3, 3])
        config.data.on_damaged = random.choice(["stop", "skip"])
        config.data.memory_limit = random.choice([16.0, 0.0])
        config.data.val_split = random.choice(["auto", ""])
        with unittest.mock.patch.dict(os.environ, JAX_VIT_CNN_CACHE=str(Path(place, "cache"))):
            yield made, config


def _refused(error: UserError) -> bool:
    assert len(str(error)) > 30, f"says too little: {error}"
    return False


def check(made: Folder, splits: data.Splits) -> None:
    """Check by other means what was loaded: classes, labels, and that no image serves twice."""
    names, linked = splits.train.class_names, False
    assert len(names) > 1, f"a single class: {names}"
    assert len(set(names)) == len(names)
    for where, folders, files in os.walk(made.root):
        linked |= any(Path(where, name).is_symlink() for name in (*folders, *files))
    seen = set()
    for split in filter(None, vars(splits).values()):
        assert split.class_names == names
        assert len(split) > 0
        for images, labels in split.blocks():
            for image, label in zip(images, labels, strict=True):
                path = made.paths[int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])]
                assert linked or names[label] in path.parts, f"{path} as {names[label]!r}"
                assert linked or path not in seen, f"{path} serves twice"
                assert not any(part.startswith(".") for part in path.relative_to(made.root).parts)
                seen.add(path)
    assert np.unique(splits.train.labels).size <= len(names)
