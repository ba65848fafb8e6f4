"""Runs that are stopped, killed or damaged end with the bits of a run that was not."""

import csv
import json
import math
import os
import shutil
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_train import several
from jax_train import train as loop
from jax_train.engine.program import Program
from jax_train.errors import UserError
from jax_train.machine import stopping
from jax_train.machine.stopping import Stopped
from jax_train.runs import checkpoint, checksums
from jax_train.runs import folder as run_folder
from jax_train.runs.results import epochs_of, summary
from jax_train.saving import Patience, Saver
from jax_train.train import train
from tests import tiny
from tests.pictures import make

PER_EPOCH, STEPS = 4, 12


# A probe of the head, then adapters, at rates by layer; a call of 3 steps stops at the border.
PARTLY = {"train.probe_epochs": 1, "train.steps_per_call": 3, "optim.layer_decay": 0.7}
PARTLY |= {"model.lora_rank": 2, "train.class_weights": ("balanced",), "optim.clip_norm": 1.0}
MUON = {"optim.name": "muon", "optim.momentum": 0.9, "optim.groups": (("^head", {"name": "lamb"}),)}
FREE = {"optim.name": "schedule_free_adamw", "schedule.name": "constant", "optim.beta1": 0.8}
FREE |= {"optim.groups": (("bias$", {"learning_rate": 0.01}),)}

# What follows from an image's place in the split, from the step and from the epoch.
MIXED = {"augment.flip": True, "augment.flip_mode": "alternating", "augment.crop_mode": "reflect"}
MIXED |= {"augment.mixup": 0.8, "augment.cutmix": 1.0, "augment.mix_off_epoch": 2}
MIXED |= {"augment.auto_augment": "ta_wide", "augment.repeats": 2, "augment.erase_probability": 0.5}


# Crops of whole files, several of each in a batch, on another loss.
CROPPED = {"data.memory_limit": 0.0, "data.image_size": 12, "data.train_split": "train[:40]"}
CROPPED |= {"data.val_split": "train[40:]", "data.test_split": "train[40:]"}
CROPPED |= {"augment.random_resized_crop": (0.3, 1.0), "augment.crop_size": 8}
CROPPED |= {"augment.mixup": 0.8, "augment.repeats": 3, "train.batch_size": 10}
CROPPED |= {"train.loss": "binary_cross_entropy", "train.bce_threshold": 0.2, "optim.name": "lamb"}


def state_of(folder):
    """Bits of the last checkpoint, rows without times, and the other files' text."""
    import orbax.checkpoint as ocp

    last = max(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    tree = ocp.StandardCheckpointer().restore(folder.absolute() / f"checkpoints/{last}/state")
    with open(folder / "metrics.csv", newline="") as file:
        rows = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_sec")}
            for row in csv.DictReader(file)
        ]
    bits = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return last, bits, rows, (folder / "confusion.csv").read_text()


