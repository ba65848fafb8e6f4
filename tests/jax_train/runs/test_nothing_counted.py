"""Where nothing was counted there is no figure: a dash in text, null in JSON, empty in CSV."""

import csv
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jax_train import __main__, files
from jax_train.engine import metrics, steps
from jax_train.printing import figure
from jax_train.runs import checkpoint
from jax_train.runs.history import read_history
from jax_train.runs.results import summary
from jax_train.several import learning_table
from jax_train.train import train
from tests import tiny


def strict(path):
    """A JSON file as readers have it that know no NaN."""

    def refuse(word):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(), parse_constant=refuse)


def all_json(folder):
    found = [path for path in folder.rglob("*") if path.suffix == ".json"]
    found += folder.rglob("metadata")
    found += [path for path in folder.rglob("metrics") if path.is_file()]
    for path in found:
        strict(path)
    return len(found)


@pytest.fixture(scope="module")
def skipped(tmp_path_factory):
    """A run whose steps were all skipped."""
    folder = tmp_path_factory.mktemp("runs") / "skipped"
    config = tiny.config(**{"train.on_nonfinite": "skip", "train.epochs": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "cross_entropy", lambda logits, *_: logits.sum(-1) * jnp.nan)
        return folder, train(config, folder)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A run whose logits are numbers in its first validation only."""
    folder = tmp_path_factory.mktemp("runs") / "broken"
    logits = steps.logits

    def sometimes(model, params, stats, images):
        out = logits(model, params, stats, images)
        moved = jnp.abs(params["pos_embed"]).max() > 1e20
        return jnp.where(moved, jnp.nan, out)

    change = {"optim.name": "sgd", "optim.learning_rate": 1e30, "train.on_nonfinite": "skip"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "logits", sometimes)
        return folder, train(tiny.config(**change, **{"train.epochs": 2}), folder)


def rows(folder, split):
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


def test_a_run_that_skipped_every_step_gives_no_training_figure(skipped, capsys):
    folder, results = skipped
    assert rows(folder, "train") == []
    assert all_json(folder) >= 4
    assert results["train_images_per_sec"] is None or results["train_images_per_sec"] > 0
    assert math.isnan(read_history(folder).last_train_loss)
    assert "–" in learning_table({"skipped": folder})
    summary(results, folder)
    assert __main__.main(["report", str(folder)]) == 0


def test_the_line_of_an_epoch_has_a_dash_where_nothing_was_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(metrics, "cross_entropy", lambda logits, *_: logits.sum(-1) * jnp.nan)
    change = {"train.on_nonfinite": "skip", "train.epochs": 1, "checkpoint.report": "last"}
    results = train(tiny.config(**change), tmp_path / "run")
    out = capsys.readouterr().out
    assert "train loss – top-1      –   val loss – top-1      –" in out
    assert "0.0000" not in out
    assert results["val"]["loss"] is None
    assert results["val"]["top1"] is None
    assert strict(tmp_path / "run/results.json") == results
    (val,) = rows(tmp_path / "run", "val")
    assert val["loss"] == val["top1"] == val["f1_macro"] == ""
    text = summary(results, tmp_path / "run")
    assert "test:       top-1       –   top-5       –   loss –   60 images" in text
    assert "nan" not in text


def test_a_validation_that_is_no_number_is_never_the_best(broken):
    folder, results = broken
    assert results["reported_weights"] == "last"
    assert results["val"] == dict.fromkeys(metrics.FIGURES)
    assert all(row["top1"] == "" for row in rows(folder, "val"))
    assert all_json(folder) >= 4
    assert len(read_history(folder).val) == 0


def test_a_better_number_stays_the_best_after_it(tmp_path, monkeypatch):
    sums = iter([0.2, math.nan, 0.1])
    figures = metrics.reported_figures

    def planned(found):
        loss = next(sums, 0.3)
        return figures(found._replace(loss=np.float32(loss * np.asarray(found.confusion).sum())))

    monkeypatch.setattr(metrics, "reported_figures", planned)
    results = train(tiny.config(), tmp_path / "run")
    assert results["reported_weights"] == "best"
    assert results["reported_epoch"] in (1, 3)
    assert results["val"]["loss"] is not None


def test_old_checkpoints_with_nan_are_neither_damaged_nor_best():
    assert checkpoint.rank({"loss": math.nan, "top1": 0.9}) < checkpoint.rank(
        {"loss": 2.0, "top1": 0.0}
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), None])
def test_what_is_no_number_is_null_and_a_dash(value):
    assert files.json_text({"a": [value, (1.5, value)]}) == '{"a": [null, [1.5, null]]}'
    assert figure(value, "7.2%") == "      –"
    assert figure(value, ".4f") == "–"
    assert figure(0.5, "7.2%") == " 50.00%"


def test_figures_of_nothing_are_no_numbers():
    assert all(map(math.isnan, metrics.train_figures(metrics.add_up([])).values()))
    sums = metrics.EvalSums(np.float32("nan"), np.eye(3, dtype=int), 3)
    assert list(metrics.reported_figures(sums)) == list(metrics.FIGURES)
    assert all(map(math.isnan, metrics.reported_figures(sums).values()))
