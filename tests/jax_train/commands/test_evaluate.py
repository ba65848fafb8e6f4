"""`python -m jax_train evaluate`: the figures training reported, and figures of any other split."""

import csv
import json
import math
import shutil
import weakref

import numpy as np
import pytest
from PIL import Image

from jax_train import __main__, data
from jax_train.analysis import evaluation, feature_files
from jax_train.commands import evaluate
from jax_train.data import StreamedDataset
from jax_train.engine import metrics
from jax_train.errors import UserError
from jax_train.runs import trained
from jax_train.train import train
from tests import tiny
from tests.jax_train.commands.refusals import check_refusal

pytestmark = pytest.mark.xdist_group("evaluate")  # its runs are trained once


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Run folders by model."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_VIT_CNN_CACHE", str(root / "cache"))
        for model in ("vit", "simple_cnn"):
            train(tiny.config(model, **tiny.EVALUATED), root / model)
        yield {model: root / model for model in ("vit", "simple_cnn")}


@pytest.fixture(scope="module", params=["vit", "simple_cnn"])
def opened(request, folders):
    """A run, opened."""
    return trained.open_run(folders[request.param])


def run(*arguments):
    """Run the command in this process; return its exit code."""
    return __main__.main(["evaluate", *map(str, arguments)])


def evaluation_of(confusion, names=None, confidences=None):
    """An Evaluation with this confusion matrix."""
    confusion = np.asarray(confusion)
    cells = [(i, j) for (i, j), n in np.ndenumerate(confusion) for _ in range(n)]
    labels, predictions = np.int32(cells).T
    if confidences is None:
        confidences = np.full(len(cells), 0.7, np.float32)
    return evaluation.Evaluation(
        data="some",
        split="test",
        tta=(),
        labels=labels,
        predictions=predictions,
        class_names=tuple(names or map(str, range(len(confusion)))),
        confidences=confidences,
        true_probabilities=confidences,
        seconds=2.0,
        sums=metrics.EvalSums(np.float32(3), confusion, np.int32(len(cells))),
    )


# Figures


def test_the_figures_of_the_test_split_are_those_of_the_run(opened):
    found = evaluation.evaluate(opened, opened.config.data.test_split)
    assert found.figures == opened.results["test"]
    confusion = (opened.folder / "confusion.csv").read_text().splitlines()[1:]
    written = [[int(n) for n in line.split(",")[1:]] for line in confusion]
    np.testing.assert_array_equal(found.confusion, written)


def test_each_image_has_its_prediction_and_probabilities(opened):
    split = data.load_split(opened.config, "train[100:160]")
    found = evaluation.evaluate(opened, "train[100:160]")
    logits = opened.logits(split.images).astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(found.labels, split.labels)
    np.testing.assert_array_equal(found.predictions, logits.argmax(axis=1))
    np.testing.assert_allclose(found.confidences, shares.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        found.true_probabilities, shares[np.arange(60), split.labels], rtol=1e-4
    )
    assert found.figures["loss"] == pytest.approx(-np.log(found.true_probabilities).mean(), 1e-4)
    assert (found.confidences.dtype, found.predictions.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("tta", [(), ("flip", "crops")])
def test_data_that_streams_gives_the_same_and_is_not_kept(tta, folders, monkeypatch):
    opened = trained.open_run(folders["simple_cnn"])
    streamed = data.load("digits", "test", memory_limit=0.0)
    assert isinstance(streamed, StreamedDataset)
    alive, most = weakref.WeakSet(), []
    batches = StreamedDataset.batches

    class Counted(np.ndarray):
        __hash__ = object.__hash__

    def watched(self, order):
        for images, labels in batches(self, order):
            images = images.view(Counted)
            alive.add(images)
            most.append(len(alive))
            yield images, labels

    monkeypatch.setattr(StreamedDataset, "batches", watched)
    found = evaluation.evaluate(opened, streamed, tta)
    expected = evaluation.evaluate(opened, "test", tta)
    assert found.figures == expected.figures
    np.testing.assert_array_equal(found.confidences, expected.confidences)
    assert len(most) == 15
    assert max(most) <= 3


def test_augmented_figures_are_those_of_the_mean_probabilities(opened):
    split = data.load_split(opened.config, "test[:61]")
    views = [split.images, split.images[:, :, ::-1]]
    logits = [opened.logits(view).astype(np.float64) for view in views]
    shares = np.mean([np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in logits], axis=0)
    found = evaluation.evaluate(opened, "test[:61]", ("flip",))
    true = shares[np.arange(61), split.labels]
    assert found.figures["loss"] == pytest.approx(-np.log(true).mean(), rel=1e-5)
    assert found.figures["top1"] == (shares.argmax(axis=1) == split.labels).mean()
    ahead = (shares > true[:, None]).sum(axis=1)
    assert found.figures["top5"] == (ahead < 5).mean()
    np.testing.assert_allclose(found.confidences, shares.max(axis=1), rtol=1e-4)


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (353, 360), (1, 2), (49, 61)])
def test_the_interval_is_wilsons(right, count):
    """Its ends are the shares from which the one observed is 1.96 standard errors away."""
    low, high = evaluation_of([[right, count - right], [0, 0]]).top1_interval
    assert (low == 0, high == 1) == (right == 0, right == count)
    for end in {low, high} - {0, 1}:
        error = math.sqrt(end * (1 - end) / count)
        assert abs(right / count - end) == pytest.approx(1.959963984540054 * error, abs=1e-12)


