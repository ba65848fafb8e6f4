"""Every benchmark runs, and prints figures; what they are made of, and how they are kept."""

import argparse
import io
import re
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from flax import nnx

import benchmarks.__main__
import jax_models
from benchmarks import jax_side, machine, race, rows, steady, tasks
from configs import sl_vit_cifar10
from jax_models import registry
from jax_train.engine.recipe import resolve
from jax_train.errors import UserError
from tests.parity.measure import ROOT
from tests.with_torch import torch

slow = pytest.mark.slow
PARTS = [
    "epoch",
    "memory",
    "host",
    "input",
    *(
        pytest.param(part, marks=slow)
        for part in ("train", "eval", "world", "startup", "serve", "growth")
    ),
]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_prints_its_table(part):
    case = "resnet18" if part in ("world", "serve") else "mnist_cnn"
    command = [sys.executable, "-m", "benchmarks", part, "--quick", "--cases", case]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("|---|")[-1]
    rows = [line for line in table.splitlines()[1:] if line.startswith("|")]
    assert rows
    for row in rows:
        figures = [float(text.replace(",", "")) for text in re.findall(r"\d[\d,.]*", row)]
        assert len(figures) >= 2
        assert min(figures) > 0
    assert "did not start" not in done.stderr


def test_an_unknown_part_is_refused():
    command = [sys.executable, "-m", "benchmarks", "speed"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 2
    assert "no part speed: choose of train, epoch" in done.stderr


# What is timed

CONFIGS = [(tasks.config_of, case) for case in tasks.CASES]
CONFIGS += [(tasks.published_config, name) for name in tasks.PUBLISHED]


@pytest.mark.parametrize(("make", "case"), CONFIGS)
def test_both_sides_are_of_one_size(make, case):
    from benchmarks import torch_side

    config = make(case)
    splits = jax_side.splits_of(config, *tasks.random_images(config, 5))
    sizes, known = resolve(config, splits).model, jax_models.model_keywords(config.model.name)
    given = {key: sizes[key] for key in known if sizes[key] is not None}
    model = registry.abstract_model(config.model.name, **given)
    with torch.device("meta"):
        mirror = torch_side.create_model(config, fused_attention=False)
    parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(p.numel() for p in mirror.parameters()) == sum(p.size for p in parameters)


def test_a_race_leaves_out_what_pytorchs_side_has_not():
    config, recipe = tasks.config_of("sl_vit"), sl_vit_cifar10.get_config()
    assert recipe.augment.mixup > 0 < recipe.augment.erase_probability
    assert config.augment.mixup == config.augment.cutmix == config.augment.erase_probability == 0
    assert (config.augment.auto_augment, config.augment.crop_padding) == ("", 4)
    config = tasks.config_of("airbench94")
    assert (config.augment.crop_mode, config.augment.flip_mode) == ("zero", "random")
    assert config.optim.groups == config.train.freeze == ()
    assert config.optim.lookahead_steps == 0
    assert config.optim.nesterov


# When a sample is taken


class Waiting:
    """Work that takes a second a step, ten times as long after a wait, and a clock for it."""

    def __init__(self):
        self.now, self.slow, self.factor = 0.0, 0, 10.0

    def wait(self, steps, factor=10.0):
        self.slow, self.factor = steps, factor

    def run(self, count):
        for _ in range(count):
            self.now += self.factor if self.slow else 1.0
            self.slow = max(0, self.slow - 1)
        return 7 * count

    def clock(self):
        return self.now


def test_a_sample_begins_when_the_side_is_as_fast_as_before_it_waited():
    work = Waiting()
    pace = steady.Pace(work.run, 5, 100, work.clock)
    assert pace.sample() == steady.Sample([1.0] * 5, 7, True)
    work.wait(6)
    assert pace.sample() == steady.Sample([1.0] * 5, 7, True)


def test_a_side_that_stays_slow_is_told():
    work = Waiting()
    pace = steady.Pace(work.run, 5, 100, work.clock)
    work.wait(10**6, factor=1.5)
    assert pace.sample() == steady.Sample([1.5] * 5, 7, False)
    assert work.now < 150
    assert pace.sample().settled  # now that is its pace


def test_short_steps_are_timed_several_at_a_time():
    work = Waiting()
    work.wait(10**9, factor=1e-3)
    sample = steady.Pace(work.run, 1, 20, work.clock).sample()
    assert sample.images == 7 * 50
    assert sample.beats == pytest.approx([0.05] * 20)


def test_medians_are_of_steps_and_spreads_of_samples():
    samples = race.Samples([[100.0, 101.0, 30.0], [99.0, 100.0, 104.0]])
    assert samples.median == 100
    assert samples.spread == 0.0
    assert race.Samples([[100.0, 50.0], [120.0, 110.0]]).spread == pytest.approx(20 / 105)
    assert race.Samples([[100.0, 50.0]]).spread is None


def test_a_side_that_ends_in_the_middle_is_named():
    command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racer = subprocess.Popen(command, **pipes)
    with racer, pytest.raises(UserError, match=r"with code 3: import sys.*\nBENCH_VERBOSE"):
        race._answer(racer)


class Racer(SimpleNamespace):
    """A process that says a line, or ends at once."""

    def __init__(self, *said: str):
        stdout = SimpleNamespace(readline=lambda: said[0] if said else "")
        super().__init__(stdin=io.StringIO(), stdout=stdout, wait=lambda: 1)


@pytest.mark.parametrize(
    ("starts", "told"), [("jax", "JAX alone started"), ("torch", "JAX did not start")]
)
@pytest.mark.parametrize("part", ["train", "memory", "world"])
def test_a_row_with_one_side_is_left_out_and_told(part, starts, told, monkeypatch, capsys):
    """The other rows are measured."""
    sides = {side: Racer(*["ready"] * (side == starts)) for side in ("jax", "torch")}
    monkeypatch.setattr(race, "_start", lambda job, environment: sides[job["side"]])
    given = {"recipes": ["mnist_cnn"], "published": ["resnet18"], "dtypes": None, "changes": {}}
    table = benchmarks.__main__.PARTS[part](argparse.Namespace(**given, rounds=1))
    assert list(table.measured) == []
    case = "resnet18" if part == "world" else "mnist_cnn"
    assert re.search(rf"{case}.* is left out: {told}", capsys.readouterr().err)
    assert sides[starts].stdin.closed


# How figures are kept


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "RECORDS", tmp_path / "records")


