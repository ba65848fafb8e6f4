"""`python -m jax_train convert` and files that are damaged, lie, or are something else."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from jax_models.torch_weights import files
from tests.jax_train.commands.convert_cases import assert_refused, run, source_state
from tests.with_torch import torch


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
    pytest.importorskip("torch")
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
    pytest.importorskip("torch")
    with zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(size))
    assert run(tmp_path / "bad.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "bad.pt: not a readable PyTorch file", words)


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz"])
def test_weights_that_are_not_finite_are_refused(ending, source, tmp_path, capsys):
    state = source_state()
    state["fc.weight"][2, 3], state["fc.bias"][5] = float("nan"), float("inf")
    files.write({k: v.numpy() for k, v in state.items()}, tmp_path / f"bad{ending}")
    assert run(tmp_path / f"bad{ending}", tmp_path / f"out{ending}") == 2
    assert_refused(
        capsys,
        tmp_path,
        "(2 problems)",
        "not finite: fc.weight has 1 of 399 values NaN",
        "not finite: fc.bias has 1 of 19 values",
        "train again from before",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: [torch.zeros(3)], ["holds list", "expected a state dict"]),
        (lambda: {"state_dict": {"fc.weight": 3}}, ["'fc.weight' is int", "not a tensor"]),
        (lambda: {7: torch.zeros(3)}, ["entry 7"]),
        (lambda: {}, ["does not fit --model raster_vit", "missing:"]),
        (
            lambda: source_state() | {"fc.weight": torch.zeros(19, 21).to_sparse()},
            ["fc.weight cannot be read as a dense array", "plain"],
        ),
    ],
)
def test_other_things_in_a_torch_file_are_named(content, words, tmp_path, capsys):
    torch.save(content(), tmp_path / "bad.pt")
    assert run(tmp_path / "bad.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, "bad.pt", *words)


def test_a_missing_file_is_named(tmp_path, capsys):
    assert run(tmp_path / "none.pt", tmp_path / "out.npz") == 2
    assert_refused(capsys, tmp_path, f"--from {tmp_path / 'none.pt'}: there is no such file")


@pytest.mark.parametrize(("first", "last"), [("a.txt", "out.pt"), ("source.pt", "out.h5")])
def test_an_unknown_ending_is_named_with_those_there_are(first, last, source, tmp_path, capsys):
    assert run(tmp_path / first, tmp_path / last) == 2
    wrong = "'.txt'" if first == "a.txt" else "'.h5'"
    assert_refused(capsys, tmp_path, wrong, ".pt, .pth, .bin, .ckpt, .pth.tar, .safetensors, .npz")
