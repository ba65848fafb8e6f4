"""The runs that the documentation shows figures of: their commands are taken, their tables made."""

import json

import pytest
from absl import flags
from ml_collections import config_flags

from jax_train import checks
from results import runs, transfer
from results.runs import ROOT

MODELS = ["resnet", "vit"]


def parsed(command: list[str], folder):
    """The config that train_jax.py takes of a command's flags."""
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    assert command[:2] == ["train_jax.py", "--config"]
    values(["", f"--config={ROOT / command[2]}", *command[3:]])
    return config.value


@pytest.mark.parametrize("model", MODELS)
def test_every_command_is_taken(model, tmp_path):
    trained = transfer.all_runs([model], "DIR", tmp_path)
    assert len({run.name for run in trained}) == len(trained) == {"resnet": 10, "vit": 11}[model]
    for run in trained:
        config = parsed(run.command(tmp_path), tmp_path)
        checks.check_fields(config)
        for name, value in run.fields.items():
            group, field = name.split(".")
            found = config[group][field]
            assert found == value or str(value) == found or (found == () and value == "")


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
