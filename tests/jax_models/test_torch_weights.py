"""Weights to and from PyTorch: bit for bit, all or nothing, and never sharing memory."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors

from jax_models import torch_weights
from jax_models.torch_weights import tensors
from tests.jax_models.small import (
    COVERED,
    SMALL,
    bits,
    build,
    build_mirror,
    draw_images,
    empty,
    shared,
)
from tests.with_torch import safetensors_torch, torch

every_model = pytest.mark.parametrize("name", COVERED)


def as_numpy(state_dict):
    return {name: tensor.numpy().copy() for name, tensor in state_dict.items()}


def assert_same_state(ours, theirs):
    """Equal names, shapes, dtypes and bits; values are arrays or tensors."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        mine, other = np.asarray(ours[name]), np.asarray(value)
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape), name
        assert mine.tobytes() == other.tobytes(), name


# There and back


@every_model
def test_round_trip_keeps_every_bit(name):
    mirror, model = build_mirror(name), build(name)
    torch_weights.load(model, mirror.state_dict())
    state = torch_weights.export(model)
    assert {type(value) for value in state.values()} == {np.ndarray}
    assert_same_state(state, mirror.state_dict())


@every_model
def test_the_mirror_takes_an_export_strictly(name):
    model, mirror = build(name, seed=3), build_mirror(name)
    state = torch_weights.export(model)
    mirror.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    assert_same_state(mirror.state_dict(), state)
    assert_same_state(state, torch_weights.export(build(name, seed=3)))


@every_model
@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_arrays_will_do_for_tensors(name, kind):
    convert = {"numpy": np.asarray, "jax": jnp.asarray}[kind]
    mirror, model = build_mirror(name), build(name)
    torch_weights.load(model, {k: convert(v.numpy()) for k, v in mirror.state_dict().items()})
    assert_same_state(torch_weights.export(model), mirror.state_dict())


@every_model
def test_tensors_that_require_grad_will_do(name):
    mirror, model = build_mirror(name), build(name)
    state_dict = mirror.state_dict(keep_vars=True)
    assert any(tensor.requires_grad for tensor in state_dict.values())
    torch_weights.load(model, state_dict)
    assert_same_state(torch_weights.export(model), mirror.state_dict())


@every_model
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_float_types_are_cast_to_the_models(name, dtype):
    model, dtype = build(name), getattr(torch, dtype)
    before = {path: value[:2] for path, value in bits(model).items()}
    state_dict = {
        k: v.to(dtype) if v.is_floating_point() else v
        for k, v in build_mirror(name).state_dict().items()
    }
    torch_weights.load(model, state_dict)
    assert {path: value[:2] for path, value in bits(model).items()} == before
    single = {k: v.float() if v.is_floating_point() else v for k, v in state_dict.items()}
    assert_same_state(torch_weights.export(model), single)


@every_model
def test_bfloat16_arrays_are_cast_to_the_models(name):
    model, state = build(name), as_numpy(build_mirror(name).state_dict())
    floats = {k for k, v in state.items() if v.dtype == np.float32}
    state |= {k: state[k].astype(ml_dtypes.bfloat16) for k in floats}
    torch_weights.load(model, state)
    single = state | {k: state[k].astype(np.float32) for k in floats}
    assert_same_state(torch_weights.export(model), single)


# All or nothing


@every_model
def test_all_problems_are_told_at_once_and_nothing_is_loaded(name):
    model, state = build(name), as_numpy(build_mirror(name).state_dict())
    missing, wide, words, flags = sorted(k for k in state if k.endswith("weight"))[:4]
    shape = list(state[missing].shape)
    del state[missing]
    transposed = state[wide] = state[wide][..., None]
    state[words] = np.full(state[words].shape, "weight")
    state[flags] = state[flags] > 0
    state["module.extra"] = np.float32(3)
    before = bits(model)
    with pytest.raises(ValueError, match=r"5 problems; nothing was loaded") as error:
        torch_weights.load(model, state)
    message = str(error.value)
    assert f"missing: {missing} {shape}\n" in message + "\n"
    assert f"misshapen: {wide} is {list(transposed.shape)}, the model has" in message
    assert f"not numbers: {words} has dtype <U6" in message
    assert f"not numbers: {flags} has dtype bool" in message
    assert "unexpected: module.extra" in message
    assert bits(model) == before


