"""`python train_jax.py` as a user runs it: help, a short run, and one paragraph for a mistake."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--config.model.embed_dim=8",
    "--config.model.depth=1",
    "--config.model.patch_size=4",
    "--config.data.train_split=train[:100]",
    "--config.data.val_split=train[100:150]",
    "--config.train.epochs=2",
    "--config.schedule.warmup_epochs=0",
    "--config.train.batch_size=50",
    "--config.eval.every_epochs=1",
]


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "train_jax.py"), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"COLUMNS": "80", "JAX_VIT_CNN_CACHE": str(cwd)} | environment,
    )


def test_help_answers_in_under_a_second(tmp_path):
    begin = time.monotonic()
    out = run("--help", cwd=tmp_path)
    seconds = time.monotonic() - begin
    assert "--config" in out.stdout
    assert "--workdir" in out.stdout
    assert seconds < 1


def test_short_run_then_its_results_then_another(tmp_path):
    first = run(*TINY, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "epoch   2" in first.stdout
    assert "test:" in first.stdout
    assert max(map(len, first.stdout.splitlines())) <= 80
    assert first.stderr == ""
    again = run(*TINY, cwd=tmp_path)
    assert again.returncode == 0
    assert "finished" in again.stdout
    assert "epoch   1" not in again.stdout
    anew = run(*TINY, "--if_finished=again", cwd=tmp_path)
    assert "epoch   1" in anew.stdout
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"vit_digits", "vit_digits.1"}
    refused = run(*TINY, "--config.seed=5", cwd=tmp_path)
    assert refused.returncode == 2
    assert "config.seed: 0 there, 5 asked for" in refused.stderr


def make_folder(folder, *, corrupt=False, empty=False):
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(0 if empty and name == "dog" else 3):
            Image.new("RGB", (8, 8), (i, i, i)).save(folder / name / f"{i}.png")
    if corrupt:
        (folder / "cat" / "bad.png").write_bytes(b"\x89PNG nothing")
    return folder


NO_DATA = ["--config.data.name=cifar10", "--config.data.data_dir=d"]  # may be downloaded
MISTAKES = {
    "missing config": (["--config=nope.py"], "nope.py cannot be read"),
    "not a config": ([f"--config={ROOT / 'README.md'}"], "get_config"),
    "unknown field": (["--config.train.epoch=3"], "did you mean epochs"),
    "wrong type": (
        ["--config.train.epochs=five"],
        "error: --config.train.epochs=five: expected a whole number, for example --config",
    ),
    "no switch": (["--config.augment.flip=maybe"], "expected true or false"),
    "no numbers": (["--config.data.mean=a,b"], "expected a number from 0 to 1 for each channel"),
    "not finite": (["--config.optim.learning_rate=nan"], "expected a number"),
    "negative": (["--config.train.batch_size=-4"], "of at least 1"),
    "no name": (["--config.data.name="], "config.data.name='': expected"),
    "warm-up": (
        ["--config.train.epochs=5"],
        "Add --config.schedule.warmup_epochs=1 to the command",
    ),
    "whole group": (["--config.train={}"], "one by one"),
    "unknown flag": (["--workdri=x"], "Did you mean --workdir=x ?"),
    "field as a flag": (["--epochs=3"], "Did you mean --config.train.epochs=3 ?"),
    "a word": (["configs/vit_digits.py"], "a file of that name (did you mean vit_digits?)"),
    "patch size": (["--config.model.patch_size=3"], "patch_size=3 does not divide img_size=8"),
    "heads": (["--config.model.num_heads=7"], "num_heads=7 does not divide"),
    "unknown data": (["--config.data.name=cifar11"], "cifar10"),
    "missing data": (
        ["--config.data.name=cifar10", "--config.data.download=False", "--config.data.data_dir=d"],
        "python -m jax_train prepare cifar10",
    ),
    "bad split": (["--config.data.train_split=training"], "train"),
    "huge batch": (["--config.train.batch_size=9999"], "batch_size=9999"),
    "optimizer": (["--config.optim.name=lars"], "adamw"),
    "seeds": (["--seeds", "0", "1", "0"], "--seeds 0 1 0: 0 stands there twice"),
    "seed and seeds": (["--seeds=0,1", "--config.seed=3"], "--config.seed and --seeds"),
    "model, before data": ([*NO_DATA, "--config.model.name=vjt"], "Did you mean vit?"),
    "mesh, before data": ([*NO_DATA, "--config.mesh.fsdp=7"], "mesh.fsdp=7: expected a divisor"),
    "augmentation, before data": ([*NO_DATA, "--config.augment.crop_padding=-1"], "from 0 to"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_gets_one_paragraph(mistake, tmp_path):
    arguments, text = MISTAKES[mistake]
    check_refusal(run(*arguments, cwd=tmp_path), text)
    assert {path.name for path in tmp_path.iterdir()} <= {"xla"}  # neither a run folder nor data


def check_refusal(out, text):
    message = " ".join(out.stderr.split())
    assert out.returncode == 2, out.stderr
    assert message.startswith("error: ")
    assert "Traceback" not in message
    assert text in message
    assert len(message) < 1500
    assert not out.stdout


@pytest.mark.parametrize("error", ["ValueError", "TypeError", "OSError", "KeyError"])
def test_an_error_within_a_config_file_is_told_without_a_traceback(error, tmp_path):
    (tmp_path / "mine.py").write_text(f"def get_config():\n    raise {error}('no such thing')\n")
    out = run("--config=mine.py", cwd=tmp_path)
    check_refusal(out, "The config cannot be loaded: ")
    assert "no such thing" in " ".join(out.stderr.split())


@pytest.mark.parametrize("name", ["configs/vit_cifar.py", "vit_cifar10", "configs/folders.py"])
def test_a_missing_config_file_names_the_nearest_recipe(name):
    out = run("--config", name, cwd=ROOT)
    meant = "configs/folder.py" if "folder" in name else "configs/vit_cifar10.py"
    check_refusal(out, f"--config {name} cannot be read: there is no such file.")
    assert f"\nDid you mean {meant} ?\nIn configs there are:" in out.stderr
    assert max(map(len, out.stderr.splitlines())) <= 80


@pytest.mark.parametrize(
    ("flaw", "text"), [("corrupt", "bad.png"), ("empty", "dog")], ids=["corrupt", "empty"]
)
def test_flawed_image_folder_gets_one_paragraph(flaw, text, tmp_path):
    folder = make_folder(tmp_path / "pets", **{flaw: True})
    out = run(f"--config.data.name=folder:{folder}", cwd=tmp_path)
    check_refusal(out, text)


def test_workdir_that_cannot_be_written_gets_one_paragraph(tmp_path):
    (tmp_path / "file").write_text("in the way")
    out = run(*TINY, "--workdir", tmp_path / "file" / "run", cwd=tmp_path)
    check_refusal(out, "--workdir")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("jax_models", ("torch", "tensorflow_datasets", "orbax")),
        ("jax_train.several", ("torch", "tensorflow_datasets", "matplotlib", "sklearn", "PIL")),
    ],
)
def test_imports_stay_light(module, heavy):
    code = f"import sys, {module}\nprint([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
