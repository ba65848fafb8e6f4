"""A run is its config and its data: what it goes on with, and what it refuses to."""

import json
import os
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from jax_train import __main__, data, several
from jax_train.engine.program import Program
from jax_train.engine.recipe import resolve
from jax_train.errors import UserError
from jax_train.machine.stopping import Stopped
from jax_train.runs import checkpoint, trained
from jax_train.runs import folder as run_folder
from jax_train.saving import Saver
from jax_train.train import load, train
from tests import tiny

CLASSES = ("cat", "dog", "hen")


def image(path, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)


def config(photos, **changes):
    splits = {"data.train_split": "train", "data.val_split": "", "data.test_split": "test"}
    changes = splits | {"train.batch_size": 4, "train.epochs": 2, "data.image_size": 8} | changes
    return tiny.config(**{"data.name": f"folder:{photos}"} | changes)


def stop_after_the_first_step(patch):
    patch.setattr(Saver, "is_asked_to_stop", lambda self: True)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder of photos, a run on it stopped after a step, and one that finished."""
    place = tmp_path_factory.mktemp("begun")
    for k, name in enumerate(CLASSES):
        for i in range(5):
            image(place / "photos" / ("train" if i < 4 else "test") / name / f"{i}.png", 60 * k + i)
    with pytest.MonkeyPatch.context() as patch:
        stop_after_the_first_step(patch)
        with pytest.raises(Stopped, match="after step 1 of 6"):
            train(config(place / "photos"), place / "stopped")
    train(config(place / "photos"), place / "finished")
    return place


@pytest.fixture
def copy(begun, tmp_path):
    """Copies of them that may be changed; times of change are others."""
    for name in ("photos", "stopped", "finished"):
        shutil.copytree(begun / name, tmp_path / name, copy_function=shutil.copyfile)
    names = ("photos", "stopped", "finished")
    return SimpleNamespace(**{name: tmp_path / name for name in names})


def everything_in(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def goes_on(config, run, monkeypatch, capsys, done=1):
    """Whether a run goes on after the steps done; it is stopped after another one."""
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_after_the_first_step(patch)
        with pytest.raises(Stopped, match=f"after step {done + 1} of"):
            train(config, run)
    out, err = capsys.readouterr()
    assert "damaged" not in err
    return f"going on after step {done} of" in out


def new_class(photos):
    for split in ("train", "test"):
        image(photos / split / "ant" / "0.png", 200)


def renamed_class(photos):
    for split in ("train", "test"):
        (photos / split / "cat").rename(photos / split / "zebra")


def gone_class(photos):
    for split in ("train", "test"):
        shutil.rmtree(photos / split / "dog")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (new_class, "new: ant (3 then, 4 now)"),
        (renamed_class, "new: zebra; gone: cat (3 then, 3 now)"),
        (gone_class, "gone: dog (3 then, 2 now)"),
    ],
)
@pytest.mark.parametrize("accept", ["refuse", "accept"])
def test_other_classes_are_refused_and_nothing_is_touched(copy, change, told, accept):
    change(copy.photos)
    before = everything_in(copy.stopped)
    with pytest.raises(UserError) as caught:
        train(config(copy.photos, **{"data.on_change": accept}), copy.stopped)
    assert told in str(caught.value)
    assert everything_in(copy.stopped) == before


def added(photos):
    image(photos / "train" / "cat" / "new.png", 9)
    image(photos / "test" / "cat" / "new.png", 9)


CHANGES = {
    "2 added (test/cat/new.png, train/cat/new.png)": added,
    "1 removed (train/hen/0.png)": lambda photos: (photos / "train/hen/0.png").unlink(),
    "1 changed (train/dog/1.png)": lambda photos: image(photos / "train/dog/1.png", 99),
}


@pytest.mark.parametrize("told", CHANGES)
def test_changed_files_are_counted_and_refused_or_accepted(copy, told, monkeypatch, capsys):
    CHANGES[told](copy.photos)
    before = everything_in(copy.stopped)
    with pytest.raises(UserError) as caught:
        train(config(copy.photos), copy.stopped)
    assert told in str(caught.value)
    assert "--config.data.on_change=accept" in str(caught.value)
    assert everything_in(copy.stopped) == before

    accepting = config(copy.photos, **{"data.on_change": "accept"})
    capsys.readouterr()
    with monkeypatch.context() as patch:
        stop_after_the_first_step(patch)
        with pytest.raises(Stopped, match="after step 2 of"):
            train(accepting, copy.stopped)
    out = " ".join(capsys.readouterr().out.split())
    assert "note: going on with other data than the run began with" in out
    assert told in out
    then = json.loads(before[next(p for p in before if p.name == "config.json")])
    now = json.loads((copy.stopped / "config.json").read_text())
    assert now["data"]["mean"] == then["data"]["mean"]
    assert goes_on(config(copy.photos), copy.stopped, monkeypatch, capsys, done=2)  # no word more


def test_fewer_steps_than_are_done_are_refused_and_nothing_is_touched(copy):
    for name in ("1", "2", "3"):
        for path in copy.photos.glob(f"train/*/{name}.png"):
            if path.parent.name != "cat" or name != "1":
                path.unlink()  # four stay, a step an epoch
    (copy.finished / "results.json").unlink()
    before = everything_in(copy.finished)
    with pytest.raises(UserError) as caught:
        train(config(copy.photos, **{"data.on_change": "accept"}), copy.finished)
    told = " ".join(str(caught.value).split())
    assert "has done 6 steps, and with the data as they are now config.train.epochs=2 are 2" in told
    assert "--config.train.epochs=6 --extend" in told
    assert everything_in(copy.finished) == before
    longer = config(copy.photos, **{"data.on_change": "accept", "train.epochs": 6})
    assert train(longer, copy.finished, extend=True)["steps"] == 6


def test_images_of_a_split_that_the_run_does_not_use_do_not_matter(copy, monkeypatch, capsys):
    for name in CLASSES:
        image(copy.photos / "val" / name / "0.png", 7)
    assert goes_on(config(copy.photos), copy.stopped, monkeypatch, capsys)


@pytest.mark.parametrize("typed", ["photos/", "./photos", "../{}/photos", "copied"])
def test_the_same_data_by_another_path_go_on(copy, typed, monkeypatch, capsys):
    monkeypatch.chdir(copy.photos.parent)
    if typed == "copied":
        copy.photos.rename("copied")
    name = typed.format(copy.photos.parent.name)
    assert goes_on(config(name), copy.stopped, monkeypatch, capsys)


def test_a_finished_run_is_reported_for_its_own_data_only(copy, capsys):
    copy.photos.rename(copy.photos.with_name("moved"))
    moved = copy.photos.with_name("moved")
    assert "finished/" in several.train_one(config(moved), copy.finished)
    image(moved / "train" / "cat" / "new.png", 9)
    shutil.copytree(moved, moved.with_name("other"))
    with pytest.raises(UserError, match=r"1 added \(train/cat/new.png\)"):
        several.train_one(config(moved.with_name("other")), copy.finished)


def test_a_run_without_a_record_goes_on_and_has_one_then(copy, monkeypatch, capsys):
    (copy.stopped / "data.json").unlink()
    assert goes_on(config(copy.photos), copy.stopped, monkeypatch, capsys)
    assert (copy.stopped / "data.json").exists()


def test_without_a_record_other_classes_or_pixels_are_refused_too(copy):
    (copy.stopped / "data.json").unlink()
    new_class(copy.photos)
    before = everything_in(copy.stopped)
    with pytest.raises(UserError) as caught:
        train(config(copy.photos), copy.stopped)
    message = " ".join(str(caught.value).split())
    assert "config.model.num_classes: 3 there, 4 asked for" in message
    assert everything_in(copy.stopped) == before


def test_a_checkpoint_of_another_model_is_not_damaged(copy):
    stored = json.loads((copy.stopped / "config.json").read_text())
    stored["model"]["embed_dim"] = 16
    (copy.stopped / "config.json").write_text(json.dumps(stored))
    before = everything_in(copy.stopped)
    with pytest.raises(UserError, match=r"of another model or optimizer than config.json says"):
        train(config(copy.photos, **{"model.embed_dim": 16}), copy.stopped)
    with pytest.raises(UserError, match=r"of another model or optimizer than config.json says"):
        trained.open_run(copy.stopped)
    assert everything_in(copy.stopped) == before


def test_train_refuses_the_folder_of_another_config(copy):
    before = everything_in(copy.finished)
    with pytest.raises(UserError, match=r"config.seed: 0 there, 3 asked for"):
        train(config(copy.photos, seed=3), copy.finished)
    assert everything_in(copy.finished) == before


# The commands


def command(*arguments, capsys):
    capsys.readouterr()
    code = __main__.main([*map(str, arguments)])
    return (code, *(" ".join(text.split()) for text in capsys.readouterr()))


def test_data_that_were_moved_are_found_where_commands_are_told(copy, tmp_path, capsys):
    record = json.loads((copy.finished / "data.json").read_text())
    record |= {"name": f"folder:{tmp_path}/gone"}
    (copy.finished / "data.json").write_text(json.dumps(record))
    code, _, err = command("evaluate", copy.finished, capsys=capsys)
    assert code == 2
    assert "--data" in err
    place = "--data", f"folder:{copy.photos}"
    for arguments in (["evaluate"], ["explain"], ["report"]):
        code, out, err = command(*arguments, copy.finished, *place, capsys=capsys)
        assert code == 0, err
        assert "not as they were" not in out
    added(copy.photos)
    code, out, _ = command("evaluate", copy.finished, *place, capsys=capsys)
    assert code == 0
    assert "test: 4 images" in out


def test_data_named_by_a_relative_path_are_found_from_anywhere(copy, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(copy.photos.parent)
    with monkeypatch.context() as patch:
        stop_after_the_first_step(patch)
        with pytest.raises(Stopped):
            train(config("photos"), "here")
    assert (
        json.loads((tmp_path / "here/config.json").read_text())["data"]["name"] == "folder:photos"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = command("evaluate", "../here", capsys=capsys)
    assert code == 0, err
    assert "test: 3 images" in out


@pytest.mark.parametrize("name", ["evaluate", "explain", "report"])
def test_commands_refuse_data_whose_classes_were_renamed(copy, name, capsys):
    renamed_class(copy.photos)
    code, _, err = command(name, copy.finished, "--data", f"folder:{copy.photos}", capsys=capsys)
    assert code == 2
    assert "cat" in err
    assert "zebra" in err


# More epochs


def bits(folder):
    import orbax.checkpoint as ocp

    last = max(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())
    tree = ocp.StandardCheckpointer().restore(folder.absolute() / f"checkpoints/{last}/state")
    return last, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def by_hand(photos, run, epochs):
    """Bits of the definition: the run's newest state, then the steps of a longer run's program."""
    longer = config(photos, **{"train.epochs": epochs})
    splits = load(longer)
    program = Program(resolve(longer, splits), splits.train)
    from jax_train.engine import feed

    images = feed.create(splits.train, program.layout)
    with checkpoint.Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        step, progress, _ = checkpoints.restore_newest(program.like)
    progress = progress._replace(sums=program.zero_sums())
    for epoch in range(step // program.steps_per_epoch, epochs):
        for call in program.train_calls(images, epoch, step % program.steps_per_epoch):
            progress = program.train(images, call, progress, print)
            step += call[0]
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(progress.state)]


def test_a_finished_run_goes_on_to_more_epochs_when_asked(copy, capsys):
    longer = config(copy.photos, **{"train.epochs": 4})
    with pytest.raises(UserError, match="go on with it to 4 epochs: --extend"):
        several.train_one(longer, copy.finished)
    with pytest.raises(UserError, match=r"train.epochs: 2 there, 1 asked for"):
        several.train_one(config(copy.photos, **{"train.epochs": 1}), copy.finished, extend=True)
    expected = by_hand(copy.photos, copy.finished, 4)
    several.train_one(longer, copy.finished, extend=True)
    told = " ".join(capsys.readouterr().out.split())
    assert "going on to 4 epochs instead of 2: the schedule is that of the longer run" in told
    assert "would end with other weights" in told
    step, found = bits(copy.finished)
    assert step == 12
    assert set(expected) <= set(found)
    assert json.loads((copy.finished / "results_2_epochs.json").read_text())["epochs"] == 2
    assert run_folder.results(copy.finished)["epochs"] == 4
    several.train_one(longer, copy.finished)  # the same run now, flag or not


def test_with_a_constant_schedule_the_bits_are_those_of_the_longer_run(copy, tmp_path, capsys):
    constant = {"schedule.name": "constant"}
    longer = config(copy.photos, **constant, **{"train.epochs": 3})
    train(longer, tmp_path / "whole")
    train(config(copy.photos, **constant), tmp_path / "parts")
    capsys.readouterr()
    train(longer, tmp_path / "parts", extend=True)
    told = " ".join(capsys.readouterr().out.split())
    assert "the schedule up to here is the same, and so are the weights at the end" in told
    assert bits(tmp_path / "parts") == bits(tmp_path / "whole")


def test_a_stopped_run_is_extended_and_stopped_again_without_loss(copy, monkeypatch, capsys):
    longer = config(copy.photos, **{"train.epochs": 3})
    expected = by_hand(copy.photos, copy.stopped, 3)
    with monkeypatch.context() as patch:
        stop_after_the_first_step(patch)
        with pytest.raises(Stopped, match="after step 2 of 9"):
            train(longer, copy.stopped, extend=True)
    train(longer, copy.stopped)
    assert set(expected) <= set(bits(copy.stopped)[1])


# The record


def test_the_record_is_there_from_the_first_second(copy, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Saver, "restore", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config(copy.photos), tmp_path / "run")
    record = json.loads((tmp_path / "run/data.json").read_text())
    assert record["class_names"] == list(CLASSES)
    assert record["name"] == f"folder:{copy.photos}"
    assert {split: len(files) for split, files in record["files"].items()} == {
        "train": 12,
        "test": 3,
    }


def test_large_data_are_known_by_names_and_sizes(copy, monkeypatch):
    from jax_train.data import contents

    monkeypatch.setattr(contents, "_READ_BYTES", 10)
    monkeypatch.setattr(os, "open", None)
    found = data.load(f"folder:{copy.photos}", "train", image_size=8).contents("train")
    assert all(checksum is None and size > 0 for size, checksum in found.values())