def test_the_calibration_error_is_that_of_the_definition():
    random = np.random.default_rng(0)
    confidences = random.uniform(0.1, 1, 997).astype(np.float32)
    confidences[:2] = 1.0, 0.2  # on the edges 15/15 and 3/15
    right = random.uniform(size=997) < confidences**2
    error = 0
    for m in range(1, 16):
        inside = (confidences > np.float64(m - 1) / 15) & (confidences <= np.float64(m) / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidences[inside].astype(float).mean())
            error += inside.mean() * gap
    assert evaluation.calibration_error(confidences, right) == pytest.approx(error, rel=1e-6)
    assert evaluation.calibration_error(np.float32([1, 1]), np.array([True, True])) == 0
    assert math.isnan(evaluation.calibration_error(np.float32([np.nan, 1]), right[:2]))


def test_figures_by_class():
    found = evaluation_of([[3, 2, 0, 0], [1, 5, 4, 0], [0, 0, 0, 0], [7, 0, 1, 2]])
    by_class = found.by_class
    np.testing.assert_array_equal(by_class["images"], [5, 10, 0, 10])
    np.testing.assert_allclose(by_class["recall"], [3 / 5, 5 / 10, np.nan, 2 / 10])
    np.testing.assert_allclose(by_class["precision"], [3 / 11, 5 / 7, np.nan, 1])
    np.testing.assert_allclose(by_class["f1"], [6 / 16, 10 / 17, np.nan, 4 / 12])
    wrong, often = found.most_confused
    np.testing.assert_array_equal(often, [2, 4, 0, 7])
    np.testing.assert_array_equal(wrong[[0, 1, 3]], [1, 2, 0])
    for name in ("precision", "recall", "f1"):
        assert found.figures[f"{name}_macro"] == pytest.approx(by_class[name][[0, 1, 3]].mean())


# What is printed and written


