"""Configs: every file parses and fits, and mistakes are told with the nearest field."""

import ast
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flax import nnx
from ml_collections import ConfigDict

import jax_models
from configs import common
from jax_models import tokens
from jax_train import checks, several
from jax_train.config.fields import flatten
from jax_train.data import loading
from jax_train.engine import average, field_checks, metrics, muon, optim, schedules, seeds
from jax_train.engine import checks as engine_checks
from jax_train.engine.augment import resample
from jax_train.engine.models import leave_out_sizes, model_configs
from jax_train.engine.recipe import create_model
from jax_train.errors import UserError
from jax_train.train import train

CONFIGS = Path(common.__file__).parent
RECIPES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "common")
# height, channels, classes
SHAPES = {
    "digits": (8, 1, 10),
    "cifar10": (32, 3, 10),
    "cifar100": (32, 3, 100),
    "mnist": (28, 1, 10),
    "imagenet2012": (256, 3, 1000),
}


def get_config(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    return module.get_config()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_its_model_can_be_built(name):
    recipe = get_config(name)
    assert recipe.is_locked
    if recipe.model.name == "auto":  # see also runs/test_initial.py
        with pytest.raises(UserError, match=r"init_from=None: .*--config\.model\.init_from=timm/"):
            checks.check(recipe)
        recipe.model.init_from, recipe.model.name = "hf:org/name", "vit_tiny_patch16_224"
    checks.check(recipe)
    side, channels, classes = SHAPES.get(recipe.data.name, (64, 3, 2))  # a folder
    side, _ = engine_checks.output_size(recipe.augment, side, side)
    for one in model_configs(recipe).values():
        facts = {"in_channels": channels, "num_classes": classes}
        if "img_size" in jax_models.model_keywords(one.model.name):
            facts["img_size"] = side
        with one.unlocked():
            one.model.update(facts)
        model = nnx.eval_shape(lambda one=one: create_model(one, seeds.init_rngs(0)))
        assert nnx.to_flat_state(nnx.state(model))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_opens_with_its_command_time_and_result(name):
    text = ast.get_docstring(ast.parse((CONFIGS / f"{name}.py").read_text()))
    assert f"python train_jax.py --config configs/{name}.py" in text
    assert "Time:" in text
    assert "Result:" in text


def test_recipes_import_neither_jax_nor_numpy():
    code = "import sys\n" + "".join(
        f"from jax_train.recipes import {name}; {name}.get_config()\n" for name in RECIPES
    )
    code += "print([m for m in ('jax', 'numpy', 'flax', 'torch', 'configs') if m in sys.modules])"
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
    """A config on a data set that is not there, with other values of any type: GROUP__FIELD."""
    new = common.get_config()
    with new.unlocked(), new.ignore_type():
        new.data.name = "cifar10"
        for path, value in changes.items():
            *groups, field = path.split("__")
            place = new
            for group in groups:
                place = place[group]
            place[field] = value
    return new


NAN, INF = float("nan"), float("inf")
RATES, NUMBERS, NATURAL = (
    (1.0, -0.1, NAN, "0"),
    (-1.0, INF, NAN, "1", None),
    (0, -3, 2.5, True, "3"),
)
SWITCH, OPTIONAL = (1, "yes", None), (0, -1, 2.5, "8")
# Of every field values that are refused, whatever the data: out of range, or of another type where
# all of the type will do.
BAD = {
    "seed": (-1, 2**32, 0.5, None),
    "dtype": ("float16", 32),
    "parallel": ("pjit", None),
    "mesh.data": (-1, 7, 0.5),
    "mesh.fsdp": (0, 7),
    "compare": (("simple_cn",), ("vit",), ("mnist_cnn", "mnist_cnn"), (3,), "simple_cnn"),
    "model.name": ("vjt", "", 3),
    "model.init_from": ("", 3, "auto", "nowhere/at/all", __file__),
    "model.init_revision": ("", 3, "main"),  # without init_from
    "model.init_sha256": ("12", 3, "a" * 64),
    "model.init_images": (-1, 2.5, True, None),
    "model.img_size": (*OPTIONAL, 33),  # patches of 4 pixels do not tile it
    "model.in_channels": OPTIONAL,
    "model.num_classes": OPTIONAL,
    "model.patch_size": OPTIONAL,
    "model.embed_dim": (*OPTIONAL, 127),  # 4 heads
    "model.depth": OPTIONAL,
    "model.num_heads": (*OPTIONAL, 3),
    "model.mlp_dim": OPTIONAL,
    "model.dropout": RATES,
    "model.attention_dropout": (*RATES, 0.3),  # a vit has none
    "model.drop_path": RATES,
    "model.conv_layers": (*OPTIONAL, 2),
    "model.conv_size": (*OPTIONAL, 3),
    "model.positions": ("cosine", 3, "sine"),
    **dict.fromkeys(("model.distilled", "model.swiglu"), ("yes", 1, True)),  # a vit has none
    **dict.fromkeys(("model.cover_prefix", "model.fc_norm"), ("yes", 1, True)),
    "model.class_token": ("yes", 1, True),
    "model.registers": (*OPTIONAL, 4),
    "model.layer_scale": (0.0, -1e-6, NAN, "1e-6", 1e-6),
    "model.pool": ("mean", 3, "avg"),  # a vit has none
    "model.norm_eps": (0.0, -1e-6, NAN, "1e-6"),
    "model.head_norm_eps": (0.0, -1e-6, NAN, "1e-6", 1e-6),
    "model.depths": ((0,), (2, 0.5), ("a",), 2, (2, 2, 2, 2)),
    "model.stem": ("tiny", 3, "cifar"),
    "model.block": ("wide", True, "basic"),
    "model.widths": ((0,), (32, 0.5), ("a",), 64, (64, 128)),  # a vit has none
    "model.norm_momentum": (0.0, 1.1, NAN, "0.4", 0.4),  # a vit has none
    "model.head_scale": (0.0, -1.0, NAN, "1", 0.1),
    "model.unit_head": ("yes", 1, True),
    "model.head_dims": ((0,), 64, (64,)),
    "model.head_dropout": (*RATES, 0.3),
    "model.lora_rank": OPTIONAL,
    "model.lora_alpha": (0.0, -1.0, NAN, "8", 8.0),  # without a rank
    "model.lora_targets": ((3,), ("(qkv",), "qkv", ("qkv",)),
    "model.remat": SWITCH,
    "model.scan_layers": SWITCH,
    "data.name": ("", None, 3),
    "data.data_dir": (3, __file__),
    "data.download": SWITCH,
    "data.image_size": (*OPTIONAL, 64),  # cifar10 is no folder
    "data.interpolation": ("cubic", 3, "bicubic"),  # no image_size
    **dict.fromkeys(("data.image_column", "data.label_column"), ("", 3, "img")),  # of cifar10
    "data.on_damaged": ("refuse", True, None),
    "data.max_megapixels": (0, -1.0, NAN, "90"),
    "data.memory_limit": NUMBERS,
    "data.threads": OPTIONAL,
    "data.on_change": ("ask", None),
    "data.train_split": ("train[", "", "train[:10%]+", "train[:200%]", None),
    "data.val_split": ("train[::2]", 3),
    "data.test_split": ("a b", "", ()),
    "data.mean": ((-0.1,), (INF,), ("a",), (125.0, 120.0, 110.0), 0.5, (10**400,)),
    "data.std": ((0.0,), (50.0,), "0.5", (NAN,)),
    "augment.crop_size": (-1, 2.5, 5000),
    "augment.random_resized_crop": ((0.0, 1.0), (0.5,), (0.9, 0.1), (0.1, 1.1), 0.5, (NAN, 1.0)),
    "augment.aspect_ratio": ((), (0.0, 1.0), (2.0, 1.0), ("a", "b"), 1.0, (1.0, INF)),
    "augment.interpolation": ("lanczos", 3),
    "augment.color_jitter": ((0.4, 0.4, 0.4, 0.6), (0.4,), (-0.1, 0, 0, 0), 0.4, (NAN, 0, 0, 0)),
    "augment.resize": (-3, 5000, 2.5),
    "augment.rotate_degrees": (-0.1, 181.0, NAN),
    "augment.crop_padding": (-2, 2.5),
    "augment.crop_probability": (1.01, -0.1, NAN),
    "augment.crop_mode": ("edge", None),
    "augment.flip": SWITCH,
    "augment.flip_mode": ("always", True),
    "augment.auto_augment": ("rand-m9-x1", "autoaugment", "ra-m31", 3, None),
    "augment.erase_probability": (1.01, -0.1, NAN),
    "augment.erase_area": ((0.0, 0.3), (0.3,), (0.3, 0.1), (0.1, 1.1), 0.5, ()),
    "augment.erase_aspect": ((), (0.0, 1.0), (2.0, 1.0), ("a", "b"), 1.0, (1.0, INF)),
    "augment.erase_mode": ("mean", None),
    "augment.cutout": (-2, 2.5, 5000),
    "augment.mixup": (*NUMBERS,),
    "augment.cutmix": (*NUMBERS,),
    "augment.mix_probability": (1.01, -0.1, NAN),
    "augment.mix_switch": (1.01, -0.1, NAN),
    "augment.mix_mode": ("half", None),
    "augment.mix_off_epoch": (-1, 0.5, True, None),
    "augment.repeats": (*NATURAL, 129),  # a batch has 128
    "train.epochs": (*NATURAL, 10**14),
    "train.batch_size": NATURAL,
    "train.accumulate_steps": (*NATURAL, 3),  # of a batch of 128
    "train.ema_decay": RATES,
    "train.ema_warmup": ("linear", None),
    "train.loss": ("bce", None),
    "train.bce_threshold": (*RATES, 0.2),  # with cross_entropy
    "train.bce_sum": (*SWITCH, True),
    "train.label_smoothing": RATES,
    "train.class_weights": ((), "balanced", (0.0, 1.0), ("even",), (1.0, "2"), (NAN,)),
    "train.freeze": ((3,), ("(norm",), "norm", ("nrom",), ("",)),
    "train.probe_epochs": (-1, 20, 0.5),
    "train.on_nonfinite": ("go on", None),
    "train.steps_per_call": (-1, 0.5),
    "train.patience": (-1, 0.5, True, None),
    "optim.name": ("radam", None),
    "optim.learning_rate": (*NUMBERS, 0.0),
    "optim.weight_decay": NUMBERS,
    "optim.decay_exclude": ((3,), ("(norm",), "norm"),
    "optim.layer_decay": (0.0, -0.5, 1.01, NAN, "0.7", None),
    "optim.lr_scale": ((3,), ("norm", 2.0), (("norm", -1.0),), (("(norm", 2.0),), (("nrom", 2.0),)),
    "optim.beta1": RATES,
    "optim.beta2": RATES,
    "optim.eps": (*NUMBERS, 0.0),
    "optim.momentum": RATES,
    "optim.nesterov": SWITCH,
    "optim.always_adapt": SWITCH,
    "optim.muon_match": ((3,), ("(kernel",), "kernel"),
    "optim.muon_steps": NATURAL,
    "optim.muon_scale": ("rows", None),
    "optim.muon_normalize": SWITCH,
    "optim.lookahead_steps": (-1, 0.5),
    "optim.lookahead_alpha": (0.0, 1.01, NAN),
    "optim.lookahead_power": NUMBERS,
    "optim.groups": (
        (3,),
        ("norm", {"momentum": 0.9}),
        (("(norm", {"momentum": 0.9}),),
        (("norm", {}),),
        (("norm", {"clip_norm": 1.0}),),
        (("norm", {"learning_rate": 0.0}),),
        (("norm", {"schedule.name": "cubic"}),),
        (("norm", {"name": "schedule_free_adamw"}),),
        (("nrom", {"momentum": 0.9}),),
    ),
    "optim.clip_norm": NUMBERS,
    "schedule.name": ("cubic", None),
    "schedule.unit": ("batch", None),
    "schedule.length_epochs": (*NUMBERS, 21.0),
    "schedule.warmup_epochs": (*NUMBERS, 20.0),
    "schedule.warmup_factor": (1.1, -0.1, NAN),
    "schedule.cooldown_epochs": NUMBERS,
    "schedule.stop_epochs": NUMBERS,
    "schedule.final_factor": (1.1, -0.1, NAN),
    "schedule.pct_start": (1.1, -0.1, NAN),
    "schedule.div_factor": (*NUMBERS, 0.0),
    "schedule.final_div_factor": (*NUMBERS, 0.0),
    "schedule.cycle_momentum": SWITCH,
    "schedule.base_momentum": (*RATES, 0.99),  # above max_momentum
    "schedule.max_momentum": RATES,
    "eval.batch_size": NATURAL,
    "eval.every_epochs": NATURAL,
    "checkpoint.every_steps": (-1, 0.5),
    "checkpoint.every_minutes": NUMBERS,
    "checkpoint.report": ("first", None),
    "log.every_steps": NATURAL,
    "log.tensorboard": SWITCH,
    "log.wandb": (3, None),
    "log.progress": SWITCH,
}


def test_every_field_is_checked_in_one_place_and_has_bad_values_here():
    fields = list(flatten(common.get_config()))
    assert sorted(checks.CHECKS) == sorted(BAD) == sorted(fields)
    assert sum(map(len, checks._TABLES)) == len(fields)


def test_names_that_are_refused_without_jax_are_those_there_are():
    assert tokens.POOLS == field_checks.POOLS
    assert tuple(optim.OPTIMIZERS) == field_checks.OPTIMIZERS
    assert tuple(schedules.SCHEDULES) == field_checks.SCHEDULES
    assert tuple(muon.SCALES) == field_checks.MUON_SCALES
    assert all(callable(getattr(metrics, name)) for name in field_checks.LOSSES)
    assert tuple(average.WARMUPS) == field_checks.EMA_WARMUPS
    assert tuple(resample.KERNELS) == field_checks.INTERPOLATIONS


@pytest.mark.parametrize(
    "mistake",
    ["train.epochs=0", "optim.name=radam", "schedule.warmup_epochs=99", "data.train_split=a["],
)
def test_the_command_refuses_a_field_before_jax_is_imported(mistake):
    code = f"""
import runpy, sys
sys.argv = ["train_jax.py", "--config.{mistake}"]
try:
    runpy.run_path("train_jax.py", run_name="__main__")
finally:
    print([m for m in ("jax", "flax", "optax", "orbax", "matplotlib") if m in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True
    )
    assert out.returncode == 2
    assert f"error: config.{mistake.partition('=')[0]}=" in out.stderr
    assert out.stdout.strip() == "[]"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Neither network nor data; returns what was asked of them."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no network here")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(loading, "open_source", refuse)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    return asked


@pytest.mark.parametrize("field", BAD)
def test_every_field_is_refused_before_any_data_is_looked_up(field, offline, tmp_path):
    for value in BAD[field]:
        begin = time.process_time()
        with pytest.raises(UserError) as caught:
            train(changed(**{field.replace(".", "__"): value}), tmp_path / "run")
        assert time.process_time() - begin < 5  # 2 on a machine that does nothing else
        text = str(caught.value)
        group, _, key = field.rpartition(".")
        # What does not go together is told of one field, and names the other.
        others = text.startswith(f"config.{group}") and re.search(rf"\b{key}\b", text)
        assert text.startswith(f"config.{field}=") or others, text
        assert "expected" in text or "does not divide" in text
        assert text[-1] in ".…?"
    assert not offline
    assert not list(tmp_path.iterdir())


BINARY = {"train__loss": "binary_cross_entropy"}
FREE = "schedule_free_adamw"
ONECYCLE = {"schedule__name": "onecycle"}
SGD = {"optim__name": "sgd"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__epochs": "3"}, r"config.train.epochs='3': expected a whole number from 1"),
        ({"train__bach_size": 3}, r"bach_size is no field \(did you mean train.batch_size"),
        ({"optim": ConfigDict({"name": "sgd"})}, r"config.optim was replaced as a whole"),
        ({"optim": 3}, r"config.optim=3: expected a group of fields.*--config.optim.name=…"),
        ({"optim__nam": "x"}, r"config.optim.nam is no field \(did you mean optim.name"),
        (
            {"data__mean": (50.0,)},
            r"0 to 1 for each channel.*Divide a mean of 0..255 pixels by 255",
        ),
        ({"data__mean": (0.5,), "data__std": (0.5, 0.5)}, r"data.std=.*: expected 1 number,"),
        ({"model__name": "simple_cn"}, r"expected one of .* Did you mean simple_cnn\?"),
        ({"compare": ("simple_cn",)}, r"config.compare='simple_cn': .*Did you mean simple_cnn\?"),
        ({"model__name": "auto"}, r"init_from=None: expected weights .*init_from=timm/vit_small"),
        (
            {"model__init_from": "timm/resnet18.a1_in1k", "compare": ("simple_cnn",)},
            r"config.compare=\('simple_cnn',\): expected no further models with .*init_from",
        ),
        ({"compare": ("vit",)}, r"compare=\('vit',\): .*vit is named before"),
        ({"model__widths": (8,)}, r"model.widths=\(8,\): .*vit has no such keyword"),
        ({"model__name": "simple_cnn", "model__scan_layers": True}, r"model.scan_layers=True"),
        ({"compare": ("simple_cnn",), "model__head_dropout": 0.3}, r"vit, simple_cnn has no such"),
        ({"augment__resize": 33}, r"config.model: patch_size=4 does not divide img_size=33"),
        (
            {"augment__resize": 8, "augment__crop_size": 9},
            r"crop_size=9: expected at most 8 for images of 8x8 pixels",
        ),
        (
            {"augment__random_resized_crop": (8.0, 100.0)},
            r"random_resized_crop=\(8.0, 100.0\): expected .* such as 0.08,1.0; or \(\)",
        ),
        ({"augment__resize": 8, "augment__crop_padding": 8}, r"crop_padding=8: expected less th"),
        (
            {"optim__decay_exclude": ("norm", "nrom"), "optim__weight_decay": 0.1},
            r"'nrom' is in no",
        ),
        (
            {
                "optim__decay_exclude": ("nrom",),
                "optim__groups": (("^head", {"weight_decay": 0.1}),),
            },
            r"'nrom' is in no",
        ),
        (
            {"train__freeze": ("",)},
            r"train.freeze=\('',\): .*match all 80 parameters.*'\^\(\?!head\)'",
        ),
        (
            {"model__lora_rank": 4, "model__lora_targets": ("norm",)},
            r"config.model: lora_targets=\('norm',\): 'norm' names .*no matrices.*attn.qkv",
        ),
        (
            {"train__class_weights": (1.0, 2.0), "model__num_classes": 3},
            r"class_weights=\(1.0, 2.0\): expected a weight for each of 3 classes, or 'balanced'",
        ),
        (
            {"train__bce_threshold": 0.2},
            r"threshold=0.2: expected None with .*'cross_entropy'.*loss=binary_cross_entropy",
        ),
        (
            {**BINARY, "train__bce_threshold": 0.0, "train__label_smoothing": 0.1},
            r"bce_threshold=0.0: expected a number above 0 .*label_smoothing=0.1. Smoothing leaves",
        ),
        (
            {"train__freeze": ("^head",), "train__probe_epochs": 2},
            r"probe_epochs=2: expected 0 where the model has no head that trains. See config.train",
        ),
        (
            {"train__freeze": ("^(?!head)",), "train__probe_epochs": 2},
            "probe_epochs=2: expected 0 where the head is all that trains anyway",
        ),
        ({"train__epochs": 5, "schedule__warmup_epochs": 5}, r"Add --config.*warmup_epochs=1 to"),
        (
            {"train__patience": 3, "data__val_split": ""},
            r"train.patience=3: expected 0, because there are no validation.*data.val_split=",
        ),
        ({"schedule__unit": "epoch", **ONECYCLE}, "schedule.unit='epoch': expected 'step'"),
        ({"schedule__warmup_epochs": 1.0, **ONECYCLE}, "warmup_epochs=1.0: expected 0.0 with onec"),
        ({"optim__nesterov": True, **SGD}, "optim.nesterov=True: expected False without momentum"),
        ({"optim__name": "muon"}, r"momentum=0.0: expected more than 0.0 with muon. 0.95 is usual"),
        (
            {"optim__name": "muon", "optim__momentum": 0.9, "optim__muon_match": ("kernle",)},
            r"optim.muon_match=\('kernle',\): expected regexes .*'kernle' is in none",
        ),
        (
            {"optim__name": "muon", "optim__momentum": 0.9, "train__freeze": ("kernel$",)},
            r"optim.muon_match=\('kernel\$',\): expected .* all that 'kernel\$' finds is frozen",
        ),
        (
            {
                "optim__groups": (("^head", {"name": "muon", "momentum": 0.9}),),
                "optim__muon_match": (r"^blocks.*kernel$",),
            },
            r"muon_match=.*: expected regexes .* find nothing of the group '\^head'. adamw would",
        ),
        (
            {
                "optim__name": "muon",
                "optim__momentum": 0.9,
                "optim__groups": (("kernel$", {"name": "adamw"}),),
            },
            "expected regexes of what muon trains, and they find nothing of what is in no group",
        ),
        (
            {"train__freeze": ("^head",), "optim__lr_scale": (("^head", 9.0),)},
            r"optim.lr_scale=\['\^head'\]: .*all that '\^head' finds is frozen. Remove it, or fre",
        ),
        (
            {"optim__groups": ((".", {"beta1": 0.5}), ("^head", {"beta1": 0.8}))},
            r"groups=\['.', '\^head'\]: .*'\^head' finds is in groups before it.*narrower one f",
        ),
        (
            {"train__freeze": ("_token\b",)},
            r"freeze=\('_token\\x08',\): .* is in none. Write a backslash as \\\\, or",
        ),
        ({"optim__name": FREE}, "schedule.name='cosine': expected 'constant' with schedule_free"),
        (
            {"optim__name": FREE, "schedule__name": "constant", "train__ema_decay": 0.9},
            r"train.ema_decay=0.9: expected 0.0 with schedule_free_adamw",
        ),
        (
            {"optim__name": FREE, "schedule__name": "constant", "optim__lookahead_steps": 5},
            "lookahead_steps=5: expected 0 with schedule_free_adamw, which averages by itself",
        ),
        (
            {"optim__lookahead_steps": 5, "train__ema_decay": 0.9},
            r"train.ema_decay=0.9: expected 0.0 with config.optim.lookahead_steps",
        ),
        (
            {"train__ema_warmup": "timm"},
            "ema_warmup='timm': expected 'none' without config.train.ema_decay. The average is on",
        ),
        (
            {"augment__flip_mode": "alternating"},
            "flip_mode='alternating': expected 'random' without config.augment.flip. Images are",
        ),
        ({"schedule__name": "trapezoid"}, r"cooldown_epochs=0.0: .*above 0 up to 20.0.*A fifth to"),
        (
            {"schedule__length_epochs": 5.0, **ONECYCLE},
            "length_epochs=5.0: expected 0.0, or with cosi",
        ),
        (
            {"schedule__length_epochs": 5.0, "schedule__warmup_epochs": 5.0},
            "not including config.schedule.length_epochs=5",
        ),
        (
            {"optim__groups": (("head", {"beta1": 2.0}),)},
            r"optim.groups\[0\].beta1=2.0: expected a number from 0 .*Change it in config.optim.gr",
        ),
        (
            {"optim__groups": (("head", {"freeze": True}),)},
            r"groups\[0\].freeze=True: expected none but name, .*, muon_normalize and fields of th",
        ),
        (
            {"optim__groups": (("head", {"schedule.warmup_epochs": 30}),)},
            r"groups\[0\], with all else .*warmup_epochs=30.0: expected .*is the group's own: c",
        ),
    ],
)
def test_what_is_refused_says_what_to_do(changes, message):
    with pytest.raises(UserError, match=message):
        checks.check(changed(**changes))


def test_the_schedule_of_a_group_may_be_longer_than_the_run():
    recipe = get_config("airbench94_muon_cifar10")
    recipe.train.epochs = 2  # one of its groups has a schedule of 3
    checks.check(recipe)


def test_sizes_of_a_recipes_model_do_not_bind_another_one_named_by_hand():
    recipe = get_config("folder")
    recipe.model.name = "vit"
    leave_out_sizes(recipe, {"model.name": "vit", "train.epochs": 1})
    assert recipe.model.widths is None
    checks.check(recipe)
    recipe = get_config("vit_digits")
    recipe.model.name, recipe.compare = "simple_cnn", ("raster_vit",)
    leave_out_sizes(recipe, {"model.name": "simple_cnn"})
    assert recipe.model.num_heads == 4  # of the other model
    recipe.model.widths, recipe.model.name, recipe.compare = (8,), "vit", ()
    leave_out_sizes(recipe, {"model.name": "vit", "model.widths": (8,)})
    with pytest.raises(UserError, match=r"widths=\(8,\): .*vit has no such keyword"):
        checks.check(recipe)  # what was given by hand is not forgotten


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/home/me/pets", "write --config.data.name=folder:/home/me/pets."),
        ("./pets", "write --config.data.name=folder:./pets."),
        ("photos/pets", "If a folder of images is meant, write --config.data.name=folder:photos/p"),
        ("pets", "If a folder of images is meant, write --config.data.name=folder:pets."),
        ("cifar10", "To train on another size set config.augment.resize."),
    ],
)
def test_a_path_is_answered_with_the_name_it_needs(name, words, tmp_path, monkeypatch):
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        checks.check(changed(data__name=name, data__image_size=64))
    assert words in str(caught.value)


def test_values_that_go_together_pass():
    checks.check(changed())
    checks.check(changed(optim__weight_decay=1))  # whole numbers serve as numbers
    checks.check(changed(optim__nesterov=True, **SGD, **ONECYCLE))
    groups = ["^head", {"name": "muon", "momentum": 0.9, "learning_rate": 1}]
    checks.check(changed(optim__groups=(groups, (r"\.bias$", {"weight_decay": 0.0}))))
    checks.check(changed(train__epochs=1, schedule__warmup_epochs=0.5))
    checks.check(changed(model__patch_size=5))  # until the size of the images is known
    checks.check(changed(optim__decay_exclude=("nrom",)))  # nothing decays
    checks.check(changed(data__name="folder:x", data__image_size=64, data__val_split=""))
    checks.check(changed(data__name="imagenet2012", data__image_size=64))  # not known by now
    checks.check(changed(**BINARY, train__bce_threshold=0.0, train__bce_sum=True))


def test_a_comparison_is_refused_before_any_data_is_looked_up(offline, tmp_path):
    config = changed(compare=("simple_cnn", "mnist_cnn"), model__widths=(8, 8, 8))
    with pytest.raises(UserError, match=r"config.model: widths=\(8, 8, 8\): expected a tuple of 2"):
        several.train_and_compare(config, tmp_path / "runs")
    assert not offline
    assert not list(tmp_path.iterdir())
