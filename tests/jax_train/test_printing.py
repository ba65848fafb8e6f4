"""What commands print, and streams of any form."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jax_train.errors import UserError, run_command
from jax_train.printing import (
    as_paragraph,
    columns,
    counted,
    on_terminal,
    pad,
    progress_bar,
    readable,
    say,
    shorten,
    shorten_middle,
    significant,
)

ROOT = Path(__file__).resolve().parents[2]


def test_paragraphs_keep_indented_lines_and_whole_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = as_paragraph("one two three four five\n  a line that is far longer than that")
    assert text == "one two three four\nfive\n  a line that is far longer than that"


@pytest.mark.parametrize("columns", ["0", "1", "-3", "wide"])
def test_a_terminal_of_hardly_any_columns_gets_lines_all_the_same(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert as_paragraph("one two three four").splitlines()[0].startswith("one two three four"[:17])


def test_counts_are_worded():
    said = [counted(n, "image") for n in (0, 1, 2, 1234)]
    assert said == ["0 images", "1 image", "2 images", "1,234 images"]
    assert [counted(n, "class", "classes") for n in (1, 3)] == ["1 class", "3 classes"]


def test_columns_of_a_table_are_those_of_a_terminal():
    assert [columns(text) for text in ("cat", "日本", "e\u0301", "")] == [3, 4, 1, 0]
    assert pad("日本", 6) == "日本  "
    assert [shorten("日本東京", n) for n in (8, 7, 6, 2)] == ["日本東京", "日本東…", "日本…", "…"]
    assert [shorten_middle("runs_日本_seed_0", n) for n in (16, 15, 6)] == [
        "runs_日本_seed_0",
        "runs_日…_seed_0",
        "run…_0",
    ]


def test_the_log_is_for_people_and_said_once(monkeypatch, capsys):
    def work():
        for _ in range(3):
            logging.getLogger("some.room").warning("left out: a\x1b[2J\udce9")

    monkeypatch.setattr(logging.root, "handlers", [])
    for _ in range(2):  # once in each command
        run_command(work)
        assert capsys.readouterr().err == "left out: a\\x1b[2J\\xe9\n"


def test_names_are_shown_on_one_line_whatever_they_hold():
    assert readable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert readable("caf\udcc3\udca9") == "café"  # as the C locale gives it
    assert readable("a\nb\x1b[31m\x9b2J\u202etxt\x00") == r"a\nb\x1b[31m\x9b2J\u202etxt\x00"
    assert readable("\ud83d half") == r"\ud83d half"
    for name in ("日本　東京", "क्‍ष", "=1+1", "--help", "שלום"):
        assert readable(name) == name
    assert readable(Path("a") / "b") == "a/b"


@pytest.fixture
def stream(monkeypatch):
    """A function that puts a stream of an encoding on a file number in the place of stdout."""

    def put(number, encoding="utf-8"):
        made = io.TextIOWrapper(os.fdopen(number, "wb"), encoding)
        monkeypatch.setattr(sys, "stdout", made)
        return made

    yield put
    monkeypatch.undo()


@pytest.fixture
def broken():
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


def test_signs_that_a_stream_lacks_are_replaced(tmp_path, stream):
    with open(tmp_path / "out", "wb") as file:
        out = stream(os.dup(file.fileno()), "ascii")
        assert say("1×1 … 日 caf\udce9 \x1b[31m") is None
        out.close()
    assert (tmp_path / "out").read_text() == "1x1 . ? caf\\xe9 \\x1b[31m\n"


def test_control_characters_do_not_reach_a_terminal(capsys):
    say("a\x1b]0;title\x07\tb\r\x9b2J\u202ec\nd", error=True)
    assert capsys.readouterr().err == "a\\x1b]0;title\\x07\tb\\r\\x9b2J\\u202ec\nd\n"


def test_a_pipe_that_nobody_reads_ends_a_command_quietly(stream, broken, capsys):
    out = stream(broken)
    assert run_command(lambda: "text\n" * 50_000) == 141
    out.write("more")  # what Python would flush at exit
    out.close()
    assert capsys.readouterr().err == ""


def test_a_full_disk_behind_the_output_is_told(stream, capsys):
    stream(os.open("/dev/full", os.O_WRONLY))
    assert run_command(lambda: "text") == 2
    assert "error: The output cannot be written: No space left" in capsys.readouterr().err


def test_work_goes_on_into_any_stream(stream, broken, monkeypatch):
    def work():
        for _ in range(3):
            say("text")
            say("text", error=True)
        progress_bar(3, "working").update(3)
        assert not on_terminal()

    out = stream(broken)
    assert run_command(work) == 0
    out.close()
    assert run_command(work) == 0  # closed by hand
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    work()


def test_a_mistake_is_told_whatever_it_holds(capsys):
    def fail():
        raise UserError("config.data.name='folder:caf\udce9': nothing there \x1b[2J")

    assert run_command(fail) == 2
    assert (
        "error: config.data.name='folder:caf\\xe9': nothing there \\x1b[2J"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0123, 2, "0.012"),
        (7, 3, "7"),
        (9.96, 2, "10"),
        (99.6, 2, "100"),
        (999.96, 3, "1,000"),
        (35_126.4, 4, "35,126"),
    ],
)
def test_no_figure_is_written_in_powers_of_ten(value, digits, text):
    assert significant(value, digits) == text


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
COMMANDS = {
    "help of the commands": (["-m", "jax_train", "predict", "--help"], 0),
    "help of training": (["train_jax.py", "--help"], 0),
    "a mistake": (["train_jax.py", "--config.train.epochs=0"], 2),
    "a mistake in a command": (["-m", "jax_train", "repotr"], 2),
    "help of the benchmarks": (["-m", "benchmarks", "--help"], 0),
}


STREAMS = [">&-", "<&- >&- 2>&-", "| true", "2>&1 | head -n 1"]
# Each command on one kind of stream, and one on all of them.
PAIRS = [(command, STREAMS[-1]) for command in COMMANDS]
PAIRS += [("help of training", streams) for streams in STREAMS[:-1]]


@pytest.mark.parametrize(("command", "streams"), PAIRS)
def test_a_command_ends_as_it_should_on_any_stream(command, streams):
    arguments, code = COMMANDS[command]
    line = f"{sys.executable} {' '.join(arguments)} {streams}; exit ${{PIPESTATUS[0]}}"
    environment = os.environ | ASCII | {"COLUMNS": "7"}
    out = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=60
    )
    assert out.returncode in {code, 141 if "|" in streams else code}, out.stderr
    assert "Traceback" not in out.stderr + out.stdout
    assert "Exception ignored" not in out.stderr
