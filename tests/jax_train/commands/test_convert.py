"""`python -m jax_train convert`: there and back bit for bit, or one paragraph and no file."""

import argparse
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import jax_models
from jax_models import low_rank
from jax_train import __main__, data
from jax_train.commands import convert
from jax_train.engine.recipe import NO_KEYWORDS
from jax_train.errors import UserError
from jax_train.runs import initial, trained
from jax_train.train import train
from tests import tiny
from tests.jax_train.commands.convert_cases import (
    RASTER,
    SETTINGS,
    assert_refused,
    assert_same_state,
    read,
    run,
    source_state,
)
from tests.with_torch import torch, torch_ref

# There and back


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
@pytest.mark.parametrize(("name", "torch_ending"), [("raster_vit", ".pt"), ("simple_cnn", ".bin")])
def test_there_and_back_keeps_every_bit(name, torch_ending, ending, tmp_path, capsys):
    state = source_state(name)
    first, middle, last = tmp_path / "a.pth", tmp_path / f"b{ending}", tmp_path / f"c{torch_ending}"
    torch.save(state, first)
    assert run(first, middle, name=name) == 0
    assert_same_state(read(middle), state)
    assert run(middle, last, name=name) == 0
    back = read(last)
    assert {type(value) for value in back.values()} == {torch.Tensor}
    assert_same_state(back, state)
    torch_ref.create_model(name, **SETTINGS[name]).load_state_dict(back, strict=True)
    values = sum(tensor.numel() for tensor in state.values())
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: {len(state)} tensors of {name}, {values:,} values." for path in (middle, last)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {first.name, middle.name, last.name}


