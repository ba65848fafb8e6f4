"""Configs: every file parses and fits, and mistakes are told with the nearest field."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from flax import nnx
from ml_collections import ConfigDict

import jax_models
from configs import common
from jax_train import several
from jax_train.config import checks
from jax_train.config.fields import flatten, to_json
from jax_train.engine import augment, optim
from jax_train.engine.recipe import create_model
from jax_train.errors import UserError
from jax_train.printing import as_paragraph

CONFIGS = Path(common.__file__).parent
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "common")
# height, channels, classes
SHAPES = {"digits": (8, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100),
          "mnist": (28, 1, 10)}  # fmt: skip


def get_config(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    return module.get_config()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_its_model_can_be_built(name):
    recipe = get_config(name)
    checks.validate(recipe, common.get_config())
    optim.validate(recipe)
    augment.validate(recipe.augment)
    assert recipe.is_locked
    side, channels, classes = SHAPES.get(recipe.data.name, (64, 3, 2))  # a folder
    side, _ = augment.output_size(recipe.augment, side, side)
    for one in several.model_configs(recipe).values() if recipe.compare else [recipe]:
        facts = {"in_channels": channels, "num_classes": classes}
        if "img_size" in jax_models.model_keywords(one.model.name):
            facts["img_size"] = side
        with one.unlocked():
            one.model.update(facts)
        model = nnx.eval_shape(lambda one=one: create_model(one, nnx.Rngs(0)))
        assert nnx.to_flat_state(nnx.state(model))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_opens_with_its_command_time_and_result(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert f"python train_jax.py --config configs/{name}.py" in text
    assert "Time:" in text
    assert "Result:" in text


def test_configs_import_neither_jax_nor_numpy():
    code = "import sys\n" + "".join(
        f"import configs.{name}; configs.{name}.get_config()\n" for name in RECIPES
    )
    code += "print([m for m in ('jax', 'numpy', 'flax', 'torch') if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_every_field_has_a_comment():
    for line in (CONFIGS / "common.py").read_text().splitlines():
        if line.strip().startswith("config.") and "=" in line and "ConfigDict()" not in line:
            field = line.split("=")[0].strip()
            above = (CONFIGS / "common.py").read_text().split(line)[0].splitlines()[-3:]
            assert "#" in line or any("#" in text for text in above), field


def changed(**changes):
    new = common.get_config()
    with new.unlocked(), new.ignore_type():
        for path, value in changes.items():
            *groups, field = path.split("__")
            place = new
            for group in groups:
                place = place[group]
            place[field] = value
    return new


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__epochs": "3"}, r"config.train.epochs='3': expected int, got str"),
        ({"train__epochs": True}, r"expected int, got bool"),
        ({"train__epochs": None}, r"config.train.epochs=None: expected int"),
        ({"train__epochs": 0}, r"config.train.epochs=0: .*at least 1"),
        ({"train__epochs": 10**14}, r"epochs=100000000000000: .*at most 1000000"),
        ({"seed": 2**32}, r"config.seed=4294967296: .*at most 4294967295"),
        ({"augment__resize": -3}, r"config.augment.resize=-3: .*at least 0"),
        ({"train__batch_size": -2}, r"batch_size=-2"),
        ({"train__label_smoothing": 1.0}, r"label_smoothing=1.0"),
        ({"model__depth": 2.5}, r"config.model.depth=2.5: expected int, got float"),
        ({"train__bach_size": 3}, r"bach_size is no field \(did you mean batch_size"),
        ({"optim": ConfigDict({"name": "sgd"})}, r"config.optim was replaced as a whole"),
        ({"optim": 3}, r"config.optim=3: expected a group of fields"),
        ({"optim__eps": float("nan")}, r"eps=nan: expected a number, for example"),
        ({"data__mean": (float("inf"),)}, r"mean=\(inf,\): expected"),
        ({"data__std": (10**400,)}, r"std=\(1000"),
        ({"train__label_smoothing": float("inf")}, r"label_smoothing=inf: expected a number"),
        ({"data__mean": ("a",)}, r"mean=\('a',\): expected numbers .*data.mean=0.5,0.5,0.5"),
        ({"model__widths": (32, 0.5)}, r"expected whole numbers .*model.widths=64,128"),
        ({"optim__decay_exclude": (3,)}, r"decay_exclude=\(3,\): expected quoted regexes"),
        ({"checkpoint__report": "first"}, r"report='first': expected 'best' or 'last'"),
    ],
)
def test_configs_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        checks.validate(changed(**changes), common.get_config())


def test_whole_numbers_serve_as_floats():
    checks.validate(changed(optim__weight_decay=1), common.get_config())


def test_tuples_set_to_none_on_the_command_line_are_none():
    changed_config = common.get_config()
    changed_config.data.mean = (None,)
    changed_config.data.std = (0.5,)
    checks.clear_none_tuples(changed_config)
    assert changed_config.data.mean is None
    assert changed_config.data.std == (0.5,)
    assert changed_config.is_locked


def test_json_holds_every_field():
    text = to_json(common.get_config())
    assert set(flatten(ConfigDict(json.loads(text)))) == set(flatten(common.get_config()))


def test_paragraphs_keep_indented_lines_and_whole_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = as_paragraph("one two three four five\n  a line that is far longer than that")
    assert text == "one two three four\nfive\n  a line that is far longer than that"
