"""Whole runs on a few digits: files, resuming, reported weights, refusals."""

import contextlib
import csv
import json
import os
import sys

import jax
import numpy as np
import pytest

from configs import folder as folder_recipe
from jax_train import data
from jax_train import train as loop
from jax_train.config.fields import to_json
from jax_train.data import load_splits
from jax_train.data.statistics import channel_statistics
from jax_train.engine.recipe import resolve
from jax_train.errors import UserError
from jax_train.runs import folder as run_folder
from jax_train.runs.history import COLUMNS, read_metrics
from jax_train.train import train
from tests import tiny
from tests.pictures import make


def final_weights(folder):
    """Bits of the last checkpoint, by leaf."""
    import orbax.checkpoint as ocp

    steps = (path for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    last = max(steps, key=lambda path: int(path.name))
    return [
        np.asarray(leaf)
        for leaf in jax.tree.leaves(ocp.StandardCheckpointer().restore(last.absolute() / "state"))
    ]


def rows(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    results = train(tiny.config(), folder)
    return folder, results


def test_run_folder_holds_what_the_readme_promises(finished):
    folder, results = finished
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.json",
        "data.json",
        "metrics.csv",
        "results.json",
        "checkpoints",
        "curves.png",
        "confusion.csv",
    }
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "results.json").read_text()) == results
    config = json.loads((folder / "config.json").read_text())
    assert config["model"]["img_size"] == 8
    assert config["model"]["num_classes"] == 10
    assert 0.2 < config["data"]["mean"][0] < 0.4


def test_results_say_what_was_measured(finished):
    _, results = finished
    assert results["images"] == {"train": 150, "val": 50, "test": 60}
    assert results["steps"] == 12
    for split in ("val", "test"):
        assert 0 <= results[split]["top1"] <= results[split]["top5"] <= 1
    assert results["test"]["top1"] * 60 == pytest.approx(round(results["test"]["top1"] * 60))
    assert results["device"].startswith("cpu")
    assert set(results["versions"]) >= {"python", "jax", "flax", "optax"}


def test_confusion_matrix_adds_up_to_the_results(finished):
    folder, results = finished
    with open(folder / "confusion.csv", newline="") as file:
        header, *table = csv.reader(file)
    counts = np.array([row[1:] for row in table], int)
    assert header[1:] == [row[0] for row in table] == [str(digit) for digit in range(10)]
    assert counts.sum() == 60
    assert np.trace(counts) / 60 == pytest.approx(results["test"]["top1"])


def test_metrics_has_a_row_for_each_log_point_and_evaluation(finished):
    folder, _ = finished
    assert tuple(rows(folder)[0]) == COLUMNS
    steps = {
        split: [int(r["step"]) for r in rows(folder) if r["split"] == split]
        for split in ("train", "val", "test")
    }
    assert steps == {"train": [3, 4, 6, 8, 9, 12], "val": [4, 8, 12], "test": [12]}
    rates = [float(r["learning_rate"]) for r in rows(folder) if r["split"] == "train"]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] < 3e-3


def test_training_learns(finished):
    folder, _ = finished
    losses = [float(r["loss"]) for r in rows(folder) if r["split"] == "train"]
    assert losses[-1] < losses[0]


def test_same_config_gives_the_same_bits(finished, tmp_path):
    folder, results = finished
    again = train(tiny.config(), tmp_path / "again")
    assert again["test"] == results["test"]
    for a, b in zip(final_weights(folder), final_weights(tmp_path / "again"), strict=True):
        assert a.tobytes() == b.tobytes()


def test_best_weights_are_those_of_the_best_validation(tmp_path):
    config = tiny.config(**{"optim.learning_rate": 0.3, "train.epochs": 4})
    results = train(config, tmp_path / "run")
    scores = {
        int(r["step"]): float(r["top1"]) for r in rows(tmp_path / "run") if r["split"] == "val"
    }
    best = results["reported_epoch"] * 4
    assert results["reported_weights"] == "best"
    assert scores[best] == max(scores.values())
    assert results["val"]["top1"] == pytest.approx(scores[best], rel=1e-5)
    folder = tmp_path / "run" / "checkpoints"
    kept = {int(path.name) for path in folder.iterdir() if path.name.isdigit()}
    assert kept == {best, 12, 16}


def test_run_without_validation_reports_its_last_weights(tmp_path):
    config = tiny.config(**{"data.val_split": "", "train.epochs": 2})
    results = train(config, tmp_path / "run")
    assert results["val"] is None
    assert (results["reported_weights"], results["reported_epoch"]) == ("last", 2)
    assert {r["split"] for r in rows(tmp_path / "run")} == {"train", "test"}


def test_the_start_says_which_classes_and_splits_there_are(tmp_path, capsys):
    names = [f"{i} a bird with a long name" for i in range(9)]
    make(tmp_path / "birds", dict.fromkeys(names, 6) | {".": 2}, (8, 8))
    config = folder_recipe.get_config()
    fields = {"data.name": f"folder:{tmp_path / 'birds'}", "data.image_size": 8}
    fields |= {"augment.crop_padding": 1, "model.widths": (3,), "train.epochs": 1}
    config.update_from_flattened_dict(fields)
    train(config, tmp_path / "run")
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    text = " ".join(" ".join(lines).split())
    assert "birds: 36 train, 9 validation, 9 test images of 8x8x3" in text
    parts = "train[:80%] by class", "train[80%:90%] by class", "train[90%:] by class"
    assert f"splits: {', '.join(parts)}" in lines
    assert f"9 classes: {names[0][:23]}…, {names[1][:23]}…, …" in lines
    assert "note: left out: 2 x beside the class folders" in lines
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["data"]
    assert tuple(stored[f"{name}_split"] for name in ("train", "val", "test")) == parts
    run_folder.check(tmp_path / "run", config)  # 'auto' goes on


