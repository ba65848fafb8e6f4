"""Advice can be followed: the flags, fields and commands that texts of the sources name exist."""

import argparse
import ast
import re
from pathlib import Path

import pytest

from configs import common
from jax_train import __main__
from jax_train.config import command_line
from jax_train.config.fields import flatten

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "train_jax.py", *(ROOT / "jax_train").rglob("*.py")]
SOURCES += [*(ROOT / "jax_models").rglob("*.py")]
FIELDS = list(flatten(common.get_config()))
GROUPS = {field.rpartition(".")[0] for field in FIELDS}


def texts(path):
    """Texts of a source that are no docstrings, with '…' for what is filled in."""
    tree = ast.parse(path.read_text())
    left_out = {id(part) for node in ast.walk(tree) for part in getattr(node, "values", [])}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            left_out.add(id(body[0].value))

    def text(node):
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) for part in node.values)
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        return node.value if is_text else "…"

    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in left_out:
            yield text(node)


def options(command):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return {name for action in parser._actions for name in action.option_strings}


def known_flags():
    of_training = set(re.findall(r"--(?:\[no\])?(\w+):", command_line.help_text("train")))
    with_parsers = __main__.COMMANDS.keys() - __main__.LINES.keys()
    others = (options(__main__.COMMANDS[name]) for name in with_parsers)
    return {f"--{name}" for name in of_training}.union(*others)


def named(pattern):
    """What a pattern finds in the texts of all sources, with the sources that it stands in."""
    found = {}
    for path in SOURCES:
        for text in texts(path):
            for word in re.findall(pattern, text):
                found.setdefault(word, set()).add(path.name)
    return found


def test_flags_exist():
    found = named(r"--[a-z][\w.]*(?![\w.…])")
    plain = {word.rstrip(".") for word in found if not word.startswith("--config.")}
    assert len(plain) > 15
    assert plain <= known_flags(), {word: found.get(word) for word in plain - known_flags()}


def test_fields_exist():
    found = named(r"(?<![\w/])config\.[a-z_]+(?:\.[a-z_0-9]+)?(?![\w…])")
    words = {word.removeprefix("config.") for word in found} - {"json", "json.part"}
    assert len(words) > 15
    assert words <= {*FIELDS, *GROUPS}, words - {*FIELDS, *GROUPS}


def test_commands_exist():
    found = named(r"jax_train ([a-z]+)")
    assert found.keys() & __main__.COMMANDS.keys()
    assert found.keys() <= {*__main__.COMMANDS, "and"}, found


@pytest.mark.parametrize("command", ["evaluate", "report", "explain", "predict", "compare"])
def test_commands_that_read_a_runs_data_are_told_alike_where_they_are(command):
    assert {"--data", "--data_dir"} <= options(__main__.COMMANDS[command])


def test_data_given_to_a_command_are_refused_in_its_own_words(tmp_path, capsys):
    from jax_train.train import train
    from tests import tiny

    train(tiny.config(**{"train.epochs": 1}), tmp_path / "run")
    assert __main__.main(["evaluate", str(tmp_path / "run"), "--data", "cifar11"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "Did you mean --data=cifar10 ?" in told
    assert "config." not in told


def test_a_damaged_finished_run_is_not_sent_to_a_command_that_only_prints(tmp_path):
    import shutil

    from jax_train.errors import UserError
    from jax_train.runs import trained
    from jax_train.train import train
    from tests import tiny

    run = tmp_path / "run"
    train(tiny.config(**{"train.epochs": 1}), run)
    shutil.rmtree(run / "checkpoints/4/state")
    with pytest.raises(UserError) as damaged:
        trained.open_run(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError) as missing:
        trained.open_run(run)
    for caught in (damaged, missing):
        assert f"delete {run}/results.json and run its training command again" in str(caught.value)
    (run / "results.json").unlink()
    assert train(tiny.config(**{"train.epochs": 1}), run)["steps"] == 4
    assert trained.open_run(run).step == 4
