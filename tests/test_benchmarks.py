"""Every benchmark runs, and prints figures."""

import re
import subprocess
import sys

import pytest

from tests.parity.measure import ROOT

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