@every_model
def test_one_problem_is_enough_to_load_nothing(name):
    state = build_mirror(name).state_dict()
    for tensor, value in list(state.items())[:: max(1, len(state) // 7)]:
        changes = {
            "missing": {k: v for k, v in state.items() if k != tensor},
            "misshapen": state | {tensor: value[None]},
            "unexpected": state | {f"{tensor}.0": value},
            "not numbers": state | {tensor: value.to(torch.complex64)},
        }
        for problem, changed in changes.items():
            model = shared(name)
            before = bits(model)
            with pytest.raises(ValueError, match=f"1 problem(.|\n)*{problem}: {tensor}"):
                torch_weights.load(model, changed)
            assert bits(model) == before


def renamed(state, rename):
    return {rename(name): value for name, value in state.items()}


WRAPPED = {
    "torch.compile": (lambda name: f"_orig_mod.{name}", ["_orig_mod."]),
    "DataParallel": (lambda name: f"module.{name}", ["module."]),
    "Lightning": (lambda name: f"model.{name}", ["model."]),
    "a network of a class": (lambda name: f"net.{name}", ["net."]),
    "several": (lambda name: f"module._orig_mod.model.net.{name}", ["module.", "net."]),
    "twice": (lambda name: f"module.module.{name}", ["module."]),
    "a compiled part": (lambda name: name.replace("conv1.", "conv1._orig_mod."), ["_orig_mod."]),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_what_a_wrapper_adds_to_names_is_taken_off_and_told(wrapper):
    rename, told = WRAPPED[wrapper]
    model, state = build("simple_cnn"), build_mirror("simple_cnn").state_dict()
    with pytest.warns(UserWarning, match="of a wrapped model left out") as caught:
        torch_weights.load(model, renamed(state, rename))
    assert all(word in str(caught[0].message) for word in told)
    assert_same_state(torch_weights.export(model), as_numpy(state))


def test_of_several_state_dicts_in_a_file_the_others_are_told(tmp_path):
    path, state = tmp_path / "checkpoint.pth", {"weight": torch.ones(2)}
    others = {"epoch": 3, "optimizer": {"state": {}}, "args": {}}
    torch.save(others | {"model": state}, path)
    assert list(torch_weights.files.read(path)) == ["weight"]
    torch.save(others | {"model": state, "model_ema": {"weight": torch.zeros(2)}}, path)
    with pytest.warns(UserWarning, match="'model' of the file is read, and 'model_ema' beside"):
        assert torch_weights.files.read(path)["weight"].all()


@pytest.mark.filterwarnings("ignore:.*of a wrapped model")
def test_wrapped_names_are_taken_as_strictly_as_others():
    state = renamed(build_mirror("simple_cnn").state_dict(), lambda name: f"model.{name}")
    refuse(
        shared("simple_cnn"), state | {"loss.weight": torch.ones(3)}, "unexpected: model.conv1.0"
    )
    refuse(shared("simple_cnn"), state | {"model.a": torch.ones(3)}, "1 problem", "unexpected: a")
    both = state | {"model._orig_mod.conv1.0.bias": torch.ones(3)}  # twice, without the wrapper
    refuse(shared("simple_cnn"), both, "unexpected: model._orig_mod.conv1.0.bias")


def test_counters_of_batch_norm_may_be_missing_as_in_pytorch():
    state = build_mirror("simple_cnn").state_dict()
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    fewer = {name: value for name, value in state.items() if name not in counters}
    model = build("simple_cnn")
    with pytest.warns(UserWarning, match=f"num_batches_tracked of {len(counters)} layers is not"):
        torch_weights.load(model, fewer)
    expected = as_numpy(state) | dict.fromkeys(counters, np.zeros((), np.int64))
    assert_same_state(torch_weights.export(model), expected)
    refuse(model, fewer | {counters[0]: state[counters[0]]}, f"missing: {counters[1]}")


def test_a_kernel_with_swapped_axes_is_misshapen():
    model, state = build("vit"), build_mirror("vit").state_dict()
    state["blocks.1.mlp.0.weight"] = state["blocks.1.mlp.0.weight"].T
    with pytest.raises(ValueError, match=r"blocks.1.mlp.0.weight is \[21, 17\].* \[17, 21\]"):
        torch_weights.load(model, state)


def refuse(model, state, *words, **more):
    """The state is refused with these words, and no bit of the model changes."""
    before = bits(model)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        torch_weights.load(model, state, **more)
    for word in words:
        assert word in str(error.value)
    assert bits(model) == before


@every_model
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_values_that_are_not_finite_are_refused(name, value, dtype):
    state = as_numpy(build_mirror(name).state_dict())
    floats = sorted(key for key, array in state.items() if array.dtype == np.float32)
    for key in floats[:: max(1, len(floats) // 3)]:
        changed = state[key].astype(dtype)
        changed.reshape(-1)[-1] = value
        refuse(shared(name), state | {key: changed}, f"not finite: {key} has 1 of {changed.size} ")


def test_values_beyond_the_models_dtype_are_refused():
    state = as_numpy(build_mirror("vit").state_dict())
    state["head.bias"] = np.full(19, 1e39)
    refuse(shared("vit"), state, "head.bias has 19 of 19 values NaN, infinite or too large for fl")


@pytest.mark.parametrize(
    "count",
    [np.float32(np.nan), np.float64(2.5), np.int8(-1), np.int64(2**31), np.uint64(2**64 - 1)],
)
def test_counters_are_whole_and_fit(count):
    state = as_numpy(build_mirror("simple_cnn").state_dict())
    key = "conv1.1.num_batches_tracked"
    refuse(shared("simple_cnn"), state | {key: count}, f"no counts: {key} has others than whole")
    model = build("simple_cnn")
    for right in (np.float64(2**31 - 1), np.uint64(7)):
        torch_weights.load(model, state | {key: right})
        assert torch_weights.export(model)[key] == right


def test_statistics_of_batch_norm_are_finite_and_variances_are_not_negative():
    state = as_numpy(build_mirror("simple_cnn").state_dict())
    key = "conv2.1.running_var"
    negative, nan = state[key].copy(), state[key].copy()
    negative[3], nan[5:7] = -1e-9, np.nan
    refuse(shared("simple_cnn"), state | {key: negative}, f"negative: {key} has 1 of 11 variances")
    refuse(shared("simple_cnn"), state | {key: nan}, f"not finite: {key} has 2 of 11 values")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "misshapen: head.bias is []"),
        ({"a": 1}, "misshapen: head.bias is []"),
        ([[1.0], [2.0, 3.0]], "no array: head.bias cannot be read as a dense array"),
        (np.array([None] * 19), "not numbers: head.bias has dtype object"),
        (np.zeros(19, "M8[s]"), "not numbers: head.bias has dtype datetime64[s]"),
        (np.zeros(19, "V2"), "not numbers: head.bias has dtype |V2"),
        (np.zeros(19, [("a", "f4")]), "not numbers: head.bias has dtype [('a'"),
        (torch.zeros(19).to_sparse(), "no array: head.bias cannot be read as a dense array"),
        (torch.zeros(19, device="meta"), "no array: head.bias cannot be read as a dense array"),
        (torch.zeros(1).bfloat16().expand(10**12), "head.bias is [1000000000000], the model has"),
    ],
)
def test_other_things_than_dense_arrays_are_named(value, words):
    refuse(shared("vit"), build_mirror("vit").state_dict() | {"head.bias": value}, words)


def test_slots_without_end_are_not_compared():
    key = "patch_embedding_layer.class_parameter"
    state = build_mirror("mlp_head_vit").state_dict()
    endless = state | {key: torch.zeros(1, 1, 14).bfloat16().expand(10**12, 1, 14)}
    refuse(shared("mlp_head_vit"), endless, f"misshapen: {key} is [1000000000000, 1, 14]")


def test_names_are_safe_to_print_and_come_once():
    state = build_mirror("mnist_vit").state_dict()
    odd = {"a\nb\x1b[2J": 0, "": 0, 7: 0, ("x",): 0, "long" * 1000: 0}
    words = (r"unexpected: 'a\nb\x1b[2J'", "unexpected: ''", "unexpected: 7", "unexpected: ('x',)")
    refuse(shared("mnist_vit"), state | odd, *words, f"unexpected: {'long' * 50}…", "(5 problems")
    token = state["class_random"]
    refuse(shared("mnist_vit"), state, "twice: class_random is in", class_random=token)
    with pytest.raises(ValueError, match="state dict is list; expected names with their tensors"):
        torch_weights.load(shared("mnist_vit"), [token])


def test_running_out_of_memory_half_way_changes_nothing(monkeypatch):
    model, left = build("vit"), iter(range(9))
    before, make = bits(model), jnp.array

    def fail(*args, **kwargs):
        if next(left, None) is None:
            raise MemoryError
        return make(*args, **kwargs)

    monkeypatch.setattr(tensors.jnp, "array", fail)
    with pytest.raises(MemoryError):
        torch_weights.load(model, build_mirror("vit").state_dict())
    monkeypatch.undo()
    assert bits(model) == before


# No shared memory


@every_model
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_changing_the_source_afterwards_changes_nothing(name, kind):
    model, state = build(name), build_mirror(name).state_dict()
    if kind == "numpy":
        state = as_numpy(state)
    torch_weights.load(model, state)
    before = bits(model)
    for value in state.values():
        value += 3
    assert bits(model) == before


@every_model
def test_an_optimizer_step_of_the_mirror_changes_nothing(name):
    model, mirror = build(name), build_mirror(name)
    torch_weights.load(model, mirror.state_dict())
    before = bits(model)
    sum(p.square().sum() for p in mirror.parameters()).backward()
    torch.optim.SGD(mirror.parameters(), lr=0.1).step()
    assert bits(model) == before


@every_model
def test_changing_an_export_changes_nothing(name):
    model = build(name)
    before = bits(model)
    for value in torch_weights.export(model).values():
        value += 3
    assert bits(model) == before


# Models without values


@every_model
def test_an_abstract_model_is_filled_and_runs(name):
    model = empty(name)
    mirror, images = build_mirror(name).eval(), draw_images(name)
    torch_weights.load(model, mirror.state_dict())
    assert_same_state(torch_weights.export(model), mirror.state_dict())
    with torch.no_grad():
        logits = mirror(torch.from_numpy(np.asarray(images.transpose(0, 3, 1, 2)).copy()))
    np.testing.assert_allclose(jax.jit(model)(images), logits, atol=1e-4, rtol=1e-4)


@every_model
def test_an_abstract_model_has_nothing_to_export(name, tmp_path):
    model = empty(name)
    with pytest.raises(ValueError, match=r"shapes but no values .*load weights first"):
        torch_weights.export(model)
    with pytest.raises(ValueError, match="load weights first"):
        torch_weights.save_safetensors(model, tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_misfit_carries_its_problems(tmp_path):
    state = as_numpy(build_mirror("raster_vit").state_dict())
    shape = state.pop("fc.bias").shape
    state |= {"wing": np.zeros(3), "class_token": np.zeros((1, 2))}
    np.savez(tmp_path / "a.npz", **state)
    with pytest.raises(torch_weights.Misfit) as error:
        torch_weights.load_file(shared("raster_vit"), tmp_path / "a.npz")
    found = {(p.kind, p.name, p.expected, p.found) for p in error.value.problems}
    width = SMALL["raster_vit"].settings["embed_dim"]
    assert found == {
        ("missing", "fc.bias", shape, None),
        ("unexpected", "wing", None, None),
        ("misshapen", "class_token", (1, 1, width), (1, 2)),
    }
    assert all(str(problem) in str(error.value) for problem in error.value.problems)


@every_model
def test_names_are_those_of_the_state_dict(name):
    model = empty(name)
    assert sorted(torch_weights.names(model)) == sorted(build_mirror(name).state_dict())


def test_a_model_without_a_name_table_is_told():
    model = build("vit")
    model.model_name = "heron"
    with pytest.raises(ValueError, match="No PyTorch names are known of the model 'heron'"):
        torch_weights.export(model)


# Files


@every_model
@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path])
def test_a_file_reads_on_both_sides(name, kind, tmp_path):
    path = kind(tmp_path / "weights.safetensors")
    model, other, mirror = build(name, seed=3), build(name, seed=4), build_mirror(name)
    torch_weights.save_safetensors(model, path)
    torch_weights.load_file(other, path)
    assert bits(other) == bits(model)
    mirror.load_state_dict(safetensors_torch.load_file(path), strict=True)
    assert_same_state(mirror.state_dict(), torch_weights.export(model))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert os.listdir(tmp_path) == ["weights.safetensors"]


@every_model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_file_of_the_mirror_reads(name, dtype, tmp_path):
    model, mirror = build(name), build_mirror(name).to(getattr(torch, dtype))
    safetensors_torch.save_file(mirror.state_dict(), tmp_path / "a.safetensors")
    torch_weights.load_file(model, tmp_path / "a.safetensors")
    assert_same_state(torch_weights.export(model), mirror.float().state_dict())


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: there is no such file"):
        torch_weights.load_file(shared("vit"), tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"folder\.npz is a folder; expected a file"):
        torch_weights.load_file(shared("vit"), tmp_path / "folder.npz")
    with pytest.raises(ValueError, match=r"pipe\.safetensors is a pipe or a device"):
        torch_weights.load_file(shared("vit"), tmp_path / "pipe.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:11],
        lambda data: b"",
        lambda data: b"\xff" * 97 + data,
        lambda data: data + b"\0",
        lambda data: np.random.default_rng(0).bytes(1009),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_loaded(damage, tmp_path):
    path = tmp_path / "weights.safetensors"
    torch_weights.save_safetensors(build("vit", seed=3), path)
    path.write_bytes(damage(path.read_bytes()))
    model = shared("vit")
    before = bits(model)
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a readable safetensors"):
        torch_weights.load_file(model, path)
    assert bits(model) == before


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pt", ".pth", ".bin"])
def test_files_of_every_format_load_whole(ending, tmp_path):
    path, mirror, model = tmp_path / f"a{ending}", build_mirror("simple_cnn"), build("simple_cnn")
    state = mirror.state_dict()
    if ending == ".safetensors":
        safetensors_torch.save_file(state, path)
    elif ending == ".npz":
        np.savez_compressed(path, **as_numpy(state))
    else:
        torch.save({"state_dict": state}, path)
    torch_weights.load_file(model, path)
    assert_same_state(torch_weights.export(model), state)


def test_what_does_not_fit_names_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", weight=np.zeros(3))
    model = shared("vit")
    before = bits(model)
    with pytest.raises(ValueError, match=r"a\.npz: The state dict does not fit.*\(\d+ problems"):
        torch_weights.load_file(model, tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.h5: the format follows from the ending.*\.npz"):
        torch_weights.load_file(model, tmp_path / "a.h5")
    assert bits(model) == before


def test_a_file_of_another_model_is_told_and_nothing_is_loaded(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch_weights.save_safetensors(build("simple_cnn"), path)
    model = shared("vit")
    before = bits(model)
    with pytest.raises(ValueError, match="nothing was loaded") as error:
        torch_weights.load_file(model, path)
    assert "unexpected: conv1.0.weight" in str(error.value)
    assert "missing: cls_token [1, 1, 21]" in str(error.value)
    assert bits(model) == before


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("older", [True, False])
def test_a_failed_write_leaves_everything_as_it_was(failing, older, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    if older:
        path.write_bytes(b"an older file")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        torch_weights.save_safetensors(shared("vit"), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"an older file"] * older


def test_a_file_replaces_an_older_one(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"an older file")
    torch_weights.save_safetensors(shared("vit"), path)
    model = build("vit", seed=5)
    torch_weights.load_file(model, path)
    assert bits(model) == bits(shared("vit"))


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        torch_weights.save_safetensors(shared("vit"), tmp_path / "none" / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    torch_weights.save_safetensors(shared("vit"), tmp_path / "weights")
    modes = {file.name: file.stat().st_mode for file in tmp_path.iterdir()}
    assert modes["weights"] == modes["plain"]


# Without PyTorch


def run_python(program, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_importing_the_models_stays_light():
    loaded = run_python("""
        import sys
        import jax_models
        from jax_models import torch_weights
        print(*sorted(m for m in sys.modules if "." not in m))
    """).split()
    assert "jax_models" in loaded
    heavy = {"torch", "tensorflow", "tensorflow_datasets", "orbax", "matplotlib", "jax_train"}
    assert not heavy.intersection(loaded)


def test_weights_move_without_torch(tmp_path):
    state = {name: as_numpy(build_mirror(name).state_dict()) for name in COVERED}
    for name in COVERED:
        np.savez(tmp_path / f"{name}.npz", **state[name])
    run_python(
        """
        import sys
        sys.modules["torch"] = None  # importing it fails
        import json, numpy as np
        from flax import nnx
        import jax_models
        from jax_models import registry, torch_weights

        folder, settings = sys.argv[1], json.loads(sys.argv[2])
        for name in settings:
            model = registry.abstract_model(name, **settings[name])
            torch_weights.load(model, dict(np.load(f"{folder}/{name}.npz")))
            torch_weights.save_safetensors(model, f"{folder}/{name}.safetensors")
            torch_weights.load_file(model, f"{folder}/{name}.safetensors")
        """,
        tmp_path,
        json.dumps({name: SMALL[name].settings for name in COVERED}),
    )
    for name in COVERED:
        file = safetensors_torch.load_file(tmp_path / f"{name}.safetensors")
        assert_same_state(file, state[name])
