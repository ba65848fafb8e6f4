"""TensorBoard and Weights & Biases get the figures of metrics.csv."""

import csv
import importlib.util
import json
import struct
import subprocess
import sys

import pytest

from configs import common
from jax_train.errors import UserError
from jax_train.runs import log as report
from jax_train.runs import trackers

ROWS = [
    {
        "step": 3,
        "split": "train",
        "epoch": 0.5,
        "seconds": 2,
        "loss": 1.25,
        "top1": 0.5,
        "images_per_sec": "",
    },
    {"step": 6, "split": "train", "epoch": 1.0, "seconds": 3, "loss": 0.75, "top1": 0.625},
    {"step": 6, "split": "val", "epoch": 1.0, "seconds": 3, "loss": 0.5, "top1": 0.75},
]


def log_rows(config, folder, step=0, rows=ROWS):
    folder.mkdir(exist_ok=True)
    with report.RunLog(config, folder, step, 12, active=True) as log:
        for row in rows:
            log.row(**row)


def events(folder):
    """(step, tag, value) of all scalars in TensorBoard's files, in order of the files' names."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found


def test_tensorboard_gets_every_figure(tmp_path):
    config = common.get_config()
    config.log.tensorboard = True
    log_rows(config, tmp_path / "run")
    assert events(tmp_path / "run/tensorboard") == [
        (3, "train/epoch", 0.5),
        (3, "train/loss", 1.25),
        (3, "train/top1", 0.5),
        (6, "train/epoch", 1.0),
        (6, "train/loss", 0.75),
        (6, "train/top1", 0.625),
        (6, "val/epoch", 1.0),
        (6, "val/loss", 0.5),
        (6, "val/top1", 0.75),
    ]
    with open(tmp_path / "run/metrics.csv", newline="") as file:
        assert [row["loss"] for row in csv.DictReader(file)] == ["1.25", "0.75", "0.5"]


def test_wandb_gets_every_figure_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = common.get_config()
    config.log.wandb = "digits"
    logged = []
    monkeypatch.setattr(
        trackers.WandB,
        "log",
        lambda self, step, values, log=trackers.WandB.log: (
            logged.append((step, values)),
            log(self, step, values),
        ),
    )
    log_rows(config, tmp_path / "run", rows=ROWS[:2])
    log_rows(config, tmp_path / "run", step=6, rows=ROWS[2:])
    assert logged[0] == (3, {"train/epoch": 0.5, "train/loss": 1.25, "train/top1": 0.5})
    runs = list((tmp_path / "run/wandb").glob("offline-run-*"))
    name = (tmp_path / "run/wandb_id").read_text()
    assert len(runs) == 2
    assert all(f"-{name}" in path.name for path in runs)  # the second goes on with the first
    assert all(list(path.glob("*.wandb")) for path in runs)


_ON_A_FULL_DISK = """
import contextlib, resource, sys
from pathlib import Path
from jax_train.runs.trackers import TensorBoard
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
board = TensorBoard(Path(sys.argv[1]), 0)
try:
    for step in range(1000):
        board.log(step, {"train/loss": 0.5})
except OSError as error:
    print("told:", error)
with contextlib.suppress(OSError):
    board.close()
"""


def test_tensorboard_tells_of_a_full_disk_and_waits_for_nothing(tmp_path):
    command = [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "told: [Errno 27]" in done.stdout


def test_all_of_a_log_is_closed_though_a_part_cannot_be(tmp_path, monkeypatch):
    closed = []

    class Full:
        def close(self):
            closed.append(self)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers, "start", lambda *_: [Full(), Full()])
    log = report.RunLog(common.get_config(), tmp_path, 0, 12, active=True)
    with pytest.raises(OSError, match="No space left"), log:
        pass
    assert len(closed) == 2
    assert log._csv.file.closed


@pytest.mark.parametrize(("field", "value"), [("tensorboard", True), ("wandb", "digits")])
def test_a_tracker_that_is_not_installed_is_told_before_training(field, value, monkeypatch):
    config = common.get_config()
    trackers.check(config)
    config.log[field] = value
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=rf"config.log.{field}={value!r}: .*pip install -e '.\[{field}\]'"
    ):
        trackers.check(config)


def test_nothing_is_written_unless_asked_for(tmp_path):
    log_rows(common.get_config(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"metrics.csv"}
    assert json.dumps(common.get_config().log.to_dict())
