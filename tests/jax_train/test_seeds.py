"""One config by several seeds: what is trained where, and the table of all."""

import csv
import json

import numpy as np
import pytest

from jax_train import several
from jax_train.config import flags
from jax_train.errors import UserError
from jax_train.machine.stopping import Stopped
from jax_train.runs import folder as run_folder
from jax_train.runs.results import write_results
from tests import tiny

TOP1 = {0: 0.5, 3: 0.625, 4: 0.9}


@pytest.fixture
def trained(monkeypatch):
    """Training that takes no time: the configs that were trained; seed 4 is stopped at first."""
    configs, stops = [], [4]

    def train(config, workdir, *, extend=False):
        run_folder.create(workdir, config)
        if config.seed in stops:
            stops.remove(config.seed)
            raise Stopped(3, 12)
        configs.append(config)
        figures = {"loss": 1 - TOP1[config.seed], "top1": TOP1[config.seed], "top5": 1.0}
        results = {"model": "vit", "data": "digits", "val": figures, "test": figures}
        results |= {"reported_weights": "best", "reported_epoch": 2, "epochs": 3, "notes": []}
        results |= {"parameters": 7, "seconds": 1.0, "train_images_per_sec": None, "images": {}}
        if not config.data.val_split:
            results["val"] = None
        if config.seed == 0:  # no number
            results["val"] = dict.fromkeys(figures)
        write_results(workdir / "results.json", results)
        return run_folder.results(workdir)

    monkeypatch.setattr(several, "train", train)
    monkeypatch.setattr(several.entry, "check_finished", lambda *_: None)
    return configs


def test_each_seed_is_trained_once_and_all_are_told_in_one_table(trained, tmp_path, capsys):
    folder = tmp_path / "runs"
    several.train_seeds(tiny.config(), [0, 3], folder)
    assert [config.seed for config in trained] == [0, 3]
    assert trained[1] == tiny.config(seed=3)
    with pytest.raises(Stopped):
        several.train_seeds(tiny.config(), [0, 3, 4], folder)
    text = several.train_seeds(tiny.config(), [0, 3, 4], folder)
    assert [config.seed for config in trained] == [0, 3, 4]
    assert "seed_3 holds this run, finished" in capsys.readouterr().out
    deviation = np.std(list(TOP1.values()), ddof=1)
    rows = [line.split() for line in text.splitlines()]
    assert ["0", "2", "–", "–", "50.00%", "0.5000"] in rows
    assert ["mean", "76.25%", "0.2375", "67.50%", "0.3250"] in rows
    assert rows[-4][:2] == ["±", "deviation"]
    assert rows[-4][-2:] == [f"{deviation:.2%}", f"{deviation:.4f}"]
    assert rows[-3] == ["n", "2", "2", "3", "3"]
    assert max(len(line) for line in text.splitlines() if str(folder) not in line) <= 80
    found = json.loads((folder / "seeds.json").read_text())
    assert found["std"]["test"]["top1"] == pytest.approx(deviation)
    assert [run["seed"] for run in found["runs"]] == [0, 3, 4]
    with open(folder / "seeds.csv", newline="") as file:
        table = {row["seed"]: row for row in csv.DictReader(file)}
    assert table["0"]["val_top1"] == ""
    assert table["4"]["test_top1"] == "0.9"
    assert table["n"]["val_loss"] == "2"
    assert set(table) == {"0", "3", "4", "mean", "std", "n"}


def test_one_seed_has_no_deviation(trained, tmp_path):
    text = several.train_seeds(tiny.config(**{"data.val_split": ""}), [3], tmp_path / "runs")
    assert ["±", "deviation", "–", "–"] in [line.split() for line in text.splitlines()]


def test_finished_seeds_are_set_aside_together(trained, tmp_path):
    several.train_seeds(tiny.config(), [0], tmp_path / "runs")
    several.train_seeds(tiny.config(), [0], tmp_path / "runs", again=True)
    assert [config.seed for config in trained] == [0, 0]
    assert (tmp_path / "runs.1" / "seed_0").is_dir()


def test_what_seeds_do_not_go_with(trained, tmp_path):
    config = tiny.config(compare=("simple_cnn",))
    with pytest.raises(UserError, match=r"config.compare=\('simple_cnn',\).*--seeds"):
        several.train_seeds(config, [0, 1], tmp_path / "runs")
    several.train_seeds(tiny.config(), [0], tmp_path / "runs")
    with pytest.raises(UserError, match="holds a run of one seed, and this command trains 2"):
        several.train_seeds(tiny.config(), [0, 3], tmp_path / "runs" / "seed_0")
    other = tiny.config(**{"train.epochs": 5})
    with pytest.raises(UserError, match=r"train.epochs: 3 there, 5 asked for"):
        several.train_seeds(other, [3, 0], tmp_path / "runs")
    assert not (tmp_path / "runs" / "seed_3").exists()


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        (["--seeds", "0", "1", "--workdir", "x"], ["--seeds=0,1", "--workdir", "x"]),
        (["--seeds=5", "--", "--seeds", "1"], ["--seeds=5", "--", "--seeds", "1"]),
        (["--workdir", "x", "--seeds", "0,2", "7"], ["--workdir", "x", "--seeds=0,2,7"]),
        (["--seeds"], ["--seeds="]),
    ],
)
def test_seeds_stand_one_after_the_other(given, seeds):
    assert flags.join_seeds(given) == seeds


@pytest.mark.parametrize(
    "texts", [["1", "1"], ["1", "01"], ["-1"], ["1.5"], [], [""], ["4294967296"]]
)
def test_what_is_no_seed_is_refused(texts):
    assert flags.parse_seeds(["0", "4294967295"]) == [0, 4294967295]
    with pytest.raises(UserError, match="--seeds"):
        flags.parse_seeds(texts)
