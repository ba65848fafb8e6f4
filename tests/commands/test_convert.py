"""`python -m jax_train convert`: there and back bit for bit, or one paragraph and no file."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import jax_models
import torch_ref
from jax_train import __main__ as commands
from jax_train import build, convert, trained
from jax_train.errors import UserError

RASTER = {
    "img_size": 10, "in_channels": 2, "num_classes": 19, "patch_size": 5, "embed_dim": 21,
    "depth": 2, "num_heads": 3, "mlp_dim": 17,
}  # fmt: skip
CNN = {"in_channels": 2, "num_classes": 19, "widths": (5, 11)}
MNIST = {
    "img_size": 14, "in_channels": 2, "num_classes": 13, "patch_size": 7, "embed_dim": 15,
    "depth": 1, "num_heads": 3, "mlp_dim": 23, "head_dims": (17, 11),
}  # fmt: skip
MLP_HEAD = MNIST | {"embed_dim": 21}
SETTINGS = {
    "raster_vit": RASTER, "simple_cnn": CNN, "mnist_vit": MNIST, "mlp_head_vit": MLP_HEAD,
}  # fmt: skip


def source_state(name="raster_vit"):
    torch.manual_seed(5)
    state = torch_ref.create_model(name, **SETTINGS[name]).state_dict()
    for key, tensor in state.items():
        tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else len(key))
        if key.endswith("running_var"):
            tensor.abs_()
    return state


def run(source, target, *more, name="raster_vit", settings=None):
    """Run the command in this process; return its exit code."""
    settings = SETTINGS.get(name, {}) if settings is None else settings
    given = [f"--set={key}={value!r}" for key, value in settings.items()]
    paths = ["--from", str(source), "--to", str(target)]
    return commands.main(["convert", "--model", name, *paths, *given, *more])


def read(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    return torch.load(path, weights_only=True)


def assert_same_state(ours, theirs):
    assert list(ours) == list(theirs) or set(ours) == set(theirs)
    for key, value in theirs.items():
        mine, other = np.asarray(ours[key]), np.asarray(value)
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape), key
        assert mine.tobytes() == other.tobytes(), key


def assert_refused(capsys, folder, *words):
    """One paragraph on stderr, and no new file."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert "\n\n" not in err
    text = " ".join(err.split())
    for word in words:
        assert word in text
    assert not [path for path in folder.iterdir() if path.name.startswith("out")]


@pytest.fixture
def source(tmp_path):
    torch.save(source_state(), tmp_path / "source.pt")
    return tmp_path / "source.pt"


# There and back


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
@pytest.mark.parametrize(("name", "torch_ending"), [("raster_vit", ".pt"), ("simple_cnn", ".bin")])
def test_there_and_back_keeps_every_bit(name, torch_ending, ending, tmp_path, capsys):
    state = source_state(name)
    first, middle, last = tmp_path / "a.pth", tmp_path / f"b{ending}", tmp_path / f"c{torch_ending}"
    torch.save(state, first)
    assert run(first, middle, name=name) == 0
    assert_same_state(read(middle), state)
    assert run(middle, last, name=name) == 0
    back = read(last)
    assert {type(value) for value in back.values()} == {torch.Tensor}
    assert_same_state(back, state)
    torch_ref.create_model(name, **SETTINGS[name]).load_state_dict(back, strict=True)
    values = sum(tensor.numel() for tensor in state.values())
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: {len(state)} tensors of {name}, {values:,} values." for path in (middle, last)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {first.name, middle.name, last.name}