def stop_after(monkeypatch, *steps):
    """Send SIGTERM to this process after each of these steps."""
    is_due, left = Saver.is_due, list(steps)

    def signalling(self, before, step):
        if step in left:
            left.remove(step)
            os.kill(os.getpid(), signal.SIGTERM)
        return is_due(self, before, step)

    monkeypatch.setattr(Saver, "is_due", signalling)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 48 images."""
    return make(tmp_path_factory.mktemp("photos"), {"cat": 24, "dog": 24}, size=(15, 21))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """State of a run that was not stopped, for each config asked for."""
    known = {}

    def get(**changes):
        key = repr(sorted(changes.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("unbroken") / "run"
            train(tiny.config(**changes), folder)
            known[key] = state_of(folder)
        return known[key]

    return get


@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        ({}, (1, 2, 3, 5, 7, 10)),
        ({"model": "simple_cnn"}, (2, 6)),
        ({"train.steps_per_call": 2}, (2, 6)),
        ({"optim.name": "sgd", "optim.momentum": 0.9, "schedule.name": "onecycle"}, (5,)),
        ({"data.memory_limit": 0.0, **MIXED}, (3, 7)),
        (CROPPED, (6,)),
        ({"parallel": "pmap", "train.accumulate_steps": 2}, (6,)),
        ({"dtype": "bfloat16", "model.remat": True}, (5,)),
        (PARTLY, (3, 7)),
        ({"model": "simple_cnn", "train.ema_decay": 0.8, **MUON}, (5,)),
        (FREE, (5,)),
        ({"train.patience": 1, "optim.learning_rate": 1e-12}, (2, 6)),  # ends after step 8
    ],
)
def test_stopped_at_any_step_a_run_ends_with_the_same_bits(
    unbroken, photos, tmp_path, monkeypatch, changes, stops
):
    if changes is CROPPED:
        changes = {"data.name": f"folder:{photos}", **changes}
    expected = unbroken(**changes)
    stop_after(monkeypatch, *stops)
    for step in stops:
        with pytest.raises(Stopped, match=f"after step {step} of 12"):
            train(tiny.config(**changes), tmp_path / "run")
        assert run_folder.results(tmp_path / "run") is None
    train(tiny.config(**changes), tmp_path / "run")
    assert state_of(tmp_path / "run") == expected


def test_a_kill_between_checkpoints_goes_back_to_the_last(unbroken, tmp_path, monkeypatch):
    is_due = Saver.is_due

    def killed(self, before, step):
        if step == 7:
            raise KeyboardInterrupt
        return is_due(self, before, step)

    config = tiny.config(**{"checkpoint.every_steps": 3})
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "is_due", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert (
        max(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit()) == 6
    )
    train(config, tmp_path / "run")
    assert state_of(tmp_path / "run") == unbroken()


def test_a_signal_that_is_sent_double_is_one(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with stopping.StopSignals() as signals:
        for seconds, expected in ((60, []), (60, []), (0, [128 + signal.SIGTERM])):
            monkeypatch.setattr(stopping, "_DOUBLE_SECONDS", seconds, raising=False)
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.asked
            assert codes == expected


def test_a_second_signal_ends_at_once(monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    before = signal.getsignal(signal.SIGINT)
    with stopping.StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked
        assert codes == []
        assert "once more stops at once" in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGTERM)
        assert codes == [128 + signal.SIGTERM]
        assert "goes on from the last checkpoint, if any" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_checkpoints_come_every_so_many_steps_and_minutes(tmp_path):
    config = tiny.config(**{"checkpoint.every_steps": 3, "train.epochs": 2})
    saved, save = [], checkpoint.Checkpoints.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            checkpoint.Checkpoints,
            "save",
            lambda self, progress, step, *rest: (
                saved.append(step),
                save(self, progress, step, *rest),
            ),
        )
        train(config, tmp_path / "steps")
        assert saved == [3, 4, 6, 8]
        saved.clear()
        minutes = tiny.config(**{"checkpoint.every_minutes": 1e-9, "train.epochs": 2})
        train(minutes, tmp_path / "minutes")
        assert saved == [3, 4, 6, 8]  # log points and evaluations


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run stopped after step 6, with the checkpoints of steps 4 and 6."""
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Stopped):
            train(tiny.config(), tmp_path / "run")
    return tmp_path / "run"


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def data_files(step):
    return [p for p in step.rglob("*") if p.is_file() and p.stat().st_size > 100]


