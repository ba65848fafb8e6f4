"""The harness's own parts; and its short form: five hits on a ViT, damage to a CNN's files."""

import random
from types import SimpleNamespace

import pytest

from tests.soak import compare, damage, files, kills, runs, table, watch
from tests.soak.soak import Soak, Try

SEED = 1


@pytest.fixture
def soak(tmp_path):
    lines = []
    yield Soak(tmp_path, SEED, say=lines.append)
    runs.stop_all()
    print("\n".join(lines))


def outcome(**changes):
    rows = [
        {"step": "3", "split": "train", "loss": "1.5"},
        {"step": "6", "split": "train", "loss": "1.25"},
    ]
    whole = {
        "rows": rows,
        "texts": {"confusion.csv": b"1,2"},
        "figures": {"top1": 0.5},
        "weights": {"kernel": ("float32", (1,), b"\0\0\0\0")},
    }
    return compare.Outcome(**whole | changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rows": outcome().rows[:1]}, "missing rows [('6', 'train')]"),
        ({"rows": outcome().rows + outcome().rows[:1]}, "extra rows [('3', 'train')]"),
        ({"rows": [*outcome().rows[:1], {"step": "6", "split": "train", "loss": "1.26"}]}, "1.26"),
        ({"texts": {"confusion.csv": b"2,1"}}, "confusion.csv differs"),
        ({"figures": {"top1": 0.4}}, "top1 is 0.4 instead of 0.5"),
        ({"figures": {}}, "top1 is None instead of 0.5"),
        ({"weights": {"kernel": ("float32", (1,), b"\0\0\0\1")}}, "1 of 1 leaves"),
        ({"weights": {"kernel": ("float32", (1,), b"\0\0\0\x80")}}, "1 of 1 leaves"),  # -0.0
        ({"weights": {}}, "1 of 1 leaves"),
    ],
)
def test_every_difference_is_found(changes, text):
    assert compare.differences(outcome(), outcome()) == []
    (line,) = compare.differences(outcome(**changes), outcome())
    assert text in line


def test_times_are_no_difference(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,split,images_per_sec,seconds\n3,train,9.5,1\n")
    assert compare.read_rows(tmp_path / "metrics.csv") == [{"step": "3", "split": "train"}]


@pytest.mark.parametrize("kind", [*damage.KINDS, "scrambled"])
def test_damage_changes_the_file_the_same_way_for_the_same_seed(kind, tmp_path):
    function, found = damage.KINDS.get(kind, damage.scramble), []
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_bytes(bytes(range(97)))
        function(path, random.Random(5))
        found.append(path.read_bytes() if path.exists() else None)
    assert found[0] == found[1] != bytes(range(97))
    if kind == "byte flipped":
        assert sum(a != b for a, b in zip(found[0], range(97), strict=True)) == 1


def test_shots_follow_from_the_seed_and_meet_every_place():
    shots = watch.draw_shots(random.Random(3), 400, 5.0)
    assert shots == watch.draw_shots(random.Random(3), 400, 5.0)
    assert {shot.place for shot in shots} == set(watch.PLACES)
    assert {shot.signal for shot in shots} == set(watch.SIGNALS)


ROW = b"20,2,%s,0.5,0.1,0.2,3,4,5,,,\n"


@pytest.mark.parametrize(
    ("printed", "rows", "folder", "place"),
    [
        ([], b"", None, "start-up"),
        (["memory on each device: 1 MB"], b"", None, "step"),
        (["memory on each device: 1 MB"], b"19,1.9,train,1\n", None, "step"),
        (["memory on each device: 1 MB"], ROW % b"train", None, "evaluation"),
        (["memory on each device: 1 MB"], ROW % b"val", None, "step"),
        (["memory on each device: 1 MB"], b"20,2,tra", None, "step"),
        (["memory on each device: 1 MB"], ROW % b"val", "20.orbax-checkpoint-tmp", "save"),
        (["memory on each device: 1 MB"], b"%d,12,val,1\n" % runs.TOTAL, None, "finish"),
        (["going on after step 120"], b"%d,12,val,1\n" % runs.TOTAL, None, "finish"),
        ([], b"%d,12,val,1\n" % runs.TOTAL, None, "start-up"),
    ],
)
def test_place_is_read_from_files_and_output(printed, rows, folder, place, tmp_path):
    seen = watch.Watch(tmp_path, SimpleNamespace(printed=lambda: printed))
    (tmp_path / "metrics.csv").write_bytes(b"step,epoch,split\n" + rows)
    if folder:
        (tmp_path / "checkpoints" / folder).mkdir(parents=True)
    assert seen.place() == place


def test_saves_left_over_by_an_earlier_process_do_not_count(tmp_path):
    (tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not watch.Watch(tmp_path, None).saves()


def test_table_counts_failures(soak):
    def bad(rng, folder):
        folder.mkdir(parents=True)
        assert rng.random() < 0, "three rows are missing"

    soak.attempt("kills/0", "killed", bad)
    soak.tries += [Try("SIGKILL in step", 2.0), Try("file deleted", 3.0, told=True)]
    text = table.markdown(soak, 60.0)
    assert "| SIGKILL in step | 1 | – | 1 | 2.0 |" in text
    assert "| killed | 1 | – | 0 | – |" in text
    assert "3 tries in 1 minutes, 1 failed; seed 1" in text
    assert (soak.folder / "kills" / "0").is_dir()


def test_a_child_dies_with_its_parent():
    import subprocess
    import sys
    import time

    tie = str(runs.ROOT / "tests" / "soak" / "tied.py")
    code = (
        "import os, subprocess, sys; "
        f"p = subprocess.Popen([sys.executable, {tie!r}, str(os.getpid()), '0', '/bin/sleep', "
        "'60']); print(p.pid, flush=True); import time; time.sleep(0.5); os._exit(0)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=20
    )
    deadline = time.monotonic() + 5
    while runs_still(int(out.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs_still(int(out.stdout))


def runs_still(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def failures(soak):
    return {"tried": len(soak.tries), "failed": soak.failed}


def test_killed_five_times_a_vit_ends_equal(soak):
    shots, tries = kills.fixed_shots(SEED), []
    for number in range(3):  # on a busy machine a shot can come too late
        if len(tries) < 5:
            tries += soak.attempt(
                f"kills/{number}",
                "killed",
                lambda rng, folder: kills.kill_round(soak, "vit", folder, shots),
            )
    assert len(tries) >= 5
    assert soak.failed == {}
    assert {one.kind.split()[0] for one in tries} == {"SIGKILL", "SIGTERM"}


def test_damaged_in_each_way_a_cnn_ends_equal(soak):
    soak.reference("cnn")
    run = files.half_done("cnn", soak.folder / "half-done", validated=True)
    chosen = {}
    for kind, function in files.damages(run).items():
        if "state/d/" in kind or "state/manifest" in kind:  # where the arrays are
            chosen[kind.split(":")[0]] = kind, function
    assert len(chosen) == 4
    for number, (kind, function) in enumerate(chosen.values()):

        def try_(rng, folder, kind=kind, function=function):
            return [files.damaged(soak, "cnn", run, folder, kind, function, rng)]

        soak.attempt(f"files/{number}", kind, try_)
    assert failures(soak) == {"tried": len(chosen), "failed": {}}
    assert all(one.told for one in soak.tries if "flipped" not in one.kind)