def test_safetensors_and_npz_hold_the_same(source, tmp_path):
    assert run(source, tmp_path / "a.npz") == 0
    assert run(tmp_path / "a.npz", tmp_path / "b.safetensors") == 0
    assert_same_state(read(tmp_path / "b.safetensors"), source_state())
    with safetensors.safe_open(tmp_path / "b.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_inside_a_checkpoint_is_found(key, prefix, tmp_path):
    state = {f"{prefix}{name}": value for name, value in source_state().items()}
    torch.save({"epoch": 7, key: state, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "b.npz") == 0
    assert_same_state(read(tmp_path / "b.npz"), source_state())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("inside", [True, False])
def test_a_class_token_beside_the_state_dict_is_taken(inside, prefix, tmp_path, capsys):
    state = source_state("mnist_vit")
    token = state.pop("class_random")
    held = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save(held, tmp_path / "without.pt")
    assert run(tmp_path / "without.pt", tmp_path / "out.npz", name="mnist_vit") == 2
    assert_refused(capsys, tmp_path, "missing: class_random [1, 1, 15]")
    held = {"state_dict": held} if inside else held
    torch.save(held | {"class_random": token}, tmp_path / "with.pt")
    assert run(tmp_path / "with.pt", tmp_path / "out.npz", name="mnist_vit") == 0
    assert_same_state(read(tmp_path / "out.npz"), source_state("mnist_vit"))


def test_class_tokens_that_are_left_out_are_noted(tmp_path, capsys):
    state, token = source_state("mlp_head_vit"), "patch_embedding_layer.class_parameter"
    first = state[token]
    state[token] = torch.cat([first, first + 1, first + 2])
    torch.save(state, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "b.npz", name="mlp_head_vit") == 0
    note, written = capsys.readouterr().out.splitlines()
    assert note.startswith(f"note: {token} differs between the 3 places")
    assert written.startswith(str(tmp_path / "b.npz"))
    np.testing.assert_array_equal(read(tmp_path / "b.npz")[token], first)


# Files that exist


def test_an_existing_file_is_replaced_only_when_told(source, tmp_path, capsys):
    target = tmp_path / "old.npz"
    target.write_bytes(b"an older file")
    assert run(source, target) == 2
    assert_refused(capsys, tmp_path, f"--to {target} exists", "--overwrite")
    assert target.read_bytes() == b"an older file"
    assert run(source, target, "--overwrite") == 0
    assert_same_state(read(target), source_state())


def test_a_folder_is_never_replaced(source, tmp_path, capsys):
    (tmp_path / "folder.npz").mkdir()
    assert run(source, tmp_path / "folder.npz", "--overwrite") == 2
    assert_refused(capsys, tmp_path, "it is a folder")
    assert not list((tmp_path / "folder.npz").iterdir())


@pytest.mark.parametrize("failing", ["replace", "fsync"])
@pytest.mark.parametrize("ending", [".pt", ".npz", ".safetensors"])
def test_a_failed_write_leaves_the_older_file(ending, failing, source, tmp_path, monkeypatch):
    target = tmp_path / f"old{ending}"
    target.write_bytes(b"an older file")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, failing, fail)
    assert run(source, target, "--overwrite") == 2
    assert target.read_bytes() == b"an older file"
    assert {path.name for path in tmp_path.iterdir()} == {"source.pt", target.name}


def test_a_missing_folder_is_named(source, tmp_path, capsys):
    assert run(source, tmp_path / "none" / "out.npz") == 2
    assert_refused(capsys, tmp_path, str(tmp_path / "none"), "folder exists")


# Files that cannot be read


class Code:
    """Unpickled, this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("ending", [".pt", ".npz"])
def test_code_in_a_file_is_not_run(ending, tmp_path, capsys):
    bad, proof = tmp_path / f"bad{ending}", tmp_path / "proof"
    if ending == ".pt":
        torch.save({"fc.weight": Code(proof)}, bad)
    else:
        np.savez(bad, weight=np.array([Code(proof)], dtype=object))
    assert run(bad, tmp_path / "out.safetensors") == 2
    assert_refused(capsys, tmp_path, str(bad), "Python objects", "could run code")
    assert not proof.exists()


@pytest.mark.parametrize("ending", [".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:11],
        lambda data: b"",
        lambda data: np.random.default_rng(0).bytes(1009),
    ],
)
def test_a_damaged_file_is_named(damage, ending, source, tmp_path, capsys):
    whole, bad = tmp_path / f"whole{ending}", tmp_path / f"bad{ending}"
    assert run(source, whole) == 0
    capsys.readouterr()
    bad.write_bytes(damage(whole.read_bytes()))
    assert run(bad, tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, f"--from {bad}: not a", "amaged")


def test_flipped_values_in_an_archive_are_found(source, tmp_path, capsys):
    assert run(source, tmp_path / "bad.npz") == 0
    capsys.readouterr()
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.npz").write_bytes(data)
    assert run(tmp_path / "bad.npz", tmp_path / "out.pt") == 2
    assert_refused(capsys, tmp_path, "bad.npz: not a readable NumPy .npz file")


def test_flipped_values_in_a_torch_archive_are_found(tmp_path, capsys):
    torch.save({"a": torch.full((1000,), 3.0)}, tmp_path / "bad.pt")
    data = bytearray((tmp_path / "bad.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.pt").write_bytes(data)
    assert run(tmp_path / "bad.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "bad.pt: not a readable PyTorch file", "wrong checksum")


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz"])
def test_a_pickle_under_another_name_is_refused_and_not_run(ending, tmp_path, capsys):
    bad, proof = tmp_path / f"bad{ending}", tmp_path / "proof"
    bad.write_bytes(pickle.dumps({"fc.weight": Code(proof)}))
    assert run(bad, tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, f"--from {bad}: not a", "amaged")
    torch.save(source_state(), bad)
    if ending != ".pt":
        assert run(bad, tmp_path / "out.npz") == 2
        assert_refused(capsys, tmp_path, f"--from {bad}: not a", "of another format than its end")
    assert not proof.exists()


def test_a_folder_or_a_pipe_is_refused_and_not_waited_for(tmp_path, capsys):
    (tmp_path / "a.npz").mkdir()
    os.mkfifo(tmp_path / "b.npz")
    for name, words in (("a.npz", "is a folder; expected"), ("b.npz", "is a pipe or a device")):
        assert run(tmp_path / name, tmp_path / "out.pt") == 2
        assert_refused(capsys, tmp_path, f"--from {tmp_path / name} {words}")


def header(text, data):
    """A safetensors file with a header of one's own."""
    return struct.pack("<Q", len(text)) + text.encode() + data


def entry(shape="[2]", start=0, end=8, dtype="F32"):
    return f'"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header(f"{{{entry('[3]')}}}", bytes(8)), "invalid shape"),
        (header(f"{{{entry('[1000000000000]', end=4 * 10**12)}}}", bytes(8)), "not fully covered"),
        (header(f"{{{entry('[9223372036854775808, 4]')}}}", bytes(8)), "overflow"),
        (header(f"{{{entry('[-2]')}}}", bytes(8)), "expected usize"),
        (header(f"{{{entry(start=4, end=12)}}}", bytes(12)), "invalid offset"),
        (header(f"{{{entry()},{entry()}}}", bytes(8)), "the entry 'a' stands in it 2 times"),
        (header(f"{{{entry('[8]', dtype='F8_E4M3')}}}", bytes(8)), "of a type NumPy lacks"),
        (header(f"{{{entry(dtype='X')}}}", bytes(8)), "unknown variant"),
        (header('{"a":' + "[" * 50_000, b""), "recursion limit"),
        (struct.pack("<Q", 2**62) + b"{}", "header too large"),
    ],
)
def test_a_safetensors_header_that_lies_is_refused(content, words, tmp_path, capsys):
    (tmp_path / "bad.safetensors").write_bytes(content)
    assert run(tmp_path / "bad.safetensors", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "bad.safetensors: not a readable safetensors file", words)


