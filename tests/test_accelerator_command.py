"""The proof of an accelerator, in its short form, on the CPU and in this process."""

import itertools
import json
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

import benchmarks.__main__
import benchmarks.accelerator.__main__
import jax_models
from benchmarks import accelerator, tasks
from benchmarks.accelerator import command, flops, page, pieces, speed
from benchmarks.accelerator.pieces import Job, Piece, State, Unfinished
from benchmarks.accelerator.plan import PIECES
from jax_train.errors import Incomplete, UserError
from results import runs
from results.runs import Run
from tests.jax_train.engine.test_accelerators import formula

# Of the measurements of a piece, those that are enough here.
ENOUGH = {
    "device": ["device"],
    "parity": ["vit"],
    "layouts": ["vit, an epoch in a call"],
    "quiet": ["vit"],
    "train": ["vit, bfloat16"],
    "torch": ["vit, bfloat16, eager"],
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of the short form of one model."""
    folder = tmp_path_factory.mktemp("accelerator")
    job = Job(folder, ["vit"], short=True, session="1")
    for name, wanted in ENOUGH.items():

        def some(job, name=name, wanted=wanted):
            found = PIECES[name].measurements(job)
            return {one: found[one] for one in wanted}

        pieces.carry_out(name, replace(PIECES[name], measurements=some), job)
    return folder


def figures(folder, name):
    state = pieces.read(folder, name)
    assert not state.errors
    return state.figures[ENOUGH[name][-1]]


def test_parity_and_layouts_are_measured(measured):
    assert 0 < figures(measured, "parity")["logits"] < 1e-5
    found = figures(measured, "layouts")
    assert max(found["first loss"], found["losses"]) < 1e-6
    assert found["parameters"] < 1e-4


def test_what_is_compiled_later_would_be_seen(measured):
    first, *later = figures(measured, "quiet")["compiled"]
    assert first > 0
    assert later == [0, 0, 0]


def test_speed_and_utilisation_are_measured(measured):
    ours, theirs = figures(measured, "train"), figures(measured, "torch")
    assert ours["batch"] == 2
    assert min(ours["images_per_sec"], ours["step_bytes"], theirs["images_per_sec"]) > 0
    model = jax_models.model_keywords("vit") | {"depth": 1, "num_classes": 10, "in_channels": 3}
    given = {k: v for k, v in tasks.config_of("vit").model.items() if v is not None}
    assert ours["flops"] == pytest.approx(formula("vit", given | model, 32), rel=0.01)
    assert flops.peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989.4e12
    assert flops.peak("NVIDIA H100 PCIe", "tf32") == 378e12
    assert flops.peak("TPU v5 lite", "float32") is None
    assert flops.peak("NVIDIA L40S", "float32") is None


@pytest.mark.parametrize("precision", speed.PRECISIONS)
def test_pytorch_computes_with_all_that_it_has(precision):
    import torch

    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    with speed._torch_products(precision):
        assert cudnn.enabled
        assert cudnn.benchmark
        assert cudnn.allow_tf32 == (precision == "tf32")
        inside = torch.get_float32_matmul_precision()
    assert inside == ("high" if precision == "tf32" else "highest")
    assert not cudnn.benchmark
    assert torch.get_float32_matmul_precision() == before


def test_the_page_tells_what_was_measured(measured):
    text = page.text(measured)
    assert "Measured on 1 × **cpu** (cpu); PyTorch sees cpu; jax" in text
    assert "All are below their bars." in text
    speed = figures(measured, "train")["images_per_sec"]
    theirs = figures(measured, "torch")["images_per_sec"]
    assert f"| `vit` | 2 | bfloat16 | **{speed:,.0f}** |" in text
    assert f"| {theirs:,.0f} | **{speed / theirs:.2f}** | – |" in text
    assert text.count("Not measured yet.") == 3  # host, airbench, recipes
    assert "What failed" not in text
    device = pieces.read(measured, "device").figures["device"]
    lent = device | {"kind": "NVIDIA H200"}
    share = speed * figures(measured, "train")["flops"] / 989.4e12
    states = {name: pieces.read(measured, name) for name in PIECES}
    assert f"| {share:.1%} |" in PIECES["train"].text(states, lent)


def test_an_error_above_its_bar_is_told(measured):
    states = {"parity": State({"vit": {"logits": 2e-5, "features": 1e-6}})}
    text = PIECES["parity"].text(states, {})
    assert "Above their bars: `vit`, logits: 2e-05 (allowed 1e-05)." in text


def test_the_host_and_the_recipes_have_their_tables():
    host = State({"1 block": {"arrays": 63, "loop": 0.5, "alone": 0.25, "single": 0.75}})
    text = PIECES["host"].text({"host": host}, {})
    assert "| 1 block | 63 | 0.50 | 0.25 | 0.25 |" in text
    assert "1 block 0.75 ms" in text
    done = {"epochs": 10, "top1": 0.9412, "seconds": 50.0, "train_flops": 3e15}
    state = State({"airbench94_cifar10": done}, paused={"airbench94_muon_cifar10": "epoch 3 of 8"})
    text = PIECES["airbench"].text({"airbench": state}, {})
    assert "| **94.12%** | 50 | 3 | 60 |" in text
    assert "| `airbench94_muon_cifar10` | epoch 3 of 8 |" in text


def test_the_documentation_is_such_a_page(tmp_path):
    kept, empty = page.PAGE.read_text(), page.text(tmp_path)
    for part in empty.split("\n\n"):
        if not part.startswith(("No device", "Not measured")):
            assert part in kept


# Pieces


def piece(**measurements):
    return Piece("", lambda job: measurements, None, needs=0)


def test_what_fails_is_told_and_loses_nothing_else(tmp_path):
    def fail():
        raise MemoryError("no room\nat all")

    broken = piece(one=fail, two=lambda: {"x": 2})
    pieces.carry_out("torch", broken, Job(tmp_path, session="1"))
    state = pieces.read(tmp_path, "torch")
    assert state.figures == {"two": {"x": 2}}
    assert "- `torch`, one: MemoryError: no room at all" in page.text(tmp_path)
    # In the same session it is not tried again; later it is, when all else is done.
    assert state.todo(["one", "three"], "1") == ["three"]
    assert state.todo(["one", "three"], "2") == ["three", "one"]
    pieces.carry_out("torch", piece(one=lambda: {"x": 1}), Job(tmp_path, session="2"))
    assert list(pieces.read(tmp_path, "torch").figures.items()) == [
        ("one", {"x": 1}),
        ("two", {"x": 2}),
    ]
    assert "What failed" not in page.text(tmp_path)


def test_what_is_measured_is_not_measured_again(tmp_path):
    calls = []
    pieces.carry_out("host", piece(one=lambda: calls.append(1) or {}), Job(tmp_path))
    pieces.carry_out("host", piece(one=lambda: calls.append(2) or {}), Job(tmp_path))
    assert calls == [1]


def test_nothing_begins_for_which_there_is_no_time(tmp_path):
    slow = replace(piece(one=lambda: time.sleep(0.2) or {}, two=lambda: {}), needs=0.1)
    pieces.carry_out("host", slow, Job(tmp_path, seconds=0.3))
    assert list(pieces.read(tmp_path, "host").figures) == ["one"]
    pieces.carry_out("host", slow, Job(tmp_path, seconds=0.3))
    assert list(pieces.read(tmp_path, "host").figures) == ["one", "two"]


def test_what_is_unfinished_goes_on(tmp_path):
    epochs = itertools.count(1)

    def go_on():
        if (epoch := next(epochs)) < 3:
            raise Unfinished(f"epoch {epoch} of 3")
        return {"x": 3}

    alone = replace(piece(one=go_on, two=lambda: {}), alone=True)
    pieces.carry_out("recipes", alone, Job(tmp_path))
    assert pieces.read(tmp_path, "recipes").paused == {"one": "epoch 1 of 3"}
    for _ in range(3):
        pieces.carry_out("recipes", alone, Job(tmp_path))
    state = pieces.read(tmp_path, "recipes")
    assert (state.figures, state.paused) == ({"one": {"x": 3}, "two": {}}, {})


# The command


@pytest.fixture
def go_on(tmp_path, monkeypatch):
    """Go on with one piece of five measurements, of which each process makes one in 20 seconds.

    By `ends`, a process dies with a code, or is killed (None) at the end of its time.
    """
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def carried_out(ends, limit):
        started, pages = [], []

        def start(name, job):
            started.append(round(job.seconds))
            state = pieces.read(tmp_path, name)
            state.planned = state.asked = list("abcde")
            state.now = state.todo(state.asked, job.session)[0]
            code = ends.get(state.now, 0)
            if code == 0:
                state.end(state.now, {})
            pieces.write(tmp_path, name, state)
            clock.now += job.seconds if code is None else 20
            return code

        job = Job(tmp_path, session=str(clock.now))
        end = clock.now + limit
        in_time = command.go_on(["recipes"], job, end, start, lambda: pages.append(1))
        assert len(pages) == len(started)
        return in_time, started, pieces.read(tmp_path, "recipes")

    return carried_out


def test_a_process_that_dies_loses_one_measurement(go_on):
    in_time, started, state = go_on({"b": -9, "d": None}, 10_000)
    assert in_time
    assert started == [600] * 5
    assert list(state.figures) == ["a", "c", "e"]
    told = {name: text for name, (_, text) in state.errors.items()}
    assert told["b"] == "the process ended with code -9"
    assert told["d"] == "it took longer than 10 minutes"
    in_time, started, state = go_on({}, 10_000)
    assert (len(started), len(state.figures), state.errors) == (2, 5, {})


def test_the_limit_ends_the_command_and_fails_nothing(go_on):
    in_time, started, state = go_on({"c": None}, 70)
    assert (in_time, started) == (False, [70, 50, 30])
    assert (list(state.figures), list(state.paused), state.errors) == (["a", "b"], ["c"], {})
    in_time, started, state = go_on({}, 50)
    assert (in_time, started, list(state.figures)) == (False, [50, 30], list("abcd"))


def test_a_process_is_told_what_the_command_was(tmp_path, monkeypatch):
    calls, jobs = [], []

    def popen(call, env, **_):
        calls.append((call, env))
        return SimpleNamespace(wait=lambda seconds: 0, poll=lambda: 0)

    monkeypatch.setattr(command.subprocess, "Popen", popen)
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_user=1")
    job = Job(tmp_path, ["vit", "1 block"], "/data", True, 100.0, "7")
    assert command.start("layouts", job) == 0
    [(call, environment)] = calls
    flags = ["--xla_of_the_user=1", "--xla_gpu_deterministic_ops=true"]
    assert environment["XLA_FLAGS"].split() == flags
    monkeypatch.setattr(pieces, "carry_out", lambda *given: jobs.append(given))
    monkeypatch.setattr(sys, "argv", call[2:])
    accelerator.__main__.main()
    [(name, piece, given)] = jobs
    assert (name, piece) == ("layouts", PIECES["layouts"])
    assert replace(given, begin=job.begin) == replace(job, seconds=90.0)


def device_start(tmp_path, **facts):
    def start(name, job):
        found = {"platform": "gpu", "kind": "NVIDIA H200", "count": 1} | facts
        pieces.write(tmp_path, name, State({"device": found}))
        return 0

    return start


def test_results_of_two_devices_are_not_mixed(tmp_path):
    job = Job(tmp_path)
    command._look_at_device(job, device_start(tmp_path))
    with pytest.raises(UserError, match="has results of 1 x NVIDIA H200, and here is 1 x TPU v4"):
        command._look_at_device(job, device_start(tmp_path, kind="TPU v4"))
    assert job.device["kind"] == "NVIDIA H200"


def test_without_an_accelerator_only_the_short_form_runs(tmp_path):
    start = device_start(tmp_path, platform="cpu", kind="cpu")
    with pytest.raises(UserError, match="sees no GPU or TPU here"):
        command._look_at_device(Job(tmp_path), start)
    command._look_at_device(Job(tmp_path, short=True), start)


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--cases resnet17: .* \(did you mean resnet"):
        command.main(["--short", "--folder", str(tmp_path), "--cases", "resnet17"])


@pytest.mark.slow
def test_the_command_goes_through(tmp_path):
    told = command.main(
        ["--short", "--folder", str(tmp_path), "--cases", "vit", "--pieces", "quiet", "train"]
    )
    assert told == f"All is measured. The page: {tmp_path}/accelerator.md"
    assert "| `vit` | 2 | tf32 |" in (tmp_path / "accelerator.md").read_text()
    again = command.main(["--short", "--folder", str(tmp_path), "--limit", "0", "--pieces", "host"])
    assert isinstance(again, Incomplete)


# Runs of recipes


def test_a_run_is_asked_to_stop_when_its_time_is_over(tmp_path, monkeypatch):
    script = tmp_path / "run.py"
    script.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"open({str(tmp_path / 'begun')!r}, 'w').close()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(Run, "command", lambda self, folder: [str(script)])
    begin = time.monotonic()
    with pytest.raises(runs.Stopped):
        runs.carry_out([Run("one", "vit_digits")], tmp_path, seconds=1)
    assert time.monotonic() - begin < 30
    assert (tmp_path / "begun").exists()


def test_how_far_a_run_is_stands_in_its_files(tmp_path):
    from benchmarks.accelerator.recipes import _progress

    assert _progress(tmp_path) == "begun"
    (tmp_path / "config.json").write_text(json.dumps({"train": {"epochs": 200}}))
    header = "step,epoch,split,loss,top1,top5,images_per_sec\n"
    (tmp_path / "metrics.csv").write_text(header + "50,12.5,train,1.0,0.5,0.9,100\n")
    assert _progress(tmp_path) == "epoch 12.5 of 200"


def test_the_benchmarks_call_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "accelerator", "--pieces", "speed"])
    with pytest.raises(SystemExit):
        benchmarks.__main__.main()
    assert "invalid choice: 'speed'" in capsys.readouterr().err
