"""Two processes of `train_jax.py` train one model, and one alone goes on with their run."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from configs import vit_digits
from jax_train.runs.folder import read_config
from jax_train.train import train
from tests.pictures import make

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
    "--config.log.every_steps=1",
]
# Random boxes of whole files, two of each in a batch, mixed with those of other files.
STREAMED = (
    "--config.data.memory_limit=0",
    "--config.data.image_size=12",
    "--config.data.test_split=train[100:]",
    "--config.augment.crop_size=8",
    "--config.augment.random_resized_crop=0.3,1.0",
    "--config.augment.mixup=0.8",
    "--config.augment.repeats=2",
    "--config.train.batch_size=48",
)

pytestmark = pytest.mark.xdist_group("layouts")  # not beside other groups of processes

_LIMIT = 400  # seconds; on a machine in use by others


def start(*arguments, folder):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train_jax.py"), *TINY, *map(str, arguments)],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "80", "JAX_VIT_CNN_CACHE": str(folder)},
    )


def run_two(*arguments, folder):
    """Return (code, stdout, stderr) of both, without the lines of the library that joins them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        start(
            f"--coordinator={address}",
            "--num_processes=2",
            f"--process_id={i}",
            *arguments,
            folder=folder,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=_LIMIT) for process in started]
    finally:  # one that waits for the other would stay
        for process in started:
            process.kill()

    def own(text):
        return [line for line in text.splitlines() if not line.startswith("[Gloo]")]

    return [
        (process.returncode, own(out), own(err))
        for process, (out, err) in zip(started, outputs, strict=True)
    ]


def losses(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module", params=["in memory", "streamed"])
def one(request, tmp_path_factory):
    """The run of one process, and what it is told: of photos that stream their crops are mixed."""
    folder, how = tmp_path_factory.mktemp("one"), ()
    if request.param == "streamed":
        photos = make(folder / "photos", {"cat": 75, "dog": 75}, size=(15, 21))
        how = (f"--config.data.name=folder:{photos}", *STREAMED)
    process = start("--workdir", folder / "run", *how, folder=folder)
    assert process.communicate(timeout=_LIMIT)[1] == ""
    return folder / "run", how


def test_two_processes_make_one_run(tmp_path, one):
    (one, how), workdir = one, tmp_path / "run"
    arguments = ("--workdir", workdir, *how)
    (code, out, err), (other_code, other_out, other_err) = run_two(*arguments, folder=tmp_path)
    assert (code, err, other_code, other_err) == (0, [], 0, [])
    assert "cpu, 2 devices (jit) in 2 processes" in "\n".join(out)
    assert other_out == []
    assert losses(workdir) == pytest.approx(losses(one), rel=1e-4)
    files = {path.name for path in workdir.iterdir()}
    assert files == {path.name for path in one.iterdir()}
    # One process alone takes the finished run up.
    (workdir / "results.json").unlink()
    process = start(*arguments, folder=tmp_path)
    out, err = process.communicate(timeout=_LIMIT)
    assert (process.returncode, err) == (0, "")
    assert "going on after step 4 of 4" in out
    assert losses(workdir) == pytest.approx(losses(one), rel=1e-4)


def test_a_mistake_ends_all_processes(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "something").touch()
    (code, _, err), (other_code, _, other_err) = run_two("--workdir", folder, folder=tmp_path)
    assert code == other_code == 2
    assert "is not empty and holds no run" in " ".join(err)
    assert other_err == []


@pytest.mark.parametrize("one", ["in memory"], indirect=True)
def test_two_processes_start_from_the_weights_of_a_run(tmp_path, one):
    source, _ = one
    fields = {"model.init_from": str(source), "train.epochs": 1}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    outputs = run_two("--workdir", tmp_path / "run", *flags, folder=tmp_path)
    assert [(code, err) for code, _, err in outputs] == [(0, []), (0, [])]
    config = vit_digits.get_config()
    config.update_from_flattened_dict(dict(map(field_of, TINY)) | fields)
    train(config, tmp_path / "alone")
    together, alone = tmp_path / "run", tmp_path / "alone"
    assert losses(together) == pytest.approx(losses(alone), rel=1e-4)
    assert losses(together)[0] < losses(source)[0]
    pins = [read_config(folder).model.init_sha256 for folder in (together, alone)]
    assert pins[0] == pins[1]


def field_of(flag):
    """A field and its value, of '--config.FIELD=VALUE'."""
    field, value = flag.removeprefix("--config.").split("=", 1)
    return field, int(value) if value.isdigit() else value
