"""`python -m jax_train predict`: the run's probabilities of image files, or one paragraph."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from configs import common
from jax_train import __main__, data
from jax_train.analysis import prediction
from jax_train.data import given_images
from jax_train.errors import UserError
from jax_train.runs import trained
from jax_train.train import train
from tests import tiny
from tests.jax_train.commands.refusals import check_refusal

pytestmark = pytest.mark.xdist_group("predict")  # its runs are trained once
ROOT = Path(__file__).resolve().parents[3]
ANIMALS = ("a cat of the rarer, long-haired, tailless kind", "cow", "dog")


def cnn_config(folder):
    config = common.get_config()
    config.model.name, config.model.widths = "simple_cnn", (5, 7)
    config.data.name = f"folder:{folder}"
    config.data.train_split, config.data.val_split, config.data.test_split = "train", "", "train"
    config.augment.resize, config.augment.crop_padding, config.augment.flip = 12, 2, True
    config.train.epochs, config.train.batch_size = 2, 6
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A ViT on digits (grey, 8x8), and a CNN on a folder of colour images of 6x10 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    for i, name in enumerate(ANIMALS * 4):
        (folder / "pets" / name).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (6, 10, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pets" / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_VIT_CNN_CACHE", str(folder / "cache"))
        train(tiny.config(**tiny.EVALUATED), folder / "vit")
        train(cnn_config(folder / "pets"), folder / "cnn")
        yield folder


@pytest.fixture(scope="module")
def digits(runs):
    """23 test digits as PNG files, which lose nothing: their folder, and the raw images."""
    raw = data.load_split(tiny.config(**tiny.EVALUATED), "test[:23]").images
    (runs / "digits").mkdir()
    for i, image in enumerate(raw):
        Image.fromarray(image[:, :, 0]).save(runs / "digits" / f"{i:02}.png")
    return runs / "digits", raw


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def run(*arguments):
    """Run the command in this process; return its exit code."""
    return __main__.main(["predict", *map(str, arguments)])


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# Probabilities


@pytest.mark.parametrize("batch", [100, 7])
def test_probabilities_are_those_of_the_run(batch, runs, digits, monkeypatch):
    monkeypatch.setattr(prediction, "_BATCH", batch)
    folder, raw = digits
    opened = trained.open_run(runs / "vit")
    expected = softmax(opened.logits(raw))
    found = prediction.predict(opened, given_images.find_images([folder]), top=3, keep_all=True)
    assert found.all_probabilities.dtype == np.float32
    np.testing.assert_allclose(found.all_probabilities, expected, rtol=1e-4)
    np.testing.assert_array_equal(found.classes, np.argsort(-expected, axis=1)[:, :3])
    np.testing.assert_allclose(found.probabilities, -np.sort(-expected, axis=1)[:, :3], rtol=1e-4)
    assert not found.differences


@pytest.mark.parametrize("tta", [("flip",), ("crops",), ("flip", "crops")])
def test_augmented_probabilities_are_the_mean_over_the_views(tta, runs, digits):
    folder, raw = digits
    opened = trained.open_run(runs / "vit")
    padded = np.pad(raw, ((0, 0), (1, 1), (1, 1), (0, 0)))  # at least a pixel
    places = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)][: 5 if "crops" in tta else 1]
    views = [padded[:, y : y + 8, x : x + 8] for y, x in places]
    views += [view[:, :, ::-1] for view in views] if "flip" in tta else []
    expected = np.mean([softmax(opened.logits(view)) for view in views], axis=0)
    found = prediction.predict(opened, given_images.find_images([folder]), tta=tta, keep_all=True)
    np.testing.assert_allclose(found.all_probabilities, expected, rtol=1e-4)


def test_airbench_averages_the_logits_of_its_views(runs, digits):
    folder, raw = digits
    opened = trained.open_run(runs / "vit")
    padded = np.pad(raw, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")

    def both(y, x):
        view = padded[:, y : y + 8, x : x + 8]
        return (opened.logits(view) + opened.logits(view[:, :, ::-1])) / 2

    shifted = (both(0, 0) + both(2, 2)) / 2
    expected = softmax((both(1, 1) + shifted) / 2)
    files = given_images.find_images([folder])
    found = prediction.predict(opened, files, tta=("airbench",), keep_all=True)
    np.testing.assert_allclose(found.all_probabilities, expected, rtol=1e-4)


def test_crops_shift_what_the_model_sees_and_bring_in_black(runs):
    opened = trained.open_run(runs / "cnn")
    files = given_images.find_images([runs / "pets"])[:5]
    raw = given_images.read_images(files, (6, 10, 3))
    seen = np.asarray(opened.recipe.augmentation.evaluate(raw))  # resized to 12x12, normalised
    mean, std = (np.float32(opened.config.data[name]) for name in ("mean", "std"))
    padded = np.broadcast_to(-mean / std, (5, 16, 16, 3)).copy()
    padded[:, 2:14, 2:14] = seen
    places = [(2, 2), (0, 0), (0, 4), (4, 0), (4, 4)]
    views = [padded[:, y : y + 12, x : x + 12] for y, x in places]
    views += [view[:, :, ::-1] for view in views]
    expected = np.mean([jax.nn.softmax(opened.model(view)) for view in views], axis=0)
    found = prediction.predict(opened, files, tta=("flip", "crops"), keep_all=True)
    np.testing.assert_allclose(found.all_probabilities, expected, rtol=1e-3)


def test_logits_that_are_not_finite_are_refused(runs, digits):
    opened = trained.open_run(runs / "vit")
    params = jax.tree.map(lambda leaf: leaf * np.nan, opened.params)
    broken = trained.TrainedRun(**{**vars(opened), "params": params})
    with pytest.raises(UserError, match="not finite"):
        prediction.predict(broken, given_images.find_images([digits[0]]))


# What is printed and written


def test_a_line_for_each_file(runs, digits, capsys, monkeypatch):
    monkeypatch.chdir(digits[0])
    assert run(runs / "vit", ".", "--top", 4) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 23
    assert len(set(map(len, lines))) == 1
    assert len(lines[0]) <= 80
    assert [line.split()[0] for line in lines] == [f"{i:02}.png" for i in range(23)]
    assert all(len(line.split("%")) == 5 for line in lines)


def test_long_names_stay_within_80_columns(runs, tmp_path, capsys):
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    Image.new("RGB", (60, 60), (200, 30, 9)).save(deep / "photo.png")
    Image.new("L", (8, 9), 80).save(tmp_path / "new\nline\udcff.png")
    assert run(runs / "cnn", deep, tmp_path / "new\nline\udcff.png", "--top", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("…")
    assert lines[0].endswith("/photo.png")
    assert any(line.endswith(r"new\nline\xff.png") for line in lines)
    assert lines[-1] == "note: of 2 images 1 resized over 4x to 10x6, 1 grey in a colour model"


def test_csv_holds_the_ranks_and_all_probabilities(runs, digits, tmp_path, capsys):
    folder, raw = digits
    out = tmp_path / "out.csv"
    assert run(runs / "vit", folder, "--csv", out, "--top", 2, "--all") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 23 files"
    expected = softmax(trained.open_run(runs / "vit").logits(raw))
    rows = rows_of(out)
    assert list(rows[0])[:5] == ["file", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row["file"] for row in rows] == [str(folder / f"{i:02}.png") for i in range(23)]
    for row, shares in zip(rows, expected, strict=True):
        assert row["class_1"] == str(shares.argmax())
        assert float(row["probability_1"]) == pytest.approx(shares.max(), rel=1e-4)
        written = [float(row[f"p({name})"]) for name in "0123456789"]
        np.testing.assert_allclose(written, shares, rtol=1e-4)


def test_files_that_cannot_be_read_are_listed_and_the_others_predicted(runs, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 9), (200, 30, 9)).save(tmp_path / name)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "aa.png").write_bytes(whole[:45])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "without").write_bytes(whole)
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    assert run(runs / "cnn", tmp_path, "--csv", tmp_path / "out.csv", "--all") == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= max(80, len(str(tmp_path)) + 20)
    assert "note: left out: 1 x .txt" in lines
    assert "2 of 5 files cannot be read:" in lines
    rows = {Path(row["file"]).name: row for row in rows_of(tmp_path / "out.csv")}
    assert list(rows) == ["a.png", "b.png", "without", "aa.png", "gone.jpg"]
    assert rows["aa.png"]["error"].startswith("damaged or cut short: ")
    assert rows["gone.jpg"]["error"] == "cannot be opened: No such file or directory"
    assert not any(rows["aa.png"][key] for key in rows["aa.png"] if key not in ("file", "error"))
    assert rows["without"]["class_1"] == rows["a.png"]["class_1"] in ANIMALS
    assert rows["a.png"]["error"] == ""


def test_more_classes_than_there_are_means_all(runs, digits, tmp_path):
    assert run(runs / "cnn", runs / "pets", "--csv", tmp_path / "out.csv", "--top", 99) == 0
    rows = rows_of(tmp_path / "out.csv")
    assert len(rows) == 12
    for row in rows:
        assert sorted(row[f"class_{rank}"] for rank in (1, 2, 3)) == list(ANIMALS)
        shares = [float(row[f"probability_{rank}"]) for rank in (1, 2, 3)]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert len(row) == 8
        assert row["error"] == ""


def test_mirrors_are_warned_of_where_the_recipe_has_none(runs, digits, capsys):
    assert run(runs / "vit", digits[0] / "00.png", "--tta", "flip") == 0
    assert "note: this recipe trains on no mirror images" in capsys.readouterr().out
    assert run(runs / "cnn", runs / "pets", "--tta", "flip,crops") == 0
    assert "note" not in capsys.readouterr().out


def test_colour_for_a_grey_model_is_noted_in_one_line(runs, tmp_path, capsys):
    for i in range(3):
        Image.new("RGBA", (200, 90), (250, 30, 9, 255 - i)).save(tmp_path / f"{i}.png")
    assert run(runs / "vit", tmp_path) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert notes == [
        "note: of 3 images 3 resized over 4x to 8x8, 3 colour read as grey, 2 transparent"
    ]
    assert len(notes[0]) <= 80


def test_as_a_user_runs_it(runs, digits):
    out = subprocess.run(
        [sys.executable, "-m", "jax_train", "predict", runs / "vit", digits[0]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"COLUMNS": "80"},
    )
    assert (out.returncode, out.stderr) == (0, "")
    assert len(out.stdout.splitlines()) == 46
    assert max(map(len, out.stdout.splitlines())) <= 80


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom jax_train.__main__ import main\n"
        "try:\n    main(['predict', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('jax', 'numpy', 'PIL') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--tta" in out.stdout
    assert out.stdout.splitlines()[-1] == "[]"


# Mistakes


def test_wrong_arguments_get_one_paragraph(runs, digits, tmp_path, capsys):
    vit, image, out = runs / "vit", digits[0] / "00.png", tmp_path / "out.csv"
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(image.read_bytes()[:60])
    for arguments, words in (
        ([vit, tmp_path / "none.png"], "none.png: there is no such file"),
        ([vit, tmp_path / "empty"], "No image in the folder"),
        ([vit, tmp_path / "bad.png"], "bad.png (damaged or cut short"),
        ([tmp_path / "empty", image], "is no run folder"),
        ([vit, image, "--top", 0], "--top 0"),
        ([vit, image, "--top", "many"], "invalid int value: 'many'"),
        ([vit, image, "--tta", "flop"], "'flop' is none of flip, crops, airbench"),
        ([vit, image, "--all"], "give --csv FILE"),
        ([vit, image, "--csv", tmp_path], "is a folder"),
        ([vit, image, "--csv", tmp_path / "none" / "out.csv"], "none does not exist"),
        ([vit], "the following arguments are required: IMAGE"),
    ):
        more = [] if "--csv" in arguments or "--all" in arguments else ["--csv", out]
        check_refusal(capsys, run(*arguments, *more), words)
    assert not out.exists()


def test_a_run_without_checkpoint_is_refused(runs, digits, tmp_path, capsys):
    shutil.copy(runs / "vit" / "config.json", tmp_path)
    check_refusal(capsys, run(tmp_path, digits[0]), "holds no checkpoint yet")


def test_an_existing_file_is_replaced_only_when_told(runs, digits, tmp_path, capsys, monkeypatch):
    out, image = tmp_path / "out.csv", digits[0] / "00.png"
    out.write_text("older")
    arguments = [runs / "vit", image, "--csv", out]
    check_refusal(capsys, run(*arguments), "exists already; give --overwrite")
    assert out.read_text() == "older"

    def fail(*_):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        check_refusal(capsys, run(*arguments, "--overwrite"), "No space left")
    assert out.read_text() == "older"
    assert run(*arguments, "--overwrite") == 0
    assert len(rows_of(out)) == 1