FAULTS = {
    "flipped": lambda step: [flip(path) for path in data_files(step)],
    "truncated": lambda step: [
        os.truncate(path, path.stat().st_size // 2) for path in data_files(step)
    ],
    "deleted": lambda step: [path.unlink() for path in data_files(step)],
    "emptied": lambda step: shutil.rmtree(step / "state"),
    "no checksums": lambda step: shutil.rmtree(step / "meta"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_set_aside_and_an_older_one_used(unbroken, stopped, capfd, fault):
    FAULTS[fault](stopped / "checkpoints/6")
    capfd.readouterr()
    train(tiny.config(), stopped)
    out, err = capfd.readouterr()
    assert "the checkpoint of step 6 is damaged" in err
    assert "6.damaged" in " ".join(err.split())
    assert len(err.splitlines()) <= 4
    assert "going on after step 4 of 12" in out
    assert (stopped / "checkpoints/6.damaged").is_dir()
    assert state_of(stopped) == unbroken()


def test_with_all_checkpoints_damaged_a_run_starts_again(unbroken, stopped, capfd):
    for step in ("4", "6"):
        flip(max(data_files(stopped / "checkpoints" / step), key=lambda p: p.stat().st_size))
    train(tiny.config(), stopped)
    assert capfd.readouterr().err.count("is damaged") == 2
    assert state_of(stopped) == unbroken()


def test_any_changed_bit_changes_a_checksum():
    random = np.random.default_rng(5)
    tree = {
        "a": random.normal(size=(3, 5, 7)).astype(np.float32),
        "b": random.integers(0, 9, 11).astype(np.int32),
        "c": np.float32(2.5),
    }
    before = np.asarray(checksums.checksums(jax.tree.map(jnp.asarray, tree)))
    for i, name in enumerate(tree):
        for _ in range(20):
            changed = {key: np.array(value) for key, value in tree.items()}
            words = changed[name].reshape(-1).view(np.uint32)
            words[random.integers(words.size)] ^= np.uint32(1 << int(random.integers(32)))
            after = np.asarray(checksums.checksums(jax.tree.map(jnp.asarray, changed)))
            assert [j for j in range(3) if before[j] != after[j]] == [i]
    swapped = dict(tree, a=tree["a"][::-1].copy())
    after = np.asarray(checksums.checksums(jax.tree.map(jnp.asarray, swapped)))
    assert after[0] != before[0]


def test_a_folder_in_use_is_refused_and_a_dead_runs_lock_is_not_held(tmp_path):
    folder = tmp_path / "run"
    with run_folder.locked(folder):
        with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} on"):
            train(tiny.config(), folder)
        with pytest.raises(UserError, match="is in use"):
            run_folder.check(folder, tiny.config())
    run_folder.check(folder, tiny.config())  # the file is still there
    with run_folder.locked(folder):
        pass


def test_a_step_that_is_not_finite_stops_the_run(tmp_path):
    config = tiny.config(**{"optim.learning_rate": 1e30, "optim.name": "sgd"})
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "run")
    message = " ".join(str(caught.value).split())
    assert "loss or gradient of step 2 is not finite (learning rate" in message
    assert "no checkpoint is kept" in message
    assert "config.train.on_nonfinite=skip" in message
    import json

    facts = json.loads((tmp_path / "run/nonfinite.json").read_text())
    assert facts["step"] == 2
    assert len(set(facts["batch"])) == 32


def test_steps_that_are_not_finite_can_be_skipped(unbroken, tmp_path, monkeypatch, capsys):
    from jax_train.engine import metrics

    cross_entropy = metrics.cross_entropy

    def sometimes_nan(logits, labels, *how):
        losses = cross_entropy(logits, labels, *how)
        bad = (labels[0] == 3) & (labels[1] != 3)  # true of some batches, by chance
        return jnp.where(bad, jnp.nan, losses)

    monkeypatch.setattr(metrics, "cross_entropy", sometimes_nan)
    config = tiny.config(**{"train.on_nonfinite": "skip", "train.epochs": 6})
    results = train(config, tmp_path / "run")
    assert "skipped: the loss or gradient of step" in capsys.readouterr().out
    assert np.isfinite(results["val"]["top1"])
    rows = state_of(tmp_path / "run")[2]
    assert all(np.isfinite(float(row["loss"])) for row in rows if row["split"] == "train")


def test_a_step_that_was_skipped_does_not_stop_the_run_later(tmp_path, monkeypatch, capsys):
    from jax_train.engine import metrics

    def never(logits, *_):
        return logits.sum(-1) * jnp.nan

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "cross_entropy", never)
        patch.setattr(Saver, "is_asked_to_stop", lambda self: True)
        with pytest.raises(Stopped):
            train(tiny.config(**{"train.on_nonfinite": "skip"}), tmp_path / "run")
    capsys.readouterr()
    assert train(tiny.config(), tmp_path / "run")["steps"] == 12
    told = " ".join(capsys.readouterr().out.split())
    assert "note: skipped before the checkpoint, as not finite: 1 step" in told


def test_images_per_second_leave_compilation_out(tmp_path, monkeypatch):
    compile_steps = Program._compile_steps

    def slowly(*arguments):
        time.sleep(3)
        return compile_steps(*arguments)

    monkeypatch.setattr(Program, "_compile_steps", slowly)
    results = train(tiny.config(**{"train.steps_per_call": 3}), tmp_path / "run")  # 3 steps, 1 step
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    speeds = [float(row["images_per_sec"]) for row in rows[1:]]
    assert min(*speeds, results["train_images_per_sec"]) > 4 * 32 / 3


