"""Output files: whole or not at all, wherever the path leads; and nothing replaced by mistake."""

import os
import socket
import threading

import numpy as np
import pytest
from matplotlib.figure import Figure

from jax_models import torch_weights
from jax_train.drawing.canvas import Picture
from jax_train.errors import UserError
from jax_train.files import check_output, csv_text, write_atomically, write_both, write_csv
from jax_train.pages.page import Page


def csv(path):
    check_output("--csv", path, overwrite=True)
    write_csv("--csv", path, [["class"], ["cat"]])


def weights(path):
    check_output("--to", path, overwrite=True)
    torch_weights.files.write({"a": np.arange(3.0)}, path, ".npz")


def picture(path):
    Picture(path.stem, Figure(), "nothing").save(path.parent)


def page(path):
    Page(path).write("parts.html")


# Every kind of output, with the ending its name has.
WRITERS = {".csv": csv, ".npz": weights, ".png": picture, ".html": page}
each_writer = pytest.mark.parametrize("ending", WRITERS)


@each_writer
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_followed_and_stays(ending, dangling, tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / f"target{ending}", tmp_path / f"out{ending}"
    (tmp_path / "far" / "middle").symlink_to(target)
    link.symlink_to(tmp_path / "far" / "middle")
    if not dangling:
        target.write_bytes(b"older")
    WRITERS[ending](link)
    assert link.is_symlink()
    assert target.is_file()
    assert target.read_bytes() not in (b"", b"older")
    assert {path.name for path in target.parent.iterdir()} == {target.name, "middle"}


@each_writer
def test_a_pipe_is_written_into(ending, tmp_path):
    pipe = tmp_path / f"out{ending}"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    WRITERS[ending](pipe)
    reader.join(10)
    assert len(read[0]) > 3
    assert pipe.is_fifo()


@each_writer
def test_a_device_is_written_into(ending, tmp_path):
    link = tmp_path / f"out{ending}"
    link.symlink_to("/dev/null")
    WRITERS[ending](link)
    assert os.path.realpath(link) == "/dev/null"
    full = tmp_path / f"full{ending}"
    full.symlink_to("/dev/full")
    with pytest.raises((UserError, OSError), match="No space left"):
        WRITERS[ending](full)
    assert not os.path.isfile("/dev/null")


@each_writer
@pytest.mark.parametrize("kind", ["folder", "socket", "loop"])
def test_anything_else_is_refused_and_stays(ending, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / f"out{ending}"
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(path.name)
    else:
        path.symlink_to(path)
    before = path.lstat()
    with pytest.raises((UserError, OSError)):
        WRITERS[ending](path)
    assert path.lstat().st_mode == before.st_mode
    assert path.lstat().st_ino == before.st_ino
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_what_an_option_names_is_checked_before_anything_slow(tmp_path):
    (tmp_path / "old.csv").write_text("older")
    (tmp_path / "link.csv").symlink_to(tmp_path / "old.csv")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "none" / "out.csv")
    for name, words in (
        ("old.csv", "old.csv exists already; give --overwrite"),
        ("link.csv", "link.csv exists already; give --overwrite"),
        ("nowhere.csv", "none does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(UserError, match=words):
            check_output("--csv", tmp_path / name, overwrite=False)
    check_output("--csv", "/dev/stdout", overwrite=False)
    check_output("--csv", "/dev/null", overwrite=False)
    check_output("--csv", None, overwrite=False)


def test_standard_output_is_written_into_though_it_is_a_file(capfd):
    print("before")
    write_csv("--csv", "/dev/stdout", [["a"]])
    print("after", flush=True)
    assert capfd.readouterr().out == "before\na\nafter\n"


def test_a_file_keeps_its_permissions_and_one_beside_it_its_content(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("older")
    path.chmod(0o640)
    (tmp_path / "out.csv.part").write_text("mine")
    write_atomically(path, "new")
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "out.csv.part").read_text() == "mine"


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "out.csv"
    path.write_text("older")
    path.chmod(0o444)
    access = os.access  # which grants root everything
    monkeypatch.setattr(os, "access", lambda file, mode: mode != os.W_OK and access(file, mode))
    with pytest.raises(PermissionError, match="read-only"):
        write_atomically(path, "new")
    assert path.read_text() == "older"


def test_a_name_as_long_as_a_name_can_be_is_written(tmp_path):
    path = tmp_path / ("é" * 127)
    write_atomically(path, "text")
    assert path.read_text() == "text"


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "results.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_bytes_that_are_no_text_are_kept(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xff")
    write_atomically(tmp_path / "out.csv", csv_text([[name, "日本"]]))
    assert (tmp_path / "out.csv").read_bytes() == b"caf\xe9 \xff,\xe6\x97\xa5\xe6\x9c\xac\r\n"


def test_neither_of_two_files_is_replaced_without_the_other(tmp_path):
    def full():
        raise OSError(28, "No space left on device")

    config, folder, called = tmp_path / "config.json", tmp_path / "folder", []
    config.write_text("before")
    folder.mkdir()
    with pytest.raises(OSError, match="No space"):
        write_both(config, "after", full)
    assert config.read_text() == "before"
    with pytest.raises(OSError, match="folder"):
        write_both(folder, "after", lambda: called.append(1))
    assert not called
    assert sorted(tmp_path.iterdir()) == [config, folder]
    write_both(config, "after", lambda: called.append(1))
    assert (called, config.read_text()) == ([1], "after")
