"""What a model costs, counted however a run was spread or its steps were compiled."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from jax_train import recipes
from jax_train.analysis import costs

_ELSEWHERE = "from tests.jax_train.analysis import test_costs; print(*test_costs.count())"


def count(**fields):
    """Of a small ViT trained in batches of 10."""
    config = recipes.defaults()
    config.model.update(img_size=8, in_channels=1, num_classes=10, patch_size=4)
    config.model.update(embed_dim=16, depth=3, num_heads=2, mlp_dim=32)
    config.data.update(mean=(0.5,), std=(0.5,))
    config.train.update(batch_size=10, epochs=2)
    config.update_from_flattened_dict(fields)
    return costs.flops(SimpleNamespace(config=config), (8, 8, 1))


@pytest.fixture(scope="module")
def plain():
    return count()


def test_blocks_in_a_loop_count_each_time(plain):
    assert count(**{"model.scan_layers": True}) == plain


def test_lookahead_over_more_steps_than_epochs_is_counted(plain):
    found = count(**{"optim.lookahead_steps": 5})
    assert found.forward == plain.forward
    assert plain.train < found.train < 1.2 * plain.train


def test_the_devices_of_this_machine_change_nothing(plain):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=3"
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", _ELSEWHERE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [float(number) for number in done.stdout.split()] == list(plain)
