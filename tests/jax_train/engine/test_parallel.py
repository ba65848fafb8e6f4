"""Layouts on one device: what they refuse, and how they are asked for. See also tests/layouts."""

import jax
import numpy as np
import pytest

from configs import common
from jax_train.engine import parallel
from jax_train.engine.parallel import Layout, PmapLayout
from jax_train.errors import UserError
from jax_train.machine import processes

pytestmark = pytest.mark.newest


def layout_of(num_devices):
    layout = Layout()
    layout.num_devices = num_devices
    return layout


def test_a_batch_that_devices_do_not_divide_is_refused():
    layout = layout_of(4)
    layout.check_batch_size(12)
    with pytest.raises(UserError, match=r"batch_size=10: .*over 4 devices. Use 8 or 12"):
        layout.check_batch_size(10)
    with pytest.raises(UserError, match=r"Use 4\."):
        layout.check_batch_size(3)


def test_a_batch_has_to_fit_its_parts_too():
    layout = layout_of(4)
    layout.check_batch_size(24, parts=3)
    with pytest.raises(UserError, match=r"4 devices in 3 parts .*accumulate_steps.*Use 12 or 24"):
        layout.check_batch_size(16, parts=3)


def test_pairs_that_are_mixed_stay_on_one_device():
    layout = layout_of(4)
    layout.check_batch_size(48, parts=3, pairs=True)
    with pytest.raises(UserError, match=r"multiple of 8, .* in pairs .*mixup.* Use 8 or 16"):
        layout.check_batch_size(12, pairs=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh.fsdp": 3}, r"mesh.fsdp=3: expected a divisor of .* devices, which is 1: 1\."),
        ({"mesh.data": 2}, r"mesh.data=2: expected 1, which .*fsdp=1 leaves of 1 device, or 0\."),
    ],
)
def test_layouts_that_do_not_fit_are_refused(changes, words):
    config = common.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        parallel.create(config)


def test_pmap_does_not_shard_the_state():
    config = common.get_config()
    config.parallel, config.mesh.fsdp = "pmap", 2
    with pytest.raises(UserError, match=r"parallel='pmap': expected 'jit' with config.mesh.fsdp=2"):
        parallel.create(config, jax.devices() * 2)


def test_pmap_on_one_device_runs_a_function_and_takes_its_memory_over():
    layout = PmapLayout()
    x = layout.replicate(np.arange(7.0))
    double = layout.compile(lambda x: layout.total(2 * layout.shard_batch(x)), (x,), donate=(0,))
    np.testing.assert_array_equal(double(x), 2 * np.arange(7.0))
    assert x.is_deleted()


def test_local_places_on_one_process_are_all():
    np.testing.assert_array_equal(Layout().local_places(6), np.arange(6))


@pytest.mark.parametrize("layout", [Layout, PmapLayout])
def test_memory_leaves_the_data_set_out(layout):
    layout = layout()
    state, data = layout.replicate((np.ones(1000, np.float32), np.ones(50_000, np.float32)))
    compiled = layout.compile(lambda state, data: state + data.sum(), (state, data), donate=(0,))
    used = parallel.memory(compiled, state, data)
    assert used.state == 4000
    assert used.step < 20_000


def test_processes_need_all_three_flags():
    with pytest.raises(UserError, match="--num_processes and --process_id missing"):
        processes.start(coordinator="127.0.0.1:1234")
    with pytest.raises(UserError, match="--process_id=4: expected 0 to 3"):
        processes.start("127.0.0.1:1234", 4, 4)
    with pytest.raises(UserError, match="--num_processes=0: expected a whole number of at least 1"):
        processes.start("127.0.0.1:1234", 0, 0)


def test_one_process_does_its_own_work():
    assert processes.is_main()
    assert processes.on_main(lambda: {"a": [1]}) == {"a": [1]}


def test_within_the_first_process_nothing_waits_for_the_others(monkeypatch):
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_broadcast", lambda value: told.append(value) or value)
    inner = lambda: [processes.on_main(lambda: 1), processes.anywhere(True)]  # noqa: E731
    assert processes.on_main(inner) == [1, True]
    assert told == [[False, [1, True]]]
    assert processes.on_main(lambda: 2) == 2
    assert len(told) == 2


@pytest.mark.parametrize(("tasks", "idle"), [("1(x2)", 7), ("8(x2)", 0), ("", 0)])
def test_gpus_that_slurm_leaves_idle_are_told(monkeypatch, capsys, tasks, idle):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    facts = {"SLURM_PROCID": "0", "SLURM_GPUS_ON_NODE": "8", "SLURM_STEP_TASKS_PER_NODE": tasks}
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    processes.start()
    told = " ".join(capsys.readouterr().err.split())
    assert (
        told.startswith(f"note: {idle} of the 8 GPUs of a node are left idle") if idle else not told
    )


@pytest.mark.parametrize("error", [UserError("no room"), OSError("gone")])
def test_an_error_of_the_first_process_ends_the_others(monkeypatch, error):
    told = []

    def fail():
        raise error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "_broadcast", lambda value: told.append(value) or told[0])
    with pytest.raises(type(error)):
        processes.on_main(fail)
    monkeypatch.setattr(processes, "is_main", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        processes.on_main(fail)
    assert told[0][0] is True
