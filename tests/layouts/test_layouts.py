"""One device, many devices and many processes train alike (tolerances: docs/parity.md)."""

import numpy as np
import pytest

from jax_train.engine.trainable import matched
from tests.layouts import compare, measure
from tests.layouts.runs import INPUTS, LAYOUTS, MODELS, UNEVEN

# At a small size every layout once; the mixed ones only at full size.
_MIXED = ("accumulate, pmap4", "remat, fsdp2x4", "resumed on fsdp2x4")
_SMALL = [name for name in measure.SINGLE if name not in _MIXED]
EXACT = [name for name in LAYOUTS if name not in ("one", "bfloat16")]

pytestmark = [pytest.mark.xdist_group("layouts"), pytest.mark.newest]


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Results of all layouts in float64, small models."""
    folder = tmp_path_factory.mktemp("layouts")
    measure.run_all(folder, _SMALL)
    return folder


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    """The same at the published sizes."""
    folder = tmp_path_factory.mktemp("layouts")
    measure.run_all(folder, full=True)
    return folder


def check_equal(folder, model, name):
    plain, _ = compare.load(folder, model, "one")
    ours, _ = compare.load(folder, model, name)
    gaps = compare.differences(ours, plain)
    if model == "simple_cnn" and name.startswith("accumulate"):
        # Batch norm sees one part of the batch at a time, as in PyTorch: another computation, the
        # same on any devices.
        assert 1e-8 < gaps["first loss"] < 0.1
        gaps = compare.differences(ours, compare.load(folder, model, "accumulate")[0])
    assert gaps["losses"] <= 1e-12, gaps
    assert gaps["parameters"] <= 1e-10, gaps


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [name for name in EXACT if name not in _MIXED])
def test_layouts_train_alike(small, model, name):
    check_equal(small, model, name)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", EXACT)
def test_layouts_train_alike_at_full_size(full, model, name):
    check_equal(full, model, name)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_computation_follows_float64(small, model):
    plain, _ = compare.load(small, model, "one")
    ours, _ = compare.load(small, model, "bfloat16")
    assert ours["losses"] == pytest.approx(plain["losses"], rel=2e-2)
    assert all(
        value.dtype == np.float32 for name, value in ours.items() if name.startswith("params")
    )


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", [name for name in INPUTS if name != "one"])
def test_images_and_masks_are_the_same_bits(small, model, name):
    plain, _ = compare.load(small, model, "one")
    ours, _ = compare.load(small, model, name)
    np.testing.assert_array_equal(ours["images"], plain["images"])
    np.testing.assert_array_equal(ours["masks"], plain["masks"])
    assert 0.85 < ours["masks"].mean() < 0.95


@pytest.mark.parametrize("name", ["jit8", "pmap8", "processes"])
def test_a_step_sends_the_gradient_once(small, name):
    plain, _ = compare.load(small, "vit", "one")
    _, program = compare.load(small, "vit", name)
    params = [key for key in plain if key.startswith("params.")]
    paths = [key.removeprefix("params.") for key in params]
    frozen = {f"params.{path}" for path in matched(paths, UNEVEN["train.freeze"])}
    assert frozen
    gradient = sum(plain[key].nbytes for key in params if key not in frozen)
    sent = compare.by_kind(program["hlo"])
    assert set(sent) == {"all-reduce"}
    figures = 5 * 8  # loss, top-1, top-5, count, mean weight of the labels
    assert gradient <= sent["all-reduce"] <= gradient + figures


@pytest.mark.parametrize("name", ["jit8", "pmap8", "processes"])
def test_batch_norm_adds_four_vectors_of_its_channels(small, name):
    plain, _ = compare.load(small, "simple_cnn", "one")
    _, program = compare.load(small, "simple_cnn", name)
    gradient = sum(value.nbytes for key, value in plain.items() if key.startswith("params"))
    vectors = 4 * sum(
        value.nbytes
        for key, value in plain.items()
        if key.startswith("stats") and key[-3:] == "var"
    )
    sent = compare.by_kind(program["hlo"])
    assert set(sent) == {"all-reduce"}
    assert gradient + vectors <= sent["all-reduce"] <= gradient + vectors + 4 * 8


def test_one_device_sends_nothing(small):
    _, program = compare.load(small, "vit", "one")
    assert compare.collectives(program["hlo"]) == []


def test_fsdp_splits_the_state(small):
    _, whole = compare.load(small, "vit", "jit8")
    _, split = compare.load(small, "vit", "fsdp2x4")
    assert split["memory"]["state"] < 0.4 * whole["memory"]["state"]
    assert "all-gather" in compare.by_kind(split["hlo"])


def test_communication_is_counted_in_bytes():
    hlo = """
      %a = f64[24,10]{1,0} all-gather(%x), dimensions={0}
      %b = (s32[], /*index=1*/f32[7]{0}) all-reduce(%y, %z), to_apply=%add
      %c = f32[5]{0} add(%all-reduce.1, %all-gather)
    """
    assert compare.collectives(hlo) == [("all-gather", 1920), ("all-reduce", 32)]