def here(**changes):
    return machine.describe() | {"processor": "A", "instructions": ["avx2"]} | changes


def row(case="vit", ours=300.0, spread=0.03, **fields):
    figures = {"JAX": ours, "PyTorch": 100.0, "compiled": 150.0}
    return rows.Row(case, 128, figures, spread, **fields)


def test_each_kind_of_processor_has_a_column(records):
    rows.keep("train", here(), [row(), row(dtype="bfloat16", ours=600.0)], "5 samples.")
    rows.keep("train", here(processor="B", instructions=["sve"]), [row(ours=75.0)], "1 sample.")
    text = rows.page("train").splitlines()
    cores = machine.title(here())
    assert text[0] == f"| model | batch | dtype | {cores} | {machine.title(here(processor='B'))} |"
    assert (
        text[2] == "| `vit` | 128 | float32 | **2.00** ±3% (300 / 150) | **0.50** ±3% (75 / 150) |"
    )
    assert text[3] == "| `vit` | 128 | bfloat16 | **4.00** ±3% (600 / 150) | – |"
    assert ": sve; jax" in text[-1]
    assert text[-1].endswith("1 sample.")


def test_rows_are_kept_as_they_come(records, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- train: begin -->\n\n<!-- train: end -->\n")
    monkeypatch.setattr(benchmarks.__main__, "PAGE", page)

    def measured():
        yield row(samples=5, again=2)
        yield row("mnist_vit", samples=3, in_vain=1, slower=4)
        raise KeyboardInterrupt

    table = benchmarks.__main__.Table(["JAX", "PyTorch"], measured(), "A note.")
    with pytest.raises(KeyboardInterrupt):
        benchmarks.__main__.follow("train", table, here(), True)
    assert "`mnist_vit`" in capsys.readouterr().out
    told = "3 to 5 samples of each, 2 disturbed by other programs and taken again, 1 of them in "
    told += "vain; 4 at less than the pace before. A note.\n"
    assert page.read_text() == (
        f"<!-- train: begin -->\n\n{rows.page('train')}\n\n<!-- train: end -->\n"
    )
    assert rows.page("train").endswith(told.rstrip())


def test_the_newest_figures_of_a_processor_take_the_place_of_the_others(records):
    rows.keep("train", here(), [row(), row("mnist_vit")], "old")
    rows.keep("train", here(date="2100-01-01"), [row(ours=450.0)], "new")  # of one model alone
    [(kept, found, note)] = rows.read("train")
    assert (kept["date"], note) == ("2100-01-01", "new")
    assert [(one.case, one.ratio) for one in found] == [("vit", 3.0), ("mnist_vit", 2.0)]
    rows.keep("train", here(versions={"jax": "9"}), [row()], "of other versions")
    assert [len(found) for _, found, _ in rows.read("train")] == [1]
    rows.keep("train", here(instructions=["avx2", "amx_bf16"]), [row()], "of another processor")
    assert len(rows.read("train")) == 2


def test_a_row_that_is_not_steady_says_so(records):
    rows.keep("eval", here(), [row(spread=0.13, what="inference")], "")
    assert "| 2.00 ±13%, not to be used (300 / 150) |" in rows.page("eval")
    assert rows.line(row(spread=0.13), ["JAX", "fused", "compiled"]) == (
        "| `vit` | 128 | float32 | 300 | – | 150 | 2.00 ±13%, not to be used |"
    )


@pytest.mark.parametrize("part", ["train", "epoch", "eval", "world", "memory"])
def test_the_page_is_written_from_the_records(part):
    page = (ROOT / "docs" / "performance.md").read_text()
    assert f"<!-- {part}: begin -->\n\n{rows.page(part)}\n\n<!-- {part}: end -->" in page


def test_the_machine_is_named():
    found = machine.describe()
    assert found["processor"]
    assert found["cores"] >= 1
    assert machine.is_same_kind(found, found | {"date": "", "instructions": []})
    assert not machine.is_same_kind(found, found | {"cores": 999})


# The sides


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytorch_computes_in_the_dtype_of_the_row(dtype):
    kind = getattr(torch, dtype)
    from benchmarks import torch_side

    config = tasks.config_of("mnist_cnn", **{"dtype": dtype, "train.batch_size": 2})
    config.eval.batch_size = 2
    images = tasks.random_images(config, 4)
    training = torch_side.Training(config, *images, fused_attention=False)  # that is for all tests
    seen = []
    training.model.register_forward_hook(lambda model, given, out: seen.append(out.dtype))
    assert training.train_steps(1) == training.eval_steps(1) == 2
    assert seen == [kind, kind]
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in training.model.parameters()} == {torch.float32}
