"""The runs that the documentation shows figures of: their commands are taken, their tables made."""

import json
import statistics
import subprocess
import sys
import textwrap

import pytest

from jax_train import checks
from jax_train.commands.recipes import about
from jax_train.config import command_line
from jax_train.errors import UserError
from results import picture, precision, recipes, runs, transfer
from results.runs import ROOT

MODELS = ["resnet", "vit"]


def parsed(command: list[str]):
    """The config that train_jax.py takes of a command's flags."""
    assert command[:2] == ["train_jax.py", "--config"]
    return command_line.parse([f"--config={ROOT / command[2]}", *command[3:]]).config


@pytest.mark.parametrize("model", MODELS)
def test_every_command_is_taken(model, tmp_path):
    trained = transfer.all_runs([model], "DIR", tmp_path)
    assert len({run.name for run in trained}) == len(trained) == {"resnet": 10, "vit": 11}[model]
    for run in trained:
        config = parsed(run.command(tmp_path))
        checks.check_fields(config)
        for name, value in run.fields.items():
            group, field = name.split(".")
            found = config[group][field]
            assert found == value or str(found).replace(" ", "") == str(value)


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if recipes.read(name)])
def test_a_recipe_tells_what_was_recorded_of_it(name):
    mean = 100 * statistics.fmean(run["top1"] for run in recipes.read(name).values())
    file = ROOT / "configs" / f"{recipes.RECIPES[name].name or name}.py"
    told = about(file.read_text("utf-8")).result
    assert f"{mean:.1f} %" in told or f"{mean:.2f} %" in told


def test_from_weights_and_from_scratch_have_equal_steps(tmp_path):
    trials = transfer._trials("vit", {}, tmp_path)
    for share in transfer.SHARES:
        lengths = {
            (
                run.fields["train.epochs"],
                run.fields["data.train_split"],
                run.fields["train.batch_size"],
            )
            for (of, _), run in trials.items()
            if of == share
        }
        assert len(lengths) == 1


def test_tables_hold_what_the_runs_reached(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "PICTURE", tmp_path / "transfer.png")
    trained = transfer.all_runs(MODELS, None, tmp_path)
    for i, run in enumerate(trained):
        assert not runs.is_finished(run, tmp_path)
        (tmp_path / run.name).mkdir()
        found = {"test": {"top1": i / 1000}, "steps": 100 + i, "device": "cpu"}
        found["versions"] = {"jax": "1.2", "flax": "3.4"}
        (tmp_path / run.name / "results.json").write_text(json.dumps(found))
    text = transfer.record(tmp_path)
    assert all(f"{i / 1000:.2%}" in text for i in range(len(trained)))
    assert (tmp_path / "transfer.png").stat().st_size > 10_000
    runs.carry_out(trained, tmp_path)  # nothing is left to do


def test_a_recipe_is_trained_once_and_told(tmp_path, monkeypatch):
    small = {"train.epochs": 1, "schedule.warmup_epochs": 0, "model.depth": 1}
    monkeypatch.setattr(recipes, "RECORDS", tmp_path / "records")
    (tmp_path / "records").mkdir()
    rows = {"small": recipes.Recipe("12.34 %", small, ("flip",), "vit_digits")}
    monkeypatch.setattr(recipes, "RECIPES", rows)
    recipes.train(["small"], [7], None, tmp_path)
    first = recipes.read("small")
    results = runs.read(recipes.run_of("small", rows["small"], 7, None), tmp_path)
    assert first["7"]["top1_one_view"] == results["test"]["top1"]
    assert first["7"]["peak_bytes"] > 1e8
    assert first["7"]["train_flops"] > 0
    recipes.train(["small"], [7], None, tmp_path / "elsewhere")  # nothing is left to do
    assert recipes.read("small") == first
    twice = {**first, "8": {**first["7"], "top1": first["7"]["top1"] + 0.02}}
    (tmp_path / "records" / "small.json").write_text(json.dumps(twice))
    mean = 100 * first["7"]["top1"] + 1
    assert f"| 12.34 % | **{mean:.2f} ± 1.41 %** | 2 |" in recipes.table()
    assert f" {first['7']['peak_bytes'] / 1e6:,.0f} MB |" in recipes.table()
    unknown = {"7": {**first["7"], "peak_bytes": None}}  # it was finished when it was asked for
    (tmp_path / "records" / "small.json").write_text(json.dumps(unknown))
    assert " MB |" not in recipes.table()


def test_both_dtypes_train_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr(
        precision, "RECIPES", {"vit_digits": {"train.epochs": 1, "schedule.warmup_epochs": 0}}
    )
    trained = precision.all_runs(None)
    assert [run.fields["dtype"] for run in trained] == ["float32", "bfloat16"]
    runs.carry_out(trained, tmp_path)
    assert "| `vit_digits` | 20 |" in precision.record(tmp_path)
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("recipe", precision.RECIPES)
def test_shortened_recipes_are_taken(recipe, tmp_path):
    for run in precision.all_runs("DIR"):
        if run.recipe == recipe:
            checks.check_fields(parsed(run.command(tmp_path)))


def test_a_run_that_fails_is_named(tmp_path):
    run = runs.Run("wrong", "vit_digits", {"train.epochs": 0})
    with pytest.raises(UserError, match="wrong ended with code 2"):
        runs.carry_out([run], tmp_path)


def test_a_run_is_asked_to_stop_when_its_caller_is(tmp_path, monkeypatch):
    script = """
        import os, pathlib, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        time.sleep(1)  # until the caller listens
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    """
    (tmp_path / "train_jax.py").write_text(textwrap.dedent(script))
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(UserError, match="ended with code 75"):
        runs.carry_out([runs.Run("r", "vit_digits")], tmp_path)


def test_an_unknown_recipe_is_refused():
    command = [sys.executable, "-m", "results", "recipes", "nope"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2
    assert "no recipe nope" in done.stderr


def test_the_picture_shows_recipes_for_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "RECORDS", tmp_path)
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "picture.png")
    seeds = {str(seed): {"top1": 0.9 + seed / 100, "train_flops": 1e15} for seed in (0, 2)}
    for name in ("cct2_cifar10", "airbench94_cifar10", "cct2_cifar100"):
        (tmp_path / f"{name}.json").write_text(json.dumps(seeds))
    assert recipes.points() == {
        "cct2": (1.0, pytest.approx(91), True),
        "airbench94": (1.0, pytest.approx(91), False),
    }
    picture.draw(recipes.points())
    assert (tmp_path / "picture.png").stat().st_size > 10_000
