"""Names of any form, of classes, files and folders: no run ends by one, and CSV has its bytes."""

import csv
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from jax_train import __main__
from jax_train.runs import results
from jax_train.train import train
from tests import tiny

NAMES = (b"--help", b'=1+1,\r"a"', b"caf\xe9\n\x1b[31m", "日本\u202e".encode(), b"x" * 250)
CLASSES = tuple(sorted(map(os.fsdecode, NAMES)))
HOSTILE = os.fsdecode(NAMES[2])
IMAGE = os.fsdecode(b"im\xe9\n\x07.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on such classes, in a folder of such a name, and where its images are."""
    root = tmp_path_factory.mktemp("names")
    data, workdir = root / os.fsdecode(b"d\xe9ta\x1b[1m"), root / os.fsdecode(b"r\xffn")
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in CLASSES:
            (data / split / name).mkdir(parents=True)
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(data / split / name / IMAGE)
    fields = {"data.name": f"folder:{data}", "data.train_split": "train", "data.val_split": ""}
    fields |= {"data.test_split": "test", "train.epochs": 1, "train.batch_size": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_VIT_CNN_CACHE", str(root / "cache"))
        train(tiny.config(**fields, **{"log.tensorboard": True}), workdir)
        yield SimpleNamespace(workdir=workdir, data=data)


def rows_of(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def answer(capsys, *arguments):
    """What a command prints, in which nothing drives the terminal."""
    assert __main__.main([*map(str, arguments)]) == 0
    out = capsys.readouterr().out
    assert all(sign.isprintable() or sign == "\n" for sign in out)
    return out


def test_a_run_ends_and_its_files_have_the_very_names(trained):
    found = json.loads((trained.workdir / "results.json").read_text("ascii"))
    assert tuple(found["class_names"]) == CLASSES
    assert rows_of(trained.workdir / "confusion.csv")[0][1:] == list(CLASSES)
    assert all(name in (trained.workdir / "confusion.csv").read_bytes() for name in NAMES[2:])


def test_evaluate_shows_and_writes_them(trained, tmp_path, capsys):
    text = answer(capsys, "evaluate", trained.workdir, "--csv", tmp_path / "out.csv")
    assert r"caf\xe9\n\x1b[31m  " in text
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert [row[0] for row in rows_of(tmp_path / "out.csv")[1:]] == list(CLASSES)


def test_predict_shows_and_writes_them(trained, tmp_path, capsys):
    folder = trained.data / "test" / HOSTILE
    text = answer(capsys, "predict", trained.workdir, folder, "--csv", tmp_path / "out.csv")
    assert r"/caf\xe9\n\x1b[31m/im\xe9\n\x07.png" in text
    _, row = rows_of(tmp_path / "out.csv")
    assert row[0] == str(folder / IMAGE)
    assert row[1] in CLASSES


def test_pages_and_pictures_show_them(trained, capsys):
    answer(capsys, "report", trained.workdir)
    page = (trained.workdir / "report.html").read_text("utf-8")
    assert r"caf\xe9" in page
    assert "日本" in page
    assert not {"\x1b", "\u202e"} & set(page)
    answer(capsys, "explain", trained.workdir, trained.data / "test" / HOSTILE / IMAGE)


def test_counts_of_one_are_worded_and_the_first_five_of_five_classes_left_out(trained, capsys):
    summary = results.summary(json.loads((trained.workdir / "results.json").read_text()), "")
    assert "  1 epoch in" in summary
    assert "top-1" in summary
    assert "top-5" not in summary
    text = answer(capsys, "evaluate", trained.workdir, "--split", "test[:1]")
    assert "test[:1]: 1 image; weights" in text
    text = answer(capsys, "evaluate", trained.workdir, "--split", "train[:1]")
    assert "note: 1 of these images is among the training images" in text
