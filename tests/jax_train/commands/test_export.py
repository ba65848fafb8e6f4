"""`python -m jax_train export`: files and folders that others run, or one paragraph and nothing."""

import dataclasses
import shutil

import numpy as np
import pytest

import jax_models
from jax_train import __main__
from jax_train.export import check
from jax_train.runs import trained
from jax_train.train import train
from tests import tiny
from tests.jax_train.commands.refusals import check_refusal

pytestmark = pytest.mark.xdist_group("export")  # one run for all
PACKAGES = {"model.onnx": "jax2onnx", "model.stablehlo": "flatbuffers"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a ViT that timm and transformers have."""
    folder = tmp_path_factory.mktemp("export") / "run"
    sizes = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    changes = {f"model.{key}": value for key, value in sizes.items()}
    config = tiny.config(**{"train.epochs": 1})
    config.model.name = "vit_tiny_patch16_224"
    config.update_from_flattened_dict(changes)
    train(config, folder)
    return folder


def export(run, target, *arguments):
    return __main__.main(["export", str(run), "--to", str(target), *arguments])


@pytest.mark.parametrize("name", PACKAGES)
def test_a_run_becomes_a_file(name, run, tmp_path, capsys):
    pytest.importorskip(PACKAGES[name])
    assert export(run, tmp_path / name, "--uint8", "--features") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / name}: vit_tiny_patch16_224 of {run}"
    assert lines[1:4] == [
        "  images: uint8 [batch, 8, 8, 1]",
        "  logits: float32 [batch, 10]",
        "  features: float32 [batch, 8]",
    ]
    told = " ".join(lines[4:])
    assert "60 of 60 images given the same class" in told
    assert "test[:60] of digits" in told
    assert all(len(line) <= 80 for line in lines[1:])


@pytest.mark.parametrize("format", ["huggingface", "timm"])
def test_a_run_becomes_a_folder(format, run, tmp_path, capsys):
    target = tmp_path / "model"
    assert export(run, target, "--format", format) == 0
    assert "60 of 60 images given the same class" in " ".join(capsys.readouterr().out.split())
    loaded, model = jax_models.load_pretrained(target), trained.open_run(run)
    pixels = check.choose_images(model).pixels
    logits = loaded.model(loaded.preprocessing(pixels))
    np.testing.assert_allclose(logits, model.logits(pixels), atol=1e-5)
    assert loaded.class_names == model.class_names
    card = (target / "README.md").read_text()
    assert f"{model.results['test']['top1']:.2%}" in card
    assert "Trained on digits by jax-vit-cnn, 1 epoch;" in card
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert export(run, target, "--format", format) == 2
    check_refusal(capsys, 2, "exists already", "never replaced")


@pytest.mark.parametrize("format", ["huggingface", "timm"])
def test_a_pretrained_model_becomes_a_folder_with_its_own_preprocessing(format, tmp_path, capsys):
    from tests.jax_models.pretrained import folders

    folders.timm(tmp_path / "vit", crop_pct=0.8)
    assert export(tmp_path / "vit", tmp_path / "model", "--format", format) == 0
    before, after = map(jax_models.load_pretrained, (tmp_path / "vit", tmp_path / "model"))
    assert dataclasses.replace(after.preprocessing, rounds_up=True) == before.preprocessing
    assert before.preprocessing.resize == 40
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found, wanted = (one.model(before.preprocessing(images)) for one in (after, before))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


REFUSED = {
    "unknown ending": ("model.pb", [], ["'.pb' is none of .onnx, .stablehlo", "--format"]),
    "no folder": ("none/model.stablehlo", [], ["none does not exist"]),
    "which library": ("model", [], ["--format huggingface or timm"]),
    "a file of a library": ("model.onnx", ["--format", "timm"], ["timm is for a folder"]),
    "no library": ("model", ["--format", "keras"], ["--format", "huggingface"]),
    "a folder computes nothing": ("model", ["--uint8"], ["--uint8 is for .onnx and .stablehlo"]),
    "images of a run": ("model.stablehlo", ["--img_size", "16"], ["--img_size 16"]),
    "unknown data": ("model.stablehlo", ["--data", "folder:/none"], ["/none"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case, run, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    name, arguments, words = REFUSED[case]
    check_refusal(capsys, export(run, tmp_path / name, *arguments), *words)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_only_when_told(run, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    for name in ("model.stablehlo", "model.stablehlo.json"):
        (tmp_path / name).write_text("older")
        code = export(run, tmp_path / "model.stablehlo")
        check_refusal(capsys, code, f"{name} exists already", "--overwrite")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", [*PACKAGES, "model"])
def test_a_failed_write_leaves_nothing(name, run, tmp_path, capsys, monkeypatch):
    pytest.importorskip(PACKAGES.get(name, "jax"))

    def fail(*_, **__):
        raise OSError("No space left on device")

    for where in ("os.replace", "pathlib.Path.rename"):
        monkeypatch.setattr(where, fail)
    arguments = [] if name in PACKAGES else ["--format", "timm"]
    code = export(run, tmp_path / name, *arguments)
    check_refusal(capsys, code, f"{name} cannot be written", "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_missing_is_named(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jax2onnx", None)
    code = export(run, tmp_path / "model.onnx")
    check_refusal(capsys, code, "package jax2onnx", "pip install 'jax-vit-cnn[onnx]'")


def test_a_damaged_checkpoint_is_refused(run, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    for file in (damaged / "checkpoints").rglob("*"):
        if file.is_file() and "d" in file.parts:
            content = file.read_bytes()
            file.write_bytes(content[:-9] + bytes(9))
    code = export(damaged, tmp_path / "model.stablehlo")
    check_refusal(capsys, code, "The checkpoint of step 4", "is damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_without_its_data_a_run_is_compared_on_random_images(run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("flatbuffers")
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    text = (moved / "data.json").read_text()
    (moved / "data.json").write_text(text.replace('"digits"', '"folder:/none"'))
    config = (moved / "config.json").read_text()
    (moved / "config.json").write_text(config.replace('"digits"', '"folder:/none"'))
    assert export(moved, tmp_path / "model.stablehlo") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "compared on random images" in said
    assert "note: compared on random images: " in said


def test_a_model_without_attention_has_none_to_give(tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    from tests.jax_models.pretrained import folders

    folders.timm(tmp_path / "cnn", "resnet18")
    code = export(tmp_path / "cnn", tmp_path / "model.stablehlo", "--attention")
    check_refusal(capsys, code, "--attention: resnet18 has none")
    code = export(tmp_path / "cnn", tmp_path / "model.stablehlo", "--data", "digits")
    check_refusal(capsys, code, "has no data of its own")