def test_an_epoch_of_skipped_steps_only_ends_too(tmp_path):
    config = tiny.config(
        **{
            "train.on_nonfinite": "skip",
            "optim.learning_rate": 1e30,
            "optim.name": "sgd",
            "train.epochs": 2,
            "checkpoint.report": "last",
        }
    )
    results = train(config, tmp_path / "run")
    assert results["steps"] == 8
    assert [row["step"] for row in state_of(tmp_path / "run")[2] if row["split"] == "train"] == [
        "3"
    ]


def test_after_going_on_the_kept_checkpoint_is_named(stopped, monkeypatch):
    from jax_train.engine import metrics

    monkeypatch.setattr(
        metrics, "cross_entropy", lambda logits, labels, *how: logits.sum(-1) * jnp.nan
    )
    with pytest.raises(UserError) as caught:
        train(tiny.config(), stopped)
    message = " ".join(str(caught.value).split())
    assert "gradient of step 7 is not finite" in message
    assert "the checkpoint of step 6 is kept" in message


def test_other_versions_are_told_on_resuming(stopped, monkeypatch, capsys):
    from jax_train.runs import results as runs_results

    versions = runs_results.versions()
    monkeypatch.setattr(runs_results, "versions", lambda: versions | {"jax": "9.9.9"})
    train(tiny.config(), stopped)
    told = " ".join(capsys.readouterr().out.split())
    assert (
        f"note: the last bits may differ from an unbroken run: jax {versions['jax']} -> 9.9.9"
        in told
    )


# Early stopping

STILL = {"train.patience": 1, "optim.learning_rate": 1e-12}  # no validation but the first is better


def test_a_run_without_a_better_validation_ends(unbroken, tmp_path, monkeypatch, capsys):
    def killed(*_):
        raise KeyboardInterrupt

    config, folder = tiny.config(**STILL), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder)
    results = train(config, folder)  # the end was due, and no step more is taken
    assert state_of(folder) == unbroken(**STILL)
    assert state_of(folder)[0] == results["steps"] == 8
    why = "no better validation top-1 in 1 evaluation"
    assert results["ended"] == {"epoch": 2, "of": 3, "why": why}
    assert (results["epochs"], results["reported_epoch"]) == (2, 2)  # of equals the newest is best
    assert epochs_of(run_folder.results(folder)) == "2 of 3"
    text = summary(run_folder.results(folder), folder)
    assert f"ended at epoch 2 of 3: {why}" in text
    assert max(len(line) for line in text.splitlines() if str(folder) not in line) <= 80
    capsys.readouterr()
    several.train_one(config, folder)
    assert "holds this run, finished" in capsys.readouterr().out


def test_a_run_that_ended_early_goes_on_with_more_patience_alone(tmp_path):
    config, folder = tiny.config(**STILL), tmp_path / "run"
    train(config, folder)
    config.train.epochs = 4
    with pytest.raises(UserError, match=r"ended at epoch 2, .* add --config.train.patience=0"):
        train(config, folder, extend=True)
    assert run_folder.results(folder)["steps"] == 8  # as it was
    config.train.patience = 2
    results = train(config, folder, extend=True)
    assert (results["steps"], results["ended"]["epoch"]) == (12, 3)
    assert run_folder.read_config(folder).train.patience == 2


def test_patience_counts_from_the_best_figure_on():
    patience, seen = Patience(2), []
    for top1 in (0.1, 0.3, 0.3, 0.4, None, 0.0):
        patience.see({"top1": top1 or 0.0, "loss": math.nan if top1 is None else 1.0})
        again = Patience(2)
        again.recall(json.loads(json.dumps(patience.facts)))
        assert (again.waited, again.is_over) == (patience.waited, patience.is_over)
        seen.append((patience.waited, patience.is_over))
    assert seen == [(0, False), (0, False), (1, False), (0, False), (1, False), (2, True)]
    assert Patience(0).facts == {}
    patience = Patience(1)
    for counts in (False, False, True):  # the first two while the head alone trains
        assert not patience.is_over
        patience.see({"top1": 0.5, "loss": 1.0}, counts)
    assert patience.is_over


def test_automatic_splits_without_validation_cannot_stop_early(tmp_path):
    photos = make(tmp_path / "photos", {"cats": 2, "dogs": 2})
    config = tiny.config(**STILL)
    config.data.update(name=f"folder:{photos}", image_size=8)
    config.data.update(train_split="train", val_split="auto", test_split="auto")
    with pytest.raises(UserError, match="no validation images"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
