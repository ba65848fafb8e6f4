"""Commands that take a pretrained model where they take a run."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jax_models import load_pretrained, torch_weights
from jax_train import __main__, data
from jax_train.analysis.evaluation import evaluate
from jax_train.runs import pretrained
from tests.jax_models.pretrained import folders
from tests.jax_train.commands.refusals import check_refusal

pytestmark = pytest.mark.xdist_group("pretrained")  # what is compiled for one serves the others


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A ViT in a folder of transformers, what looks like a run, and two photos."""
    root = tmp_path_factory.mktemp("pretrained")
    folders.hugging_face(root / "vit")
    (root / "run").mkdir()
    (root / "run" / "config.json").write_text("{}")
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


def test_images_of_another_size_than_the_sources(source, tmp_path, capsys):
    photo, sized = source / "a.png", ("--img_size", 48)
    table, features, weights = (tmp_path / name for name in ("a.csv", "a.npz", "a.safetensors"))
    assert _run("predict", source / "vit", photo, *sized, "--csv", table, "--all") == 0
    assert "resized from 4x4 to 6x6 patches" in " ".join(capsys.readouterr().out.split())
    assert _run("features", source / "vit", photo, *sized, "--to", features) == 0
    loaded = load_pretrained(source / "vit", img_size=48)
    images = loaded.preprocessing([photo])
    assert images.shape[1] == 48
    logits = np.asarray(loaded.model(images))[0]
    header, row = (line.split(",") for line in table.read_text().splitlines())
    first = header.index("p(kind 0)")
    found = np.array(row[first : first + folders.CLASSES], np.float64)
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    with np.load(features) as file:
        np.testing.assert_allclose(
            file["features"], loaded.model.pooled_features(images), atol=1e-5
        )
    expected = torch_weights.export(loaded.model)
    given = [f"--set={key}={value}" for key, value in folders.VIT.items() if key != "img_size"]
    file = source / "vit" / "model.safetensors", "--model", "vit_tiny_patch16_224", *given
    for place in ([source / "vit"], file):
        assert _run("convert", "--from", *place, "--to", weights, *sized, "--overwrite") == 0
        found = load_file(weights)
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == expected[name].tobytes() for name in found)