def test_the_report(folders, tmp_path, capsys):
    assert run(folders["vit"], "--csv", tmp_path / "classes.csv") == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert text.splitlines()[-1] == f"{tmp_path / 'classes.csv'}: 10 classes"
    test = json.loads((folders["vit"] / "results.json").read_text())["test"]
    assert f"top-1              {test['top1']:7.2%}   95 % interval" in text
    assert f"top-5              {test['top5']:7.2%}\n" in text
    assert "test[:61]: 61 images" in text
    assert "note" not in text
    with open(tmp_path / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list("0123456789")
    assert sum(int(row["images"]) for row in rows) == 61
    f1 = [float(row["f1"]) for row in rows]
    assert np.mean(f1) == pytest.approx(test["f1_macro"], rel=1e-4)
    assert all(row["most_often_taken_for"] != row["class"] for row in rows)


def test_many_classes_with_long_names_fit_80_columns():
    random = np.random.default_rng(3)
    names = [f"{i} {'very ' * 12}long" for i in range(43)]
    found = evaluation_of(random.integers(0, 3000, (43, 43)) // 2900 * 2000 + 1, names)
    lines = evaluate.report([], found).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("very" in line for line in lines) == 20
    f1 = [float(line.split("%")[2]) for line in lines if "very" in line]
    assert f1 == sorted(f1)


def test_classes_without_images_have_no_figures():
    found = evaluation_of([[5, 2, 0], [0, 0, 0], [1, 1, 6]], ["cat", "cow", "dog"])
    line = evaluate.report([], found).splitlines()[-2]
    assert line.split() == ["cow", "0", "–", "–", "–", "-"]
    note = "1 of 3 classes have no image: macro figures are of the others"
    assert evaluation.absent_classes(found) == [note]
    assert evaluation.absent_classes(evaluation_of(np.eye(3, dtype=int))) == []
    assert found.figures["recall_macro"] == pytest.approx((5 / 7 + 6 / 8) / 2)


def test_classes_taken_for_equally_often_are_counted():
    found = evaluation_of([[5, 2, 2, 0], [0, 6, 3, 0], [1, 1, 6, 1], [0, 0, 0, 4]], ["a", *"bcd"])
    lines = evaluate.report([], found).splitlines()[-4:]
    assert [line.split("%")[-1].strip() for line in lines] == [
        "b (2) and 1 more",
        "c (3)",
        "a (1) and 2 more",
        "-",
    ]


def test_of_five_classes_the_first_five_are_not_told():
    for classes in (2, 5, 6):
        text = evaluate.report([], evaluation_of(np.eye(classes, dtype=int)))
        assert ("top-5" in text) == (classes > 5)


def test_notes(folders, tmp_path, capsys):
    shutil.copytree(folders["vit"], tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    assert run(tmp_path / "run", "--split=train[290:]+test[:10]", "--tta=crops,flip") == 0
    text = capsys.readouterr().out
    assert "averaged over 10 views of each image (flip and crops)" in text
    assert "note: this recipe trains on no mirror images" in text
    assert "note: the run is not finished; these weights are of step 20" in text
    assert "note: 10 of these images are among the training images" in text
    assert max(map(len, text.splitlines())) <= 80
    few = "--train_split=train[:30]", "--split=test[:5]", "--k=3"
    assert run(tmp_path / "run", "--knn", *few) == 0
    assert "note: the run is not finished; these weights are of step 20" in capsys.readouterr().out


# Other data


def write_digits(folder, classes="0123456789", mode="L", count=40):
    split = data.load("digits", f"test[:{count}]")
    for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        place = folder / "test" / classes[label % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        wide = np.pad(image[:, :, 0], ((0, 0), (2, 2)), constant_values=99)  # is cropped again
        Image.fromarray(wide).convert(mode).save(place / f"{i}.png")
    shutil.copytree(folder / "test", folder / "train")
    return folder


def test_other_data_with_the_same_classes(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_VIT_CNN_CACHE", str(tmp_path / "cache"))
    folder = write_digits(tmp_path / "set")
    assert run(folders["simple_cnn"], "--data", f"folder:{folder}") == 0
    text = capsys.readouterr().out
    assert "test: 40 images" in text
    same = evaluation.evaluate(trained.open_run(folders["simple_cnn"]), "test[:40]")
    assert f"top-1              {same.figures['top1']:7.2%}" in text
    assert run(folders["simple_cnn"], "--data", "digits", "--split", "train[:7]") == 0
    assert "note: 7 of these images are among the training images" in capsys.readouterr().out


def test_other_classes_and_shapes_are_refused(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_VIT_CNN_CACHE", str(tmp_path / "cache"))
    pets = write_digits(tmp_path / "pets", ("cat", "dog"))
    code = run(folders["vit"], "--data", f"folder:{pets}")
    check_refusal(capsys, code, "cat, dog there, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 in the run")
    colour = write_digits(tmp_path / "colour", mode="RGB")
    code = run(folders["vit"], "--data", f"folder:{colour}")
    check_refusal(capsys, code, "(8, 8, 3) (height, width, channels)", "takes (8, 8, 1)")
    turned = data.load("digits", "test[:9]")
    turned = data.Dataset(**{**vars(turned), "class_names": turned.class_names[::-1]})
    with pytest.raises(UserError, match="another order"):
        evaluation.evaluate(trained.open_run(folders["vit"]), turned)


# Mistakes


def test_wrong_arguments_get_one_paragraph(folders, tmp_path, capsys):
    (tmp_path / "old.csv").touch()
    shutil.copy(folders["vit"] / "config.json", tmp_path)
    for arguments, words in (
        ([tmp_path / "none"], "is no run folder"),
        ([tmp_path], "holds no checkpoint yet"),
        ([folders["vit"], "--split", "tset"], "The split 'tset' of digits cannot be read"),
        ([folders["vit"], "--split", "test[400:]"], "Requested slice [400:360]"),
        ([folders["vit"], "--split", ""], "The split '' of digits is empty"),
        ([folders["vit"], "--tta", "flip,"], "'' is none of flip, crops, airbench"),
        ([folders["vit"], "--tta", "flip,airbench"], "airbench has views of its own"),
        ([folders["vit"], "--csv", tmp_path / "old.csv"], "exists already"),
        ([folders["vit"], "--data", "digitz"], "Did you mean"),
    ):
        check_refusal(capsys, run(*arguments), words)


# On features


def test_features_of_a_run_classify_its_own_splits(folders, tmp_path, capsys):
    to = tmp_path / "test.npz"
    run_folder = str(folders["vit"])
    assert __main__.main(["features", run_folder, "--split", "test[:61]", "--to", str(to)]) == 0
    opened, found = trained.open_run(run_folder), feature_files.read(to)
    head = opened.model.head(found.features, train=False, rngs=None)
    np.testing.assert_allclose(head, opened.logits(opened.split("test[:61]").images), atol=1e-5)
    np.testing.assert_array_equal(found.labels, opened.split("test[:61]").labels)
    assert found.names[17] == "test[:61] 17"
    capsys.readouterr()
    assert run(run_folder, "--knn", "--votes", "equal") == 0
    said = capsys.readouterr().out
    assert "20 nearest neighbours of 300 by cosine, votes equal" in said
    assert "test[:61] of digits" in said
    assert "61 images" in said


def test_other_images_of_another_shape_have_no_features(folders, cifar10, tmp_path, capsys):
    data = "--data", "cifar10", "--data_dir", cifar10.data_dir, "--split", "test"
    to = "--to", tmp_path / "a.npz"
    code = __main__.main(["features", *map(str, (folders["vit"], *data, *to))])
    check_refusal(capsys, code, "(32, 32, 3)", "(8, 8, 1)")