def test_safetensors_and_npz_hold_the_same(source, tmp_path):
    assert run(source, tmp_path / "a.npz") == 0
    assert run(tmp_path / "a.npz", tmp_path / "b.safetensors") == 0
    assert_same_state(read(tmp_path / "b.safetensors"), source_state())
    with safetensors.safe_open(tmp_path / "b.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_inside_a_checkpoint_is_found(key, prefix, tmp_path):
    state = {f"{prefix}{name}": value for name, value in source_state().items()}
    torch.save({"epoch": 7, key: state, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "b.npz") == 0
    assert_same_state(read(tmp_path / "b.npz"), source_state())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("inside", [True, False])
def test_a_class_token_beside_the_state_dict_is_taken(inside, prefix, tmp_path, capsys):
    state = source_state("mnist_vit")
    token = state.pop("class_random")
    held = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save(held, tmp_path / "without.pt")
    assert run(tmp_path / "without.pt", tmp_path / "out.npz", name="mnist_vit") == 2
    assert_refused(capsys, tmp_path, "missing: class_random [1, 1, 15]")
    held = {"state_dict": held} if inside else held
    torch.save(held | {"class_random": token}, tmp_path / "with.pt")
    assert run(tmp_path / "with.pt", tmp_path / "out.npz", name="mnist_vit") == 0
    assert_same_state(read(tmp_path / "out.npz"), source_state("mnist_vit"))


def test_class_tokens_that_are_left_out_are_noted(tmp_path, capsys):
    state, token = source_state("mlp_head_vit"), "patch_embedding_layer.class_parameter"
    first = state[token]
    state[token] = torch.cat([first, first + 1, first + 2])
    torch.save(state, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "b.npz", name="mlp_head_vit") == 0
    note, written = capsys.readouterr().out.splitlines()
    assert note.startswith(f"note: {token} differs between the 3 places")
    assert written.startswith(str(tmp_path / "b.npz"))
    np.testing.assert_array_equal(read(tmp_path / "b.npz")[token], first)


# Files that exist


def test_an_existing_file_is_replaced_only_when_told(source, tmp_path, capsys):
    target = tmp_path / "old.npz"
    target.write_bytes(b"an older file")
    assert run(source, target) == 2
    assert_refused(capsys, tmp_path, f"--to {target} exists", "--overwrite")
    assert target.read_bytes() == b"an older file"
    assert run(source, target, "--overwrite") == 0
    assert_same_state(read(target), source_state())


def test_a_folder_is_never_replaced(source, tmp_path, capsys):
    (tmp_path / "folder.npz").mkdir()
    assert run(source, tmp_path / "folder.npz", "--overwrite") == 2
    assert_refused(capsys, tmp_path, "folder.npz is a folder")
    assert not list((tmp_path / "folder.npz").iterdir())


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("ending", [".pt", ".npz", ".safetensors"])
def test_a_failed_write_leaves_the_older_file(ending, failing, source, tmp_path, monkeypatch):
    target = tmp_path / f"old{ending}"
    target.write_bytes(b"an older file")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, fail)
    assert run(source, target, "--overwrite") == 2
    assert target.read_bytes() == b"an older file"
    assert {path.name for path in tmp_path.iterdir()} == {"source.pt", target.name}


def test_a_missing_folder_is_named(source, tmp_path, capsys):
    assert run(source, tmp_path / "none" / "out.npz") == 2
    assert_refused(capsys, tmp_path, str(tmp_path / "none"), "does not exist")


# Models and settings


def test_an_unknown_model_is_named_with_those_there_are(source, tmp_path, capsys):
    assert run(source, tmp_path / "out.npz", name="raster_vti") == 2
    assert_refused(capsys, tmp_path, "--model raster_vti", "mean 'raster_vit'", "simple_cnn")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("num_classes", ["--set num_classes", "KEYWORD=VALUE"]),
        ("=3", ["--set =3", "KEYWORD=VALUE"]),
        ("mlp_dim=__import__('os')", ["--set mlp_dim=__import__", "no number"]),
        ("mlp_dim=two", ["'two' is no number"]),
        ("mlp_dim=", ["'' is no number"]),
        ("depth=3", ["depth was set before, to 2"]),
        ("rngs=3", ["--set rngs", "It takes: img_size, in_channels"]),
        ("wings=3", ["--set wings", "It takes: img_size, in_channels"]),
    ],
)
def test_a_bad_setting_is_named(setting, words, source, tmp_path, capsys):
    settings = {key: value for key, value in RASTER.items() if key != "mlp_dim"}
    assert run(source, tmp_path / "out.npz", f"--set={setting}", settings=settings) == 2
    assert_refused(capsys, tmp_path, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 4}, ["num_heads=4 does not divide embed_dim=21"]),
        ({"depth": 0}, ["depth=0: expected a whole number"]),
        ({"mlp_dim": None}, ["mlp_dim=None"]),
    ],
)
def test_settings_the_model_cannot_be_built_with_are_named(change, words, source, tmp_path, capsys):
    assert run(source, tmp_path / "out.npz", settings=RASTER | change) == 2
    assert_refused(capsys, tmp_path, "--model raster_vit", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": 23}, ["misshapen: fc.weight is [19, 21], the model has [23, 21]"]),
        ({"depth": 1}, ["unexpected: encoder.layers.1.0.weight", "more"]),
        ({"depth": 3, "num_classes": 23}, ["misshapen: fc.weight", "missing: encoder.layers.2"]),
    ],
)
def test_a_misfit_says_which_settings_there_are(change, words, source, tmp_path, capsys):
    assert run(source, tmp_path / "out.npz", settings=RASTER | change) == 2
    assert_refused(
        capsys,
        tmp_path,
        "does not fit --model raster_vit",
        "--set KEYWORD=VALUE",
        "num_classes=10",
        "depth=3",
        *words,
    )


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["raster_vit", "simple_cnn", "mnist_vit", "mlp_head_vit"])
def test_a_file_of_another_model_names_that_model(name, prefix, tmp_path, capsys):
    state = {f"{prefix}{key}": value for key, value in source_state(name).items()}
    torch.save(state, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "out.npz", name="mnist_cnn", settings={}) == 2
    err = capsys.readouterr().err
    assert f"The file looks like a {name} checkpoint: use --model {name}." in err
    assert err.count("\n  missing: ") == convert.MOST_PROBLEMS  # of 8
    assert err.count("\n  unexpected: ") == convert.MOST_PROBLEMS
    assert "… and 4 more missing" in err
    assert f"… and {len(state) - convert.MOST_PROBLEMS} more unexpected" in err
    assert len(err.splitlines()) < 16


