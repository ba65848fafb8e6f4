"""Recipes by name: listed, printed, copied and trained by, in a checkout and out of a package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jax_train import __main__, recipes
from jax_train.commands import new
from jax_train.commands.recipes import about
from jax_train.config import command_line
from jax_train.config.fields import flatten
from jax_train.errors import UserError
from jax_train.printing import WIDTH

ROOT = Path(__file__).resolve().parents[3]


def refusal(arguments, capsys):
    """What a command that is refused says, on one line."""
    assert __main__.main(arguments) == 2
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder that is the working folder, and has nothing of this repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_recipes_are_listed_with_their_time_and_result(capsys, elsewhere):
    assert __main__.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    names = [line for line in lines if line and " " not in line]
    files = {path.stem for path in ROOT.glob("configs/*.py")}
    assert names == recipes.names() == sorted(files - {"common"})
    place = lines.index("cnn_digits")
    assert lines[place + 2] == "  Time: 15 s on 2 CPU cores."
    assert lines[place + 3].startswith("  Result: test top-1 99.4 %")


@pytest.mark.parametrize("name", recipes.names())
def test_the_first_lines_of_a_recipe_say_what_it_is(name):
    told = about(recipes.path_of(name).read_text("utf-8"))
    assert all(text.endswith(".") and "\n" not in text for text in told), told
    assert not any("Time:" in text or "Result:" in text for text in told), told


def test_a_text_without_time_and_result_has_none():
    assert about('"""A CNN, 4.99 PFLOP. More."""') == ("A CNN, 4.99 PFLOP.", "", "")
    assert about("x = 1") == ("", "", "")


def test_a_recipe_is_printed_and_a_slip_is_told(capsys, elsewhere):
    assert __main__.main(["recipes", "common"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs" / "common.py").read_text("utf-8")
    assert "(did you mean vit_cifar10?)" in refusal(["recipes", "vit_cifar"], capsys)


@pytest.mark.parametrize("name", recipes.names())
def test_a_copy_is_the_same_recipe(name, elsewhere):
    text = new.copied(recipes.path_of(name).read_text("utf-8"), name, "mine")
    assert text.startswith(f'"""mine: a copy of the recipe {name}, to be changed."""\n\n')
    Path("mine.py").write_text(text, "utf-8")
    mine, original = command_line.parse(["mine"]), command_line.parse([name])
    assert flatten(mine.config) == flatten(original.config)
    assert (mine.workdir, original.workdir) == (Path("runs/mine"), Path(f"runs/{name}"))


def test_new_writes_a_recipe_once(capsys, elsewhere, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jax-vit-cnn"])
    assert __main__.main(["new", "mine", "--from", "cnn_digits"]) == 0
    said = capsys.readouterr().out
    assert "\n  jax-vit-cnn train mine.py\n" in said
    assert command_line.parse(["mine.py"]).config.model.name == "simple_cnn"
    assert __main__.main(["new", "my own"]) == 0
    assert "\n  jax-vit-cnn train 'my own.py'\n" in capsys.readouterr().out
    assert "mine.py exists already" in refusal(["new", "mine.py"], capsys)
    assert __main__.main(["new", "mine", "--overwrite"]) == 0
    assert command_line.parse(["mine"]).config.model.name == "vit"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_digits"], "there is a recipe of that name"),
        (["common.py"], "there is a recipe of that name"),
        (["mine", "--from", "cnn_digit"], "There is no recipe 'cnn_digit' (did you mean cnn_digi"),
        (["nowhere/mine"], "the folder"),
        ([".py"], "expected a name such as my_recipe"),
        ([r"my\xrecipe"], "expected a name such as my_recipe"),  # its first line would be no Python
        (['my"""recipe'], "expected a name such as my_recipe"),
        (["my:recipe"], "expected a name such as my_recipe"),  # train takes the end for an argument
        ([os.fsdecode(b"caf\xe9")], "expected a name such as my_recipe"),
    ],
)
def test_new_refuses_what_it_cannot_do(arguments, message, capsys, elsewhere):
    assert message in refusal(["new", *arguments], capsys)
    assert not list(elsewhere.iterdir())


def test_a_recipe_is_named_by_a_word_or_a_file(elsewhere):
    chosen = command_line.parse(["cnn_digits", "--config.seed=3"])
    same = command_line.parse([f"--config={ROOT}/configs/cnn_digits.py", "--config.seed=3"])
    assert flatten(chosen.config) == flatten(same.config)
    assert chosen.given == {"seed": 3}
    assert flatten(command_line.parse([]).config) == flatten(command_line.parse(["vit_digits"])[0])
    Path("cnn_digits.py").write_text("raise OSError('of another')")  # a name is that of the package
    assert flatten(command_line.parse(["cnn_digits", "--config.seed=3"]).config) == flatten(
        same.config
    )
    with pytest.raises(UserError, match="of another"):
        command_line.parse(["cnn_digits.py"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cnn_digit"], "neither a recipe nor a file of that name .did you mean cnn_digits"),
        (["configs/cnn_digits.py"], "'configs/cnn_digits.py': .*did you mean cnn_digits"),
        (["common"], "there is neither a recipe nor a file"),
        (["cnn_digits", "--config=x.py"], "'cnn_digits' and --config both name the recipe"),
        (["--config.seed=3", "cnn_digits"], "'cnn_digits' is no flag. A recipe stands first"),
        (["cnn_digits", "vit_digits"], "'vit_digits' is no flag"),
    ],
)
def test_words_out_of_place_are_told(arguments, message, elsewhere):
    with pytest.raises(UserError, match=message):
        command_line.parse(arguments)


def test_help_says_how_the_command_was_called(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jax-vit-cnn"])
    assert __main__.main(["train", "vit_cifar10", "--help"]) == 0
    said = capsys.readouterr().out
    assert "\n  jax-vit-cnn train vit_cifar10 --config.train.epochs=5\n" in said
    assert "\n  --workdir: run folder" in said
    assert max(map(len, said.splitlines())) <= WIDTH
    with pytest.raises(SystemExit, match="0"):
        __main__.main(["--help"])
    assert capsys.readouterr().out.startswith("usage: jax-vit-cnn [-h] COMMAND")


def test_a_package_holds_the_recipes_and_needs_no_folder_of_that_name(tmp_path):
    package = tmp_path / "site" / "jax_train"
    shutil.copytree(ROOT / "jax_train", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", package / "recipes", dirs_exist_ok=True)
    (tmp_path / "configs").mkdir()  # somebody else's
    (tmp_path / "configs" / "common.py").write_text("raise OSError('of another project')")
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    code = (
        "import sys; from jax_train import recipes; from jax_train.config import command_line\n"
        "from jax_train.runs import results\n"
        "for name in recipes.names(): command_line.parse([name])\n"
        "print(len(recipes.names()), recipes.FOLDER, 'configs' in sys.modules)\n"
        "print('commit', results._git_commit())"
    )
    out = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['', {str(package.parent)!r}]\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    expected = f"{len(recipes.names())} {package / 'recipes'} False\ncommit None"
    assert out.stdout.strip() == expected, out.stderr
