"""Training several models by one config, and `compare` and `report`: tables, files, refusals."""

import json
import shutil

import pytest

from configs import cnn_cifar10, vit_cifar10, vit_vs_cnn_cifar10, vit_vs_cnn_digits
from jax_train import __main__, several
from jax_train.engine.models import model_configs
from jax_train.errors import UserError
from tests.jax_train.pages import hostile

pytestmark = pytest.mark.xdist_group("pages")


def test_table_of_the_training_command_fits_the_terminal(compared_runs):
    folder, text = compared_runs
    lines = text.splitlines()
    assert max(len(line) for line in lines if str(folder.parent) not in line) <= 80
    assert "final val   best val (epoch)  train loss  s/epoch   parameters" in text
    for model in ("vit", "simple_cnn"):
        results = json.loads((folder / model / "results.json").read_text())
        assert any(
            line.split()[:1] == [model] and line.endswith(f"{results['parameters']:,}")
            for line in lines
        )
        assert json.loads((folder / model / "config.json").read_text())["compare"] == []
    assert f"{folder / 'comparison.html'} (" in lines[-2]


def test_finished_runs_are_not_trained_again_and_other_configs_are_refused(compared_runs, capsys):
    folder, _ = compared_runs
    before = (folder / "vit" / "results.json").stat().st_mtime_ns
    config = hostile.config(folder.parent / "R&D <b>pets")
    config.seed = 7
    with pytest.raises(UserError, match=r"config.seed: 0 there, 7 asked for"):
        several.train_and_compare(config, folder)
    with pytest.raises(UserError, match="holds a run of one model"):
        several.train_and_compare(config, folder / "vit")
    assert (folder / "vit" / "results.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out == ""


def test_a_flaw_of_the_second_model_is_found_before_the_first_is_trained(compared_runs, tmp_path):
    config = hostile.config(compared_runs[0].parent / "R&D <b>pets")
    config.model.widths = (3, 3, 3, 3, 3)  # 8x8 images cannot be halved five times
    with pytest.raises(UserError, match=r"config\.model"):
        several.train_and_compare(config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_each_model_gets_the_fields_it_has_and_nothing_else_differs():
    pair = model_configs(vit_vs_cnn_cifar10.get_config())
    assert pair == {"vit": vit_cifar10.get_config(), "simple_cnn": cnn_cifar10.get_config()}
    config = vit_vs_cnn_digits.get_config()
    config.train.epochs = 2
    vit, cnn = model_configs(config).values()
    assert (vit.model.patch_size, vit.model.widths) == (2, None)
    assert (cnn.model.patch_size, cnn.model.widths) == (None, (16, 32, 64))
    assert vit.train == cnn.train
    assert vit.train.epochs == 2


def run(*arguments, capsys):
    code = __main__.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def test_compare_writes_where_it_is_told(compared_runs, tmp_path, capsys):
    folder, _ = compared_runs
    code, out, _ = run(
        "compare", folder / "simple_cnn", folder / "vit", "--out", tmp_path / "new", capsys=capsys
    )
    assert code == 0
    paths = str(folder.parent), str(tmp_path)  # stay whole, however long
    lines = [line for line in out.splitlines() if not any(path in line for path in paths)]
    assert max(map(len, lines)) <= 80
    assert (tmp_path / "new" / "comparison.html").exists()
    assert list((tmp_path / "new" / "comparison").glob("*.png"))


def test_long_names_leave_the_tables_in_their_width(compared_runs, tmp_path, capsys):
    base = "cnn_widths_16_32_64_flip_mixup_seed"
    folders = {}
    for name in (f"{base}_0", f"{base}_1"):
        folders[name] = copy_of(compared_runs[0] / "simple_cnn", tmp_path / name)
    code, out, _ = run("compare", *folders.values(), "--out", tmp_path / "pair", capsys=capsys)
    paths = str(compared_runs[0].parent), str(tmp_path)  # stay whole, however long
    table = [line for line in out.splitlines() if not any(path in line for path in paths)]
    assert (code, max(map(len, table)) <= 80) == (0, True)
    learned = several.learning_table(folders).splitlines()
    assert max(map(len, learned)) <= 80
    for lines in (table, learned):
        rows = [line.split() for line in lines if line.startswith("  cnn_")]
        named = [row[0][-6:] for row in rows if row[1].endswith("%")]
        assert named == ["seed_0", "seed_1"]


def test_a_folder_for_the_page_that_cannot_be_is_told_before_models_compute(
    compared_runs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("jax_train.analysis.comparison.load", None)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        runs = compared_runs[0] / "vit", compared_runs[0] / "simple_cnn"
        code, _, error = run("compare", *runs, "--out", out, capsys=capsys)
        assert (code, f"--out {out}: expected a folder" in error) == (2, True)


def copy_of(run_folder, target, **changes):
    """A copy of a run whose config.json has other values of `config.data`."""
    shutil.copytree(run_folder, target)
    config = json.loads((target / "config.json").read_text())
    config["data"] |= changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_runs_that_cannot_be_compared_are_refused(compared_runs, tmp_path, capsys):
    folder, _ = compared_runs
    vit, cnn = folder / "vit", folder / "simple_cnn"
    split = copy_of(cnn, tmp_path / "split", test_split="test[:20]")
    data = copy_of(cnn, tmp_path / "data", name="digits")
    unfinished = copy_of(cnn, tmp_path / "unfinished")
    (unfinished / "results.json").unlink()
    cases = {
        (vit,): "at least two",
        (vit, vit): "are the same run",
        (vit, tmp_path): "is no run folder",
        (vit, unfinished): "is not finished",
        (vit, split): f"{vit} was tested on 'test' of folder:",
        (cnn, split): f"but {split} was tested on 'test[:20]' of folder:",
        (vit, data): f"but {data} was tested on 'test' of digits",
    }
    for folders, text in cases.items():
        code, out, error = run("compare", *folders, capsys=capsys)
        assert code == 2
        assert " ".join(text.split()) in error
        assert out == ""


def test_report_of_what_is_no_run_is_refused(tmp_path, capsys):
    code, _, error = run("report", tmp_path, capsys=capsys)
    assert code == 2
    assert "is no run folder" in error


def test_a_page_that_cannot_be_written_is_told(compared_runs, tmp_path, capsys):
    (tmp_path / "comparison.html").mkdir()
    folder, _ = compared_runs
    code, _, error = run(
        "compare", folder / "vit", folder / "simple_cnn", "--out", tmp_path, capsys=capsys
    )
    assert code == 2
    assert "cannot be written" in error