def test_a_file_like_no_model_gets_no_guess(tmp_path, capsys):
    torch.save({"a.weight": torch.zeros(3), "conv1.weight": torch.zeros(3)}, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "out.npz", settings={}) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "looks like" not in err
    assert "--set KEYWORD=VALUE" in err


# Without PyTorch


def test_torch_is_needed_for_its_own_files_only(source, tmp_path, capsys, monkeypatch):
    assert run(source, tmp_path / "a.npz") == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert run(source, tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "--from", "need PyTorch", "pip install torch")
    assert run(tmp_path / "a.npz", tmp_path / "out.pt") == 2
    assert_refused(capsys, tmp_path, f"--to {tmp_path / 'out.pt'}", "need PyTorch")
    assert run(tmp_path / "a.npz", tmp_path / "b.safetensors") == 0


def test_the_command_runs_on_its_own_and_leaves_torch_alone(source, tmp_path):
    assert run(source, tmp_path / "a.npz") == 0
    program = """if True:
        import sys
        from jax_train.__main__ import main
        code = main(sys.argv[1:])
        assert "torch" not in sys.modules
        sys.exit(code)
    """
    given = [f"--set={key}={value!r}" for key, value in RASTER.items()]
    paths = ["--from", tmp_path / "a.npz", "--to", tmp_path / "b.safetensors"]
    command = ["convert", "--model", "raster_vit", *paths, *given]
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert_same_state(read(tmp_path / "b.safetensors"), source_state())


