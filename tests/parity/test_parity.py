"""The Flax models equal their PyTorch mirrors, and a broken one does not.

Tolerances are those of docs/parity.md. They are never loosened to pass.
"""

import pytest

import jax_models
import torch_ref
from tests.parity import ladder
from tests.parity.measure import measure, table

pytestmark = pytest.mark.xdist_group("parity")  # one process measures for all of them

RUNGS = [(model, rung) for model in ladder.CASES for rung in ladder.BARS]


@pytest.fixture(scope="module")
def measured():
    return measure()


def test_every_model_is_on_the_ladder():
    assert sorted(ladder.CASES) == jax_models.list_models() == torch_ref.list_models()


@pytest.mark.parametrize(("model", "rung"), RUNGS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_model_equals_its_mirror(measured, precision, model, rung):
    errors = measured[precision]["errors"][model]
    if rung not in errors:
        absent = {"vit": {"running statistics, 3 steps"}, "simple_cnn": {"attention"}}
        assert rung in absent[model]
        return
    bar = ladder.BARS[rung][precision == "float64"]
    if bar is not None:
        assert errors[rung] <= bar


@pytest.mark.parametrize("mutation", ladder.MUTATIONS)
def test_broken_model_is_caught(measured, mutation):
    errors = measured["float64"]["mutations"][mutation]
    *_, must_break = ladder.MUTATIONS[mutation]
    caught = {rung for rung, error in errors.items() if error > ladder.BARS[rung][1]}
    assert set(must_break) <= caught


def test_every_rung_is_broken_by_some_mutation():
    broken = {rung for *_, rungs in ladder.MUTATIONS.values() for rung in rungs}
    assert broken == set(ladder.BARS)


def test_the_table_shows_every_error(measured):
    rows = table(measured).splitlines()[2:]
    assert len(rows) == sum(len(errors) for errors in measured["float32"]["errors"].values())
