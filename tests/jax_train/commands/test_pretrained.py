"""Commands that take a pretrained model where they take a run."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jax_models import load_pretrained, torch_weights
from jax_train import __main__
from tests.jax_models.pretrained import folders
from tests.jax_train.commands.refusals import check_refusal

pytestmark = pytest.mark.xdist_group("pretrained")  # what is compiled for one serves the others


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A ViT in a folder of transformers, and two photos."""
    root = tmp_path_factory.mktemp("pretrained")
    folders.hugging_face(root / "vit")
    random = np.random.default_rng(0)
    for name, size in (("a", (50, 70)), ("b", (33, 20))):
        pixels = random.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
    return root


def _run(*arguments):
    return __main__.main([str(argument) for argument in arguments])


def test_predict_says_what_the_model_says(source, tmp_path, capsys):
    files = source / "a.png", source / "b.png"
    table = tmp_path / "said.csv"
    assert _run("predict", source / "vit", *files, "--top", 2, "--csv", table, "--all") == 0
    loaded = load_pretrained(source / "vit")
    logits = np.asarray(loaded.model(loaded.preprocessing(files)))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    said = capsys.readouterr().out
    for row in shares:
        assert f"{folders.NAMES[row.argmax()]} {row.max():6.1%}" in said
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    first = header.index("p(kind 0)")
    found = np.array([row[first : first + folders.CLASSES] for row in rows], np.float64)
    np.testing.assert_allclose(found, shares, atol=1e-5)
    assert all(len(line) <= 80 for line in said.splitlines() if str(table) not in line)


def test_explain_draws_beside_the_working_folder(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted((source / "vit").iterdir())
    assert _run("explain", source / "vit", source / "a.png") == 0
    pictures = list((tmp_path / "explain").rglob("*.png"))
    assert any("attention" in picture.name for picture in pictures)
    assert sorted((source / "vit").iterdir()) == before
    assert "explain" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["timm", "torchvision", "huggingface"])
def test_convert_writes_the_names_of_a_library(layout, source, tmp_path, capsys):
    target = tmp_path / "out.safetensors"
    assert _run("convert", "--from", source / "vit", "--to", target, "--layout", layout) == 0
    assert "vit" in capsys.readouterr().out
    model = load_pretrained(source / "vit").model
    expected, found = torch_weights.export(model, layout), load_file(target)
    assert found.keys() == expected.keys()
    assert all(found[name].tobytes() == expected[name].tobytes() for name in found)


def test_a_file_needs_the_name_of_its_model(source, tmp_path, capsys):
    path = tmp_path / "weights.safetensors"
    torch_weights.save_safetensors(folders.build("resnet18", widths=(8, 12, 20, 28)), path)
    check_refusal(capsys, _run("predict", path, source / "a.png"), "--model")


_CONVERT = ("convert", "--from", "{source}/vit", "--to", "{to}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "{source}/vit", "{source}/a.png", "--data", "digits"], ["has no data"]),
        (["explain", "{source}/vit"], ["has no data of its own", "image files"]),
        (["explain", "{source}/vit", "--split", "train"], ["has no data of its own"]),
        (["predict", "{source}/nowhere", "{source}/a.png", "--model", "vit"], ["--model vit"]),
        (
            ["convert", "--from", "{source}/vit", "--to", "{to}", "--model", "vit"],
            ["leave --model"],
        ),
        (["convert", "--from", "{source}/vit", "--to", "{to}", "--layout", "keras"], ["'keras'"]),
    ],
)
def test_wrong_arguments_get_one_paragraph(arguments, words, source, tmp_path, capsys):
    places = {"source": source, "to": tmp_path / "out.pt"}
    code = _run(*(argument.format(**places) for argument in arguments))
    check_refusal(capsys, code, *words)
    assert not list(tmp_path.iterdir())


def test_a_source_that_cannot_be_loaded_gets_one_paragraph(source, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    for command in (["predict"], ["explain"]):
        code = _run(*command, tmp_path, source / "a.png")
        check_refusal(capsys, code, "bert")
    code = _run("convert", "--from", tmp_path, "--to", tmp_path / "out.pt")
    check_refusal(capsys, code, "bert")