def npy(shape, data, dtype="<f4", fortran="False"):
    """An .npy file with a header of one's own."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.npy", npy("(3,)", bytes(8)))], "declares float32 [3] and holds 8 bytes"),
        ([("a.npy", npy("(1000000000000,)", bytes(8)))], "[1000000000000] and holds 8 bytes"),
        ([("a.npy", npy("(-1, -2)", bytes(8)))], "[-1, -2] and holds 8 bytes"),
        ([("a.npy", npy("(2,)", bytes(9)))], "declares float32 [2] and holds 9 bytes"),
        ([("a.npy", npy("(2,)", bytes(16), "|O"))], "it holds Python objects, which could run"),
        ([("a.npy", npy("(" * 3000, b""))], "bad.npz: not a readable NumPy .npz file ("),
        ([("a.npy", b"no array")], "magic string is not correct"),
        ([("a.npy", npy("(2,)", bytes(8)))] * 2, "the entry 'a' stands in it 2 times"),
        ([("../a.txt", b"text")], "the member '../a.txt' is no array"),
        ([("a.npy", npy(f"({2**25},)", bytes(2**27)))], "it would unpack from 13"),
    ],
)
def test_an_npz_that_lies_is_refused(members, words, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    assert run(tmp_path / "bad.npz", tmp_path / "out.pt") == 2
    assert_refused(capsys, tmp_path, "bad.npz: not a readable NumPy .npz file", words)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "size", "words"),
    [
        (["a/data.pkl", "a/data.pkl"], 9, "'a/data.pkl' stands in it 2 times"),
        (["a/data.pkl", "a/data/0"], 2**27, "it would unpack from"),
    ],
)
def test_a_torch_archive_that_lies_is_refused(names, size, words, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(size))
    assert run(tmp_path / "bad.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "bad.pt: not a readable PyTorch file", words)


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz"])
def test_weights_that_are_not_finite_are_refused(ending, source, tmp_path, capsys):
    state = source_state()
    state["fc.weight"][2, 3], state["fc.bias"][5] = float("nan"), float("inf")
    convert.write({k: v.numpy() for k, v in state.items()}, tmp_path / f"bad{ending}")
    assert run(tmp_path / f"bad{ending}", tmp_path / f"out{ending}") == 2
    assert_refused(
        capsys, tmp_path, "(2 problems)", "not finite: fc.weight has 1 of 399 values NaN",
        "not finite: fc.bias has 1 of 19 values", "train again from before",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(3)], ["holds list", "expected a state dict"]),
        ({"state_dict": {"fc.weight": 3}}, ["'fc.weight' is int", "not a tensor"]),
        ({7: torch.zeros(3)}, ["entry 7"]),
        ({}, ["does not fit --model raster_vit", "missing:"]),
        (
            {"fc.weight": torch.zeros(19, 21).to_sparse()},
            ["fc.weight cannot be read as a dense array", "plain"],
        ),
    ],
)
def test_other_things_in_a_torch_file_are_named(content, words, tmp_path, capsys):
    if "fc.weight" in content:
        content = source_state() | content
    torch.save(content, tmp_path / "bad.pt")
    assert run(tmp_path / "bad.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "bad.pt", *words)


def test_a_missing_file_is_named(tmp_path, capsys):
    assert run(tmp_path / "none.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, f"--from {tmp_path / 'none.pt'}: there is no such file")


@pytest.mark.parametrize(("first", "last"), [("a.txt", "out.pt"), ("source.pt", "out.h5")])
def test_an_unknown_ending_is_named_with_those_there_are(first, last, source, tmp_path, capsys):
    assert run(tmp_path / first, tmp_path / last) == 2
    wrong = "'.txt'" if first == "a.txt" else "'.h5'"
    assert_refused(capsys, tmp_path, wrong, ".pt, .pth, .bin, .safetensors, .npz")


# Models and settings


def test_an_unknown_model_is_named_with_those_there_are(source, tmp_path, capsys):
    assert run(source, tmp_path / "out.npz", name="raster_vti") == 2
    assert_refused(capsys, tmp_path, "--model raster_vti", "mean 'raster_vit'", "simple_cnn")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("num_classes", ["--set num_classes", "KEYWORD=VALUE"]),
        ("=3", ["--set =3", "KEYWORD=VALUE"]),
        ("mlp_dim=__import__('os')", ["--set mlp_dim=__import__", "no number"]),
        ("mlp_dim=two", ["'two' is no number"]),
        ("mlp_dim=", ["'' is no number"]),
        ("depth=3", ["depth was set before, to 2"]),
        ("rngs=3", ["--set rngs", "It takes: img_size, in_channels"]),
        ("wings=3", ["--set wings", "It takes: img_size, in_channels"]),
    ],
)
def test_a_bad_setting_is_named(setting, words, source, tmp_path, capsys):
    settings = {key: value for key, value in RASTER.items() if key != "mlp_dim"}
    assert run(source, tmp_path / "out.npz", f"--set={setting}", settings=settings) == 2
    assert_refused(capsys, tmp_path, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 4}, ["num_heads=4 does not divide embed_dim=21"]),
        ({"depth": 0}, ["depth=0: expected a whole number"]),
        ({"mlp_dim": None}, ["mlp_dim=None"]),
    ],
)
def test_settings_the_model_cannot_be_built_with_are_named(change, words, source, tmp_path, capsys):
    assert run(source, tmp_path / "out.npz", settings=RASTER | change) == 2
    assert_refused(capsys, tmp_path, "--model raster_vit", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_classes": 23}, ["misshapen: fc.weight is [19, 21], the model has [23, 21]"]),
        ({"depth": 1}, ["unexpected: encoder.layers.1.0.weight", "more"]),
        ({"depth": 3, "num_classes": 23}, ["misshapen: fc.weight", "missing: encoder.layers.2"]),
    ],
)
def test_a_misfit_says_which_settings_there_are(change, words, source, tmp_path, capsys):
    assert run(source, tmp_path / "out.npz", settings=RASTER | change) == 2
    assert_refused(
        capsys, tmp_path, "does not fit --model raster_vit", "--set KEYWORD=VALUE",
        "num_classes=10", "depth=3", *words,
    )  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["raster_vit", "simple_cnn", "mnist_vit", "mlp_head_vit"])
def test_a_file_of_another_model_names_that_model(name, prefix, tmp_path, capsys):
    state = {f"{prefix}{key}": value for key, value in source_state(name).items()}
    torch.save(state, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "out.npz", name="mnist_cnn", settings={}) == 2
    err = capsys.readouterr().err
    assert f"The file looks like a {name} checkpoint: use --model {name}." in err
    assert err.count("\n  missing: ") == convert.MOST_PROBLEMS  # of 8
    assert err.count("\n  unexpected: ") == convert.MOST_PROBLEMS
    assert "… and 4 more missing" in err
    assert f"… and {len(state) - convert.MOST_PROBLEMS} more unexpected" in err
    assert len(err.splitlines()) < 16


def test_a_file_like_no_model_gets_no_guess(tmp_path, capsys):
    torch.save({"a.weight": torch.zeros(3), "conv1.weight": torch.zeros(3)}, tmp_path / "a.pt")
    assert run(tmp_path / "a.pt", tmp_path / "out.npz", settings={}) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "looks like" not in err
    assert "--set KEYWORD=VALUE" in err


# Without PyTorch


def test_torch_is_needed_for_its_own_files_only(source, tmp_path, capsys, monkeypatch):
    assert run(source, tmp_path / "a.npz") == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    assert run(source, tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "--from", "need PyTorch", "pip install torch")
    assert run(tmp_path / "a.npz", tmp_path / "out.pt") == 2
    assert_refused(capsys, tmp_path, f"--to {tmp_path / 'out.pt'}", "need PyTorch")
    assert run(tmp_path / "a.npz", tmp_path / "b.safetensors") == 0


def test_the_command_runs_on_its_own_and_leaves_torch_alone(source, tmp_path):
    assert run(source, tmp_path / "a.npz") == 0
    program = """if True:
        import sys
        from jax_train.__main__ import main
        code = main(sys.argv[1:])
        assert "torch" not in sys.modules
        sys.exit(code)
    """
    given = [f"--set={key}={value!r}" for key, value in RASTER.items()]
    paths = ["--from", tmp_path / "a.npz", "--to", tmp_path / "b.safetensors"]
    command = ["convert", "--model", "raster_vit", *paths, *given]
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, command)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert_same_state(read(tmp_path / "b.safetensors"), source_state())


def test_errors_can_be_caught_from_python(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        convert.convert_and_describe("vit", tmp_path / "a.pt", tmp_path / "b.npz")


# Runs

pages = pytest.mark.xdist_group("pages")


@pages
@pytest.mark.parametrize("name", ["vit", "simple_cnn"])
def test_the_weights_of_a_run_go_into_the_mirror(name, compared_runs, tmp_path, capsys):
    folder, target = compared_runs[0] / name, tmp_path / "trained.pt"
    assert commands.main(["convert", "--from", str(folder), "--to", str(target)]) == 0
    assert f"tensors of {name}" in capsys.readouterr().out
    run = trained.open_run(folder)
    known = jax_models.model_keywords(name)
    fields = run.config.model.items()
    settings = {key: value for key, value in fields if key in known and value is not None}
    mirror = torch_ref.create_model(name, **settings).eval()
    mirror.load_state_dict(torch.load(target, weights_only=True))
    images = build.load_split(run.config, run.config.data.test_split).images[:7]
    fields = run.config.data
    pixels = (images / 255 - np.array(fields.mean)) / np.array(fields.std)
    with torch.no_grad():
        theirs = mirror(torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    np.testing.assert_allclose(run.logits(images), theirs, atol=1e-5, rtol=0)


@pages
@pytest.mark.parametrize("given", [["--model", "simple_cnn"], ["--set", "depth=3"]])
def test_a_run_knows_its_model(given, compared_runs, tmp_path, capsys):
    paths = ["--from", str(compared_runs[0] / "vit"), "--to", str(tmp_path / "x.npz")]
    assert commands.main(["convert", *paths, *given]) == 2
    assert "is a run of vit" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_file_of_weights_needs_the_name_of_its_model(tmp_path, capsys):
    (tmp_path / "a.npz").touch()
    paths = ["--from", str(tmp_path / "a.npz"), "--to", str(tmp_path / "b.npz")]
    assert commands.main(["convert", *paths]) == 2
    assert "such as --model vit" in capsys.readouterr().err
