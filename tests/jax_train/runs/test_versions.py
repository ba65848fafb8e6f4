"""Run folders that another version wrote: fields missing, or unknown."""

import json
import shutil

import pytest

from configs import common
from jax_train.config.fields import FROM_DATA, flatten, is_free
from jax_train.errors import UserError
from jax_train.runs import folder as run_folder
from jax_train.runs import trained
from jax_train.runs.results import summary
from jax_train.train import train
from tests import tiny

DEFAULTS, SHORT = flatten(common.get_config()), {"train.epochs": 1}
ASKED = flatten(tiny.config(**SHORT))
CHANGED = {field for field, value in ASKED.items() if value != DEFAULTS[field]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny.config(**SHORT), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def without(folder, field):
    """Take a field out of a config.json."""
    stored = json.loads((folder / "config.json").read_text())
    *groups, key = field.split(".")
    place = stored
    for group in groups:
        place = place[group]
    del place[key]
    (folder / "config.json").write_text(json.dumps(stored))


@pytest.mark.parametrize("field", list(DEFAULTS))
def test_a_missing_field_is_as_before_or_told(run, field, capsys):
    without(run, field)
    if field in FROM_DATA:
        with pytest.raises(UserError, match=rf"lacks config.{field}, which followed from the data"):
            run_folder.read_config(run)
        with pytest.raises(UserError, match=rf"lacks config.{field}"):
            trained.open_run(run)
    else:
        config = run_folder.read_config(run)
        assert flatten(config)[field] == DEFAULTS[field]
        told = " ".join(capsys.readouterr().err.split())
        assert (f"lacks config.{field}=" in told) != is_free(field)
    asked = tiny.config(**SHORT)
    if field in CHANGED - {"log.every_steps"}:
        with pytest.raises(UserError, match=rf"config.{field}: .* there, .* asked for"):
            run_folder.check(run, asked)
    else:
        run_folder.check(run, asked)


@pytest.mark.parametrize("field", ["dtype", "mesh.data", "compare", "train.epochs", "data.name"])
def test_a_run_that_lacks_a_field_opens(run, field):
    without(run, field)
    assert trained.open_run(run).class_names == tuple("0123456789")


def test_a_run_that_lacks_a_size_of_its_model_is_not_damaged(run):
    without(run, "model.embed_dim")
    with pytest.raises(UserError, match="is of another model or optimizer than"):
        trained.open_run(run)


@pytest.mark.parametrize("group", ["mesh", "log", "checkpoint", "eval"])
def test_a_missing_group_is_filled(run, group):
    without(run, group)
    assert set(flatten(run_folder.read_config(run))) == set(DEFAULTS)
    trained.open_run(run)


def test_of_many_missing_fields_some_are_told(run, capsys):
    without(run, "augment")
    run_folder.read_config(run)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("config.augment.") == 4
    assert f"and {sum(field.startswith('augment.') for field in DEFAULTS) - 4} other fields" in told


def test_a_field_of_a_newer_version_is_told(run, capsys):
    stored = json.loads((run / "config.json").read_text())
    stored["optim"]["lookahead"] = 5
    stored["log"]["sparkle"] = True
    (run / "config.json").write_text(json.dumps(stored))
    config = run_folder.read_config(run)
    assert "lookahead" not in config.optim
    told = " ".join(capsys.readouterr().err.split())
    assert "has config.log.sparkle=True, config.optim.lookahead=5, which this version" in told
    with pytest.raises(UserError) as caught:
        run_folder.check(run, tiny.config(**SHORT))
    assert "config.optim.lookahead: 5 there, not known to this version" in str(caught.value)
    assert "sparkle" not in str(caught.value)  # changes no result


@pytest.mark.parametrize("text", ["{", "[]", "3", '"x"', "null", '{"model": 3}', ""])
def test_what_is_no_config_gets_one_paragraph(run, text):
    (run / "config.json").write_text(text)
    for look in (run_folder.read_config, trained.open_run):
        with pytest.raises(UserError):
            look(run)
    with pytest.raises(UserError):
        run_folder.check(run, tiny.config())


def test_results_that_lack_anything_are_still_told(run):
    found = json.loads((run / "results.json").read_text())
    for key in found:
        less = {name: value for name, value in found.items() if name != key}
        (run / "results.json").write_text(json.dumps(less))
        assert f"files: {run}/" in summary(run_folder.results(run), run)
        assert trained.open_run(run).class_names