def test_images_used_twice_are_told(capsys):
    config = tiny.config(**{"data.val_split": "test[:30]", "data.test_split": "train[:20]+test"})
    notes = load_splits(config).notes()
    assert notes == [
        "note: 20 test images are among the training images",
        "note: 30 test images also serve as validation images",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"data.memory_limit": 0.0},
        {"parallel": "pmap"},
        {"model.remat": True},
        {"data.memory_limit": 0.0, "parallel": "pmap", "train.accumulate_steps": 2},
    ],
)
def test_ways_to_run_give_the_same_figures(finished, tmp_path, changes):
    results = train(tiny.config(**changes), tmp_path / "run")
    for ours, plain in zip(rows(tmp_path / "run"), rows(finished[0]), strict=True):
        assert ours["split"] == plain["split"]
        assert float(ours["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-4)
    assert results["test"]["top1"] == pytest.approx(finished[1]["test"]["top1"], abs=1.1 / 60)


@pytest.mark.parametrize("limit", [16.0, 0.0])
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_nothing_moves_between_host_and_device_unasked(tmp_path, monkeypatch, limit, parallel):
    config = tiny.config(
        **{
            "train.epochs": 1,
            "log.every_steps": 100,
            "data.memory_limit": limit,
            "parallel": parallel,
        }
    )
    run_epoch = loop._run_epoch

    def guarded(*args):
        with jax.transfer_guard("disallow"):
            return run_epoch(*args)

    monkeypatch.setattr(loop, "_run_epoch", guarded)
    train(config, tmp_path / "run")


def test_statistics_are_those_of_the_scaled_pixels():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 3, 2), dtype=np.uint8)
    dataset = data.Dataset(
        name="",
        split="",
        class_names=("a",),
        source="",
        ranges=(("train", 0, 7),),
        images=images,
        labels=np.zeros(7, np.int32),
    )
    mean, std = channel_statistics(dataset)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.patch_size": 3}, r"patch_size=3 does not divide img_size=8"),
        ({"model.num_heads": 3}, r"num_heads=3 does not divide embed_dim=8"),
        ({"model.num_classes": 7}, r"config.model.num_classes=7, but the data has 10"),
        ({"model.name": "vti"}, r"config.model.name='vti': .*Did you mean vit"),
        ({"model.dropout": 1.0}, r"config.model.dropout=1.0: expected a number from 0"),
        ({"model.widths": (3,)}, r"widths=.*vit has no such keyword"),
        ({"train.batch_size": 151}, r"batch_size=151 is larger than the 150"),
        (
            {
                "model.name": "simple_cnn",
                "model.patch_size": None,
                "model.embed_dim": None,
                "model.depth": None,
                "model.num_heads": None,
            },
            r"8x8 pixels are too small",
        ),
        ({"augment.crop_padding": 8}, r"crop_padding"),
        ({"optim.name": "adamm"}, r"optim.name"),
    ],
)
def test_impossible_configs_are_refused_before_a_folder_is_made(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        train(tiny.config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_of_another_config_is_refused_with_a_diff(finished):
    folder, _ = finished
    run_folder.check(folder, tiny.config())
    run_folder.check(folder, tiny.config(**{"log.every_steps": 7}))
    with pytest.raises(UserError) as caught:
        run_folder.check(folder, tiny.config(**{"seed": 1, "optim.learning_rate": 1.0}))
    assert "config.seed: 0 there, 1 asked for" in str(caught.value)
    assert "config.optim.learning_rate: 0.003 there, 1.0 asked for" in str(caught.value)
    assert "crop_padding" not in str(caught.value)


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty and holds no run"):
        run_folder.check(tmp_path, tiny.config())


def test_start_that_found_the_disk_full_may_be_repeated(tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"No space left on device.*make room"):
            run_folder.create(folder, tiny.config())
    assert list(folder.iterdir()) == []
    (folder / ".config.json.1234.part").touch()  # as a kill leaves it
    run_folder.check(folder, tiny.config())
    run_folder.create(folder, tiny.config())
    assert (folder / "config.json").is_file()


def test_finished_run_is_set_aside_and_nothing_is_lost(tmp_path):
    for expected in ("run.1", "run.2"):
        (tmp_path / "run").mkdir()
        assert run_folder.set_aside(tmp_path / "run").name == expected
    assert {path.name for path in tmp_path.iterdir()} == {"run.1", "run.2"}


def test_torn_last_row_of_metrics_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(",".join(COLUMNS) + "\n3,1,train,2.0,0.1,0.5,10,0.1,1.5,,,\n4,1,tr")
    assert [row["step"] for row in read_metrics(path)] == ["3"]


def test_resolving_leaves_the_callers_config_alone():
    config = tiny.config()
    before = to_json(config)
    resolve(config, load_splits(config))
    assert to_json(config) == before


@pytest.mark.parametrize("kind", ["broken", "full", "closed", "none"])
def test_training_goes_on_though_nothing_can_be_printed(kind, tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    if kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), write)
    stream = os.fdopen(write, "w", buffering=1)
    if kind == "closed":
        stream.close()
    with monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, None if kind == "none" else stream)
        results = train(tiny.config(**{"train.epochs": 1}), tmp_path / "run")
    assert results["steps"] == 4
    assert (tmp_path / "run" / "results.json").is_file()
    with contextlib.suppress(OSError):
        stream.close()