def test_explain_draws_beside_the_working_folder(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted((source / "vit").iterdir())
    assert _run("explain", source / "vit", source / "a.png") == 0
    pictures = list((tmp_path / "explain").rglob("*.png"))
    assert any("attention" in picture.name for picture in pictures)
    assert sorted((source / "vit").iterdir()) == before
    assert "explain" in capsys.readouterr().out


# Figures on a data set


KINDS = {"kind 5": 5, "Kind_1": 1, "kind 3": 3}  # as its folders are called -> class of the model


@pytest.fixture(scope="module")
def photos(source):
    """A folder of images of several sizes, of some of the classes, and (class, file) of each."""
    random, found = np.random.default_rng(1), []
    for i in range(4):
        for name, number in KINDS.items():
            path = source / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = random.integers(20, 60, 2)
            Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(path)
            found.append((number, path))
    return source / "photos", found


def _log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("subset", [False, True])
def test_the_figures_on_a_data_set_are_those_by_hand(subset, source, photos):
    folder, truth = photos
    run, examples = pretrained.open_source(source / "vit").on(f"folder:{folder}", subset=subset)
    found = evaluate(run, examples)
    loaded = load_pretrained(source / "vit")
    labels, files = zip(*truth, strict=True)
    logits = np.asarray(loaded.model(loaded.preprocessing(files)), np.float64)
    if subset:
        order = sorted(KINDS, key=str)
        logits = logits[:, [KINDS[name] for name in order]]
        labels = [[KINDS[name] for name in order].index(label) for label in labels]
        assert found.class_names == tuple(order)
    else:
        assert found.class_names == tuple(folders.NAMES)
    confusion = np.zeros(2 * [logits.shape[1]], int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    np.testing.assert_array_equal(found.confusion, confusion)
    losses = -_log_softmax(logits)[range(len(labels)), labels]
    ranks = (logits > logits[range(len(labels)), labels][:, None]).sum(axis=1)
    assert found.figures["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert found.figures["top1"] == pytest.approx((ranks == 0).mean())
    assert found.figures["top5"] == pytest.approx((ranks < 5).mean())


def test_evaluate_tells_the_figures_of_a_pretrained_model(source, photos, tmp_path, capsys):
    table = tmp_path / "classes.csv"
    command = "evaluate", source / "vit", "--data", f"folder:{photos[0]}", "--csv", table
    assert _run(*command) == 0
    said = capsys.readouterr().out
    words = " ".join(said.split())
    assert "12 images" in words
    assert "chooses among all its 7 classes, of which the data have 3" in words
    assert "4 of 7 classes have no image" in words
    assert "not finished" not in words
    assert [line.split(",")[1] for line in table.read_text().splitlines()[1:]] == [
        "4" if k in KINDS.values() else "0" for k in range(7)
    ]
    assert all(len(line) <= 80 for line in said.splitlines() if str(table) not in line)
    assert _run(*command[:4], "--classes", "subset", "--split", "train[:6]") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "6 images" in words
    assert "chooses among" not in words


def test_images_of_one_size_are_brought_to_the_models(tmp_path):
    """Grey digits of 8x8 pixels, for a model of 32x32 in colour whose source names no classes."""
    folders.timm(tmp_path, num_classes=10)
    run, examples = pretrained.open_source(tmp_path).on("digits", split="test[:9]")
    found = evaluate(run, examples)
    raw, loaded = data.load("digits", "test[:9]"), load_pretrained(tmp_path)
    colour = [Image.fromarray(image[..., 0]).convert("RGB") for image in raw.images]
    steps = loaded.preprocessing
    logits = loaded.model(steps.normalise(np.stack([steps.fit(image) for image in colour])))
    np.testing.assert_array_equal(found.predictions, np.asarray(logits).argmax(axis=1))
    np.testing.assert_array_equal(found.labels, raw.labels)
    assert any("does not name its classes" in note for note in examples.notes)


def test_a_model_without_a_head_is_no_classifier(source, tmp_path, capsys):
    folders.timm(tmp_path / "bare", "resnet18", num_classes=0)
    for command in (
        ["predict", tmp_path / "bare", source / "a.png"],
        ["explain", tmp_path / "bare"],
    ):
        check_refusal(capsys, _run(*command), "without a head", "num_classes=K")
    target = tmp_path / "out.safetensors"
    assert _run("convert", "--from", tmp_path / "bare", "--to", target) == 0
    assert "fc.weight" not in load_file(target)


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
_TAKE_A_SOURCE = (
    _CONVERT,
    ("predict", "{source}/vit", "{source}/a.png"),
    ("explain", "{source}/vit", "{source}/a.png"),
    ("features", "{source}/vit", "{source}/a.png", "--to", "{to}.npz"),
    ("evaluate", "{source}/vit", "--data", "digits"),
    ("evaluate", "{source}/vit", "--data", "digits", "--linear"),
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "{source}/vit", "{source}/a.png", "--data", "digits"], ["has no data"]),
        (["explain", "{source}/vit"], ["has no data of its own", "image files"]),
        (["explain", "{source}/vit", "--split", "train"], ["has no data of its own"]),
        (["predict", "{source}/nowhere", "{source}/a.png", "--model", "vit"], ["--model vit"]),
        (["evaluate", "{source}/vit"], ["has no data of its own", "--data folder:PATH"]),
        (["evaluate", "{source}/vit", "--data", "digits"], ["No class of digits is one of"]),
        (["evaluate", "{source}/vit", "--data", "folder:{source}/none"], ["--data is", "none"]),
        (["evaluate", "{source}/none", "--classes", "all"], ["--classes all", "is none"]),
        (
            ["convert", "--from", "{source}/vit", "--to", "{to}", "--model", "vit"],
            ["leave --model"],
        ),
        (["convert", "--from", "{source}/vit", "--to", "{to}", "--layout", "keras"], ["'keras'"]),
        *(
            (
                [*command, "--img_size", "50"],
                ["--img_size 50: expected a multiple of 8", "48 or 56"],
            )
            for command in _TAKE_A_SOURCE
        ),
        ([*_CONVERT, "--img_size", "-3"], ["--img_size -3: expected a multiple of 8", "8 or 16"]),
        *(
            (
                [word.replace("/vit", "/run") for word in (*command, "--img_size", "48")],
                ["--img_size 48:", "/run is a run folder", "init_from="],
            )
            for command in _TAKE_A_SOURCE
        ),
        (
            ["evaluate", "--knn", "a.npz", "b.npz", "--img_size", "48"],
            ["--img_size 48 is for the images", "b.npz holds features"],
        ),
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
