"""Users without a home, devices that are not there, threads: what the machine lacks is told."""

import pwd
import subprocess
import sys
import threading
from pathlib import Path

import jax
import pytest

from configs import common
from jax_train import __main__, checks, files
from jax_train.data.sources import tfds_folder
from jax_train.errors import UserError
from jax_train.machine import runtime, stopping
from jax_train.runs import folder as run_folder
from jax_train.runs import trained
from jax_train.several import train_one
from jax_train.train import train
from tests import tiny

VARIABLES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "JAX_VIT_CNN_CACHE", "TFDS_DATA_DIR")
VARIABLES += ("MPLCONFIGDIR",)


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user as containers have them: without HOME and without an entry in the list of users."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    files._temporary_cache.cache_clear()
    yield tmp_path
    files._temporary_cache.cache_clear()


def test_without_a_home_caches_are_kept_in_a_temporary_folder_and_it_is_said_once(nobody, capsys):
    with pytest.raises(RuntimeError):
        Path.home()
    folder = files.cache_root()
    assert folder.parent == nobody / "tmp"
    assert folder.stat().st_mode & 0o77 == 0
    assert files.cache_root() == folder
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("note: there is no home folder that can be written to") == 1
    assert str(folder) in told.replace("- ", "-")


@pytest.mark.parametrize("home", ["/dev/null/home", "/proc/nobody"])
def test_a_home_that_cannot_be_written_counts_as_none(nobody, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(files.os, "access", lambda place, mode: not str(place).startswith("/proc"))
    assert files.cache_root().parent == nobody / "tmp"


def test_a_folder_of_another_user_is_not_taken_for_caches(nobody):
    first = files.cache_root()
    files._temporary_cache.cache_clear()
    first.chmod(0o777)
    assert files.cache_root() != first


def test_where_caches_were_given_nothing_is_said(nobody, monkeypatch, capsys):
    monkeypatch.setenv("JAX_VIT_CNN_CACHE", str(nobody / "mine"))
    assert files.cache_root() == nobody / "mine"
    monkeypatch.delenv("JAX_VIT_CNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(nobody / "xdg"))
    assert files.cache_root() == nobody / "xdg" / "jax-vit-cnn"
    assert capsys.readouterr().err == ""


def test_a_path_in_the_home_that_is_not_there_gets_one_line(nobody):
    for path in ("~", "~/photos", "~nobody-of-this-name/photos"):
        with pytest.raises(UserError, match="no home folder"):
            files.expand(path)
    with pytest.raises(UserError, match="Set TFDS_DATA_DIR"):
        tfds_folder.data_root()
    assert tfds_folder.data_root(nobody) == nobody


def test_every_command_works_without_a_home(nobody, capsys):
    run = nobody / "run"
    train(tiny.config(**{"train.epochs": 1}), run)
    for command in ("evaluate", "report", "explain"):
        assert __main__.main([command, str(run)]) == 0
    assert __main__.main(["convert", "--from", str(run), "--to", str(nobody / "w.npz")]) == 0
    assert __main__.main(["prepare", "cifar10"]) == 2
    assert "Traceback" not in capsys.readouterr().err


# Devices


def without_devices(patch, error):
    def refuse(*_):
        raise error

    patch.setattr(jax, "devices", refuse)


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'cuda': no")]
)
def test_a_platform_that_is_not_there_is_told(monkeypatch, tmp_path, error, capsys):
    without_devices(monkeypatch, error)
    for look in (
        runtime.prepare,
        lambda: checks.check(common.get_config()),
        lambda: train(tiny.config(), tmp_path / "run"),
        lambda: trained.open_run(tmp_path),
    ):
        with pytest.raises(UserError, match="JAX_PLATFORMS="):
            look()
    assert not list(tmp_path.iterdir())


def test_what_was_asked_for_and_what_there_is_are_told(tmp_path):
    code = "from jax_train.machine import runtime; runtime.prepare()"
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "tpu", "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[3],
    )
    assert "UserError: JAX_PLATFORMS=tpu: there is no such device on this machine" in out.stderr
    assert "There is: cpu." in out.stderr


# Called as a library


def test_a_run_trains_in_a_thread_and_takes_paths_as_text(tmp_path, capsys):
    found = []

    def work():
        found.append(train(tiny.config(**{"train.epochs": 1}), str(tmp_path / "run")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0]["steps"] == 4
    run = str(tmp_path / "run")
    assert "test:" in train_one(tiny.config(**{"train.epochs": 1}), run)
    assert "holds this run, finished" in capsys.readouterr().out
    assert run_folder.results(run)["steps"] == trained.open_run(run).step == 4


def test_signals_stay_as_they_are_outside_the_main_thread():
    import signal

    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def work():
        with stopping.StopSignals() as signals:
            handlers.append((signal.getsignal(signal.SIGTERM), signals.asked))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(before, False)]