def test_errors_can_be_caught_from_python(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        convert.run(
            argparse.Namespace(
                model="vit",
                source=tmp_path / "a.pt",
                target=tmp_path / "b.npz",
                settings=[],
                adapter=False,
                img_size=None,
            )
        )


# Runs

pages = pytest.mark.xdist_group("pages")


@pages
@pytest.mark.parametrize("name", ["vit", "simple_cnn"])
def test_the_weights_of_a_run_go_into_the_mirror(name, compared_runs, tmp_path, capsys):
    pytest.importorskip("torch")
    folder, target = compared_runs[0] / name, tmp_path / "trained.pt"
    assert __main__.main(["convert", "--from", str(folder), "--to", str(target)]) == 0
    assert f"tensors of {name}" in capsys.readouterr().out
    run = trained.open_run(folder)
    known = jax_models.model_keywords(name)
    fields = run.config.model.items()
    settings = {key: value for key, value in fields if key in known and value is not None}
    mirror = torch_ref.create_model(name, **settings).eval()
    mirror.load_state_dict(torch.load(target, weights_only=True))
    images = data.load_split(run.config, run.config.data.test_split).images[:7]
    fields = run.config.data
    pixels = (images / 255 - np.array(fields.mean)) / np.array(fields.std)
    with torch.no_grad():
        theirs = mirror(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    np.testing.assert_allclose(run.logits(images), theirs, atol=1e-5, rtol=0)


@pages
@pytest.mark.parametrize("given", [["--model", "simple_cnn"], ["--set", "depth=3"]])
def test_a_run_knows_its_model(given, compared_runs, tmp_path, capsys):
    paths = ["--from", str(compared_runs[0] / "vit"), "--to", str(tmp_path / "x.npz")]
    assert __main__.main(["convert", *paths, *given]) == 2
    assert "is a run of vit" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_file_of_weights_needs_the_name_of_its_model(tmp_path, capsys):
    (tmp_path / "a.npz").touch()
    paths = ["--from", str(tmp_path / "a.npz"), "--to", str(tmp_path / "b.npz")]
    assert __main__.main(["convert", *paths]) == 2
    assert "such as --model vit" in capsys.readouterr().err


# As others save


STATE = source_state("simple_cnn")
SAVED = {
    "a checkpoint": {"state_dict": STATE, "optimizer": {"state": {}, "lr": 0.1}, "epoch": 3},
    "another": {"model_state_dict": STATE, "optimizer_state_dict": {"param_groups": [{}]}},
    "one in another": {"model": {"state_dict": STATE, "epoch": 3}, "args": {"lr": 0.1}},
    "of Lightning": {"state_dict": {f"model.{k}": v for k, v in STATE.items()}, "loops": {}},
    "compiled": {"net": {f"module._orig_mod.{k}": v for k, v in STATE.items()}, "acc": 0.9},
}


@pytest.mark.parametrize("how", SAVED)
def test_weights_come_as_others_save_them(how, tmp_path, capsys):
    torch.save(SAVED[how], tmp_path / "saved.ckpt")
    assert run(tmp_path / "saved.ckpt", tmp_path / "out.npz", name="simple_cnn") == 0
    assert_same_state(read(tmp_path / "out.npz"), STATE)
    out = capsys.readouterr().out
    wrapped = how in ("of Lightning", "compiled")
    assert out.startswith("note: '") == wrapped
    assert ("of a wrapped model left out of the names." in out) == wrapped


@pytest.mark.parametrize(
    "ending", [".ckpt", ".pth.tar", ".PT", ".Pth", ".BIN", ".SAFETENSORS", ".NPZ", ".CKPT"]
)
def test_endings_of_any_case_and_of_others(ending, source, tmp_path):
    first, second = tmp_path / f"first{ending}", tmp_path / "second.npz"
    assert run(source, first) == 0
    assert run(first, second) == 0
    assert_same_state(read(second), source_state())


def test_a_run_with_adapters_is_written_whole_or_apart(tmp_path, capsys):
    run = tmp_path / "run"
    small = {"model.lora_rank": 2, "train.epochs": 1, "train.freeze": ("bias$",)}
    train(tiny.config(**small), run)
    assert re.search(r"vit: [\d,]+ parameters, of which \d+ train\n", capsys.readouterr().out)
    found = trained.open_run(run)
    images = data.load_split(found.config, "test[:5]").images
    whole = tmp_path / "whole.safetensors"
    assert __main__.main(["convert", "--from", str(run), "--to", str(whole)]) == 0
    settings = {k: v for k, v in found.config.model.items() if "lora" not in k and v is not None}
    settings = {key: settings[key] for key in settings if key not in NO_KEYWORDS}
    model = jax_models.create_model("vit", rngs=nnx.Rngs(0), **settings)
    jax_models.torch_weights.load_file(model, whole)
    logits = found.logits(images)
    ours = nnx.jit(lambda model, x: model(x))(model, found.recipe.inputs(images))
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-5)
    apart = tmp_path / "adapter_model.safetensors"
    assert __main__.main(["convert", "--from", str(run), "--to", str(apart), "--adapter"]) == 0
    tensors = safetensors.numpy.load_file(apart)
    assert sum(name.endswith(".lora_A.weight") for name in tensors) == 2
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described["r"] == described["lora_alpha"] == 2
    config = tiny.config(**{"model.init_from": str(run)})
    source = initial.read(config, tmp_path / "next").found.opened.model  # whole, to start from
    np.testing.assert_array_equal(
        source.blocks[0].attn.qkv.kernel[...], model.blocks[0].attn.qkv.kernel[...]
    )
    assert not low_rank.adapters(source)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (
            "run",
            "a.safetensors",
            "--to .*: with --adapter expected FOLDER/adapter_model.safe",
        ),
        ("weights.pt", "adapter_model.safetensors", "--from .*expected a run with lora_rank"),
    ],
)
def test_adapters_that_cannot_be_written_apart(source, target, message, tmp_path, capsys):
    arguments = ["convert", "--from", str(tmp_path / source), "--to", str(tmp_path / target)]
    assert __main__.main([*arguments, "--adapter"]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
