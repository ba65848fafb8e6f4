"""A few hundred random inputs for each reader of untrusted data; `python -m tests.fuzz` for more.

The inputs are the same in every run.
"""

import datetime
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import cases, runner

EXAMPLES = {"state dict, ViT": 100, "state dict, CNN": 150, "overrides": 400, "folder": 40}
WHOLE_RUNS = {"folder, whole run"}  # seconds each: left to `python -m tests.fuzz`
DEADLINE = datetime.timedelta(seconds=10)  # milliseconds each; a busy machine takes seconds


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize("kind", [kind for kind in cases.CASES if kind not in WHOLE_RUNS])
def test_it_is_taken_whole_or_refused_with_a_message(kind):
    case = cases.CASES[kind]
    # First what is slow only once: imports, and the tiny model.
    outcomes = {case(random.Random(seed)) for seed in range(3)}

    @settings(
        max_examples=EXAMPLES.get(kind, 200),
        deadline=DEADLINE,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=True))
    def check(source):
        outcomes.add(case(source))

    check()
    assert outcomes == {cases.ACCEPTED, cases.REFUSED}  # else the inputs would prove little


def test_the_fuzzer_tells_a_failure_with_its_seed(capsys, monkeypatch):
    def fail(source):
        assert source.random() < 0.7, "broken"
        return cases.ACCEPTED

    monkeypatch.setattr(cases, "CASES", {"broken": fail})
    number = next(n for n in range(99) if random.Random(n).random() >= 0.7)
    assert runner.replay("broken", number) == 1
    out = capsys.readouterr().out
    assert "AssertionError: broken" in out
    assert f"python -m tests.fuzz --kind 'broken' --seed {number}" in out
