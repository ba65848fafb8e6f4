"""The Flax models equal their PyTorch mirrors, and a broken one does not.

Tolerances are those of docs/parity.md. They are never loosened to pass.
"""

import pytest

pytest.importorskip("torch")

import jax_models
import torch_ref
from tests.parity import ladder, mutations, training
from tests.parity.cases import CASES
from tests.parity.measure import ROOT, measure, tables

pytestmark = pytest.mark.xdist_group("parity")  # one process measures for all of them

NO_DROPOUT = ("simple_cnn", "attention_cnn", "airbench94", "raster_vit")
# Rungs a model does not have, each with the reason.
ABSENT = {
    "embedding": ("simple_cnn", "mnist_cnn", "attention_cnn"),  # no tokens
    "attention": ("simple_cnn", "mnist_cnn", "airbench94", "resnet18", "convnext_tiny"),
    "running statistics, 3 steps": tuple(
        name for name in CASES if name not in ladder.BATCH_NORM
    ),  # no batch norm
    "dropout with equal masks: logits": NO_DROPOUT,
    "dropout with equal masks: gradients": NO_DROPOUT,
}


@pytest.fixture(scope="module")
def measured():
    return measure()


@pytest.fixture(scope="module")
def plain():
    return measure(plain=True)


def test_every_family_is_on_the_ladder():
    assert sorted(CASES) == sorted(training.RECIPES)
    assert set(map(jax_models.family, CASES)) == set(torch_ref.list_models())
    assert torch_ref.list_models() == sorted(jax_models.list_families())


@pytest.mark.parametrize("model", CASES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_rung_is_measured(measured, precision, model):
    expected = {rung for rung in ladder.BARS if model not in ABSENT.get(rung, ())}
    if precision == "float64":
        expected.remove("bfloat16 logits, relative")
    assert set(measured[precision]["errors"][model]) == expected


@pytest.mark.parametrize("rung", ladder.BARS)
@pytest.mark.parametrize("model", CASES)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_model_equals_its_mirror(measured, precision, model, rung):
    error = measured[precision]["errors"][model].get(rung, 0.0)
    allowed = ladder.bar(model, rung, precision)
    assert allowed is None or error <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_models_equal_their_mirrors_without_the_cpus_ways(plain, precision):
    for model, errors in plain[precision]["errors"].items():
        for rung, error in errors.items():
            allowed = ladder.bar(model, rung, precision)
            assert allowed is None or error <= allowed, (model, rung)


@pytest.mark.parametrize("name", mutations.MUTATIONS)
def test_broken_model_is_caught(measured, name):
    mutation, errors = mutations.MUTATIONS[name], measured["float64"]["mutations"][name]
    caught = {
        rung
        for rung, error in errors.items()
        if error > ladder.bar(mutation.model, rung, "float64")
    }
    assert set(mutation.must_break) <= caught


def test_every_rung_is_broken_by_some_mutation():
    broken = {rung for mutation in mutations.MUTATIONS.values() for rung in mutation.must_break}
    assert set(ladder.BARS) - broken == {"bfloat16 logits, relative"}  # too coarse to show one


def test_every_model_is_broken_by_some_mutation():
    assert {mutation.model for mutation in mutations.MUTATIONS.values()} == set(CASES)


def test_the_published_tables_have_every_model_and_rung(measured):
    page = (ROOT / "docs" / "parity.md").read_text()
    for line in tables(measured).splitlines():
        head = line.split("|")[1].strip() if line.startswith("|") else line
        assert head in page
