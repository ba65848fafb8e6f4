"""From original archives to records that TFDS reads, with nothing left by halves."""

import contextlib
import gzip
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from jax_train import data
from jax_train.__main__ import main
from jax_train.data.sources import prepare
from jax_train.data.sources.archives import bounded
from jax_train.errors import UserError
from jax_train.printing import as_paragraph

PREFIX = "cifar-10-batches-bin/"


def _prepare_members(small, tmp_path, members, name="cifar10"):
    file = prepare.RECIPES[name].files[0]
    archive = small.write_tar(tmp_path / file, members)
    sums = small.checksums(archive)
    return prepare.prepare(name, tmp_path / "data", [archive], checksums=sums)


def _assert_nothing_prepared(root):
    assert not list(root.rglob("*array_record*"))
    assert not list(root.rglob("incomplete*"))
    assert not list(root.rglob("dataset_info.json"))


def test_cifar10_from_archive_holds_the_exact_pixels_and_labels(cifar10, small):
    for split, (images, labels) in cifar10.truth.items():
        loaded = data.load("cifar10", split, cifar10.data_dir)
        assert loaded.class_names[:3] == ("airplane", "automobile", "bird")
        expected = small.by_label_and_pixels(images, labels)
        assert small.by_label_and_pixels(loaded.images, loaded.labels) == expected


def test_tfds_reads_what_prepare_wrote(cifar10):
    import tensorflow_datasets as tfds

    source = tfds.data_source("cifar10", split="train", data_dir=cifar10.data_dir)
    images, labels = cifar10.truth["train"]
    assert len(source) == len(labels)
    for example in source:
        index = int(example["id"].decode().removeprefix("train_"))
        np.testing.assert_array_equal(example["image"], images[index])
        assert example["label"] == labels[index]


def test_cifar100_keeps_fine_and_coarse_labels_apart(small, tmp_path):
    import tensorflow_datasets as tfds

    members, truth = small.cifar100_members()
    folder = _prepare_members(small, tmp_path, members, "cifar100")
    images, coarse, fine = truth["test"]
    loaded = data.load("cifar100", "test", tmp_path / "data")
    assert loaded.class_names[99] == "fine_99"
    expected = small.by_label_and_pixels(images, fine)
    assert small.by_label_and_pixels(loaded.images, loaded.labels) == expected
    source = tfds.builder_from_directory(folder).as_data_source("test")
    assert sorted(example["coarse_label"] for example in source) == sorted(coarse)


def test_mnist_from_a_folder_of_archives(small, tmp_path):
    paths, truth = small.write_mnist(tmp_path / "files")
    sums = small.checksums(*paths)
    prepare.prepare("mnist", tmp_path / "data", [tmp_path / "files"], checksums=sums)
    for split, (images, labels) in truth.items():
        loaded = data.load("mnist", split, tmp_path / "data")
        assert loaded.image_shape == (28, 28, 1)
        expected = small.by_label_and_pixels(images, labels)
        assert small.by_label_and_pixels(loaded.images, loaded.labels) == expected


def test_download_then_the_archive_is_kept_for_another_time(small, tmp_path, serve):
    paths, truth = small.write_mnist(tmp_path / "files")
    address, log = serve(tmp_path / "files")
    arguments = {"url_base": address, "checksums": small.checksums(*paths), "progress": False}
    folder = prepare.prepare("mnist", tmp_path / "data", **arguments)
    loaded = data.load("mnist", "train", tmp_path / "data")
    assert len(loaded) == len(truth["train"][1])
    assert len(set(log)) == 4
    requests = len(log)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert prepare.prepare("mnist", tmp_path / "data", **arguments) == folder
    assert len(log) == requests  # taken from the download folder


def test_already_prepared_is_left_alone(cifar10, capsys):
    before = {path: path.stat().st_mtime_ns for path in cifar10.prepared.iterdir()}
    assert main(["prepare", "cifar10", "--data_dir", str(cifar10.data_dir)]) == 0
    assert "was prepared already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in cifar10.prepared.iterdir()} == before


def test_data_of_another_format_is_not_passed_off_as_prepared(cifar10, tmp_path):
    folder = shutil.copytree(cifar10.prepared, tmp_path / "cifar10" / "3.0.2")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(UserError, match="as tfrecord"):
        prepare.prepare("cifar10", tmp_path)


def test_two_processes_prepare_at_once(cifar10, small, tmp_path):
    sums = small.checksums(cifar10.archive)
    code = (
        "from jax_train.data.sources import prepare\n"
        f"print(prepare.prepare('cifar10', {str(tmp_path)!r}, [{str(cifar10.archive)!r}], "
        f"checksums={sums!r}))"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    target = tmp_path / "cifar10" / "3.0.2"
    assert [run.communicate(timeout=60) for run in runs] == [(f"{target}\n", "")] * 3
    assert [path.name for path in target.parent.iterdir()] == ["3.0.2"]
    assert len(data.load("cifar10", "train", tmp_path)) == 40


def test_command_refuses_a_wrong_archive_in_one_paragraph(tmp_path, cifar10, capsys):
    arguments = ["--data_dir", str(tmp_path / "data"), "--archive", str(cifar10.archive)]
    assert main(["prepare", "cifar10", *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in error
    assert f"{cifar10.archive.stat().st_size:,} bytes" in error
    assert "Traceback" not in error
    _assert_nothing_prepared(tmp_path / "data")


def _set(members, name, content):
    return {**members, PREFIX + name: content}


def _special(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _sparse(name, size):
    """A member that is all hole: no byte of it is stored."""
    return _pax(
        name,
        {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": str(size),
            "GNU.sparse.map": f"{size},0",
        },
    )


def _pax(name, headers):
    info = tarfile.TarInfo(name)
    info.pax_headers = headers
    return info


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: _set(m, "test_batch.bin", m[PREFIX + "test_batch.bin"][:-1]), "3,073"),
        (lambda m: _set(m, "test_batch.bin", b""), "test_batch.bin: 0 bytes"),
        (lambda m: _set(m, "data_batch_3.bin", b"\x0a" + bytes(3072)), "label 10; expected 0 to 9"),
        (lambda m: _set(m, "batches.meta.txt", b"cat\ndog\n"), "2 class names; expected 10"),
        (lambda m: {k: v for k, v in m.items() if "data_batch_5" not in k}, "data_batch_5.bin"),
        (lambda m: {**m, "../outside.bin": b"x"}, "leads out of the archive"),
        (lambda m: {**m, "/tmp/outside.bin": b"x"}, "leads out of the archive"),
        (lambda m: {**m, "l": _special("l", tarfile.SYMTYPE)}, "a link or a special file"),
        (
            lambda m: _set(
                m, "test_batch.bin", _special(PREFIX + "test_batch.bin", tarfile.LNKTYPE)
            ),
            "a link or a special file",
        ),
        (lambda m: {**m, "n": _special("n", tarfile.CHRTYPE)}, "a link or a special file"),
        (lambda m: {**m, "p": _special("p", tarfile.FIFOTYPE)}, "a link or a special file"),
        (lambda m: {**m, "s": _sparse("s", 2**33)}, "a link or a special file"),
        (lambda m: {**m, PREFIX + "./../../x": b"x"}, "leads out of the archive"),
        (lambda m: {**m, **{f"{i}": b"" for i in range(1000)}}, "more bytes than"),
        (lambda m: {**m, "x": _pax("x", {"GNU.sparse.map": "a,b"})}, "damaged or cut short"),
    ],
)
def test_damaged_cifar_archives(small, tmp_path, change, words):
    members, _ = small.cifar10_members()
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz") as caught:
        _prepare_members(small, tmp_path, change(members))
    assert words in str(caught.value)
    _assert_nothing_prepared(tmp_path)
    assert not (tmp_path.parent / "outside.bin").exists()


def test_oversized_members_are_not_read(small, tmp_path, monkeypatch):
    limits = bounded.LIMITS._replace(total=100_000)
    monkeypatch.setattr(bounded, "LIMITS", limits)
    members, _ = small.cifar10_members()
    with pytest.raises(UserError, match="more bytes than the original"):
        _prepare_members(small, tmp_path, members)


def _prepare_bytes(small, tmp_path, content):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(content)
    sums = small.checksums(archive)
    return prepare.prepare("cifar10", tmp_path / "data", [archive], checksums=sums)


def test_a_bomb_in_a_header_or_behind_the_archive_is_not_unpacked(small, tmp_path, cifar10):
    """tarfile reads long names whole; and what is behind the last member is only passed over."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**33
    long_name = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + b"x" * 2**20)
    behind = cifar10.archive.read_bytes() + gzip.compress(bytes(2**26)) * 17
    for content in (long_name, behind):
        with pytest.raises(UserError, match="unpacks to more bytes than the original could hold"):
            _prepare_bytes(small, tmp_path, content)
        _assert_nothing_prepared(tmp_path)


def test_a_wrong_checksum_of_gzip_is_told(small, tmp_path, cifar10):
    content = bytearray(cifar10.archive.read_bytes())
    content[-8] ^= 1
    with pytest.raises(UserError, match=r"damaged or cut short .*CRC"):
        _prepare_bytes(small, tmp_path, content)
    _assert_nothing_prepared(tmp_path)


def test_a_file_of_another_size_is_not_read_through(tmp_path, monkeypatch):
    huge = tmp_path / "huge.tar.gz"
    with open(huge, "wb") as file:
        file.truncate(2**40)  # all hole: it takes no room
    began = time.monotonic()
    with pytest.raises(UserError, match=r"huge\.tar\.gz .* 1,099,511,627,776 bytes; expected 170,"):
        prepare.prepare("cifar10", tmp_path / "data", [huge])
    assert time.monotonic() - began < 5
    _assert_nothing_prepared(tmp_path)


def test_an_archive_of_the_right_size_with_another_checksum_is_refused(small, tmp_path, cifar10):
    sums = {cifar10.archive.name: (cifar10.archive.stat().st_size, "0" * 64)}
    with pytest.raises(UserError, match=r"it has SHA-256 [0-9a-f]{64}; expected 0{64}"):
        prepare.prepare("cifar10", tmp_path / "data", [cifar10.archive], checksums=sums)
    _assert_nothing_prepared(tmp_path)


def test_a_bomb_of_mnist_is_unpacked_no_further_than_declared(small, tmp_path, monkeypatch):
    paths, _ = small.write_mnist(tmp_path / "files")
    content = struct.pack(">IIII", 2051, 12, 28, 28) + bytes(2**28)
    paths[2].write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match="9,425 or more bytes with the header"):
        prepare.prepare("mnist", tmp_path / "data", paths, checksums=small.checksums(*paths))
    _assert_nothing_prepared(tmp_path)


def test_a_server_that_sends_without_end_is_cut_off():
    served = []

    def blocks():
        while True:
            served.append(bytes(1000))
            yield served[-1]

    assert sum(map(len, prepare._no_longer_than(blocks(), 4500))) == 5000
    assert len(served) == 5


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_truncated_archive(small, tmp_path, cifar10, keep):
    content = cifar10.archive.read_bytes()
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match="damaged or cut short"):
        prepare.prepare("cifar10", tmp_path / "data", [archive], checksums=small.checksums(archive))
    _assert_nothing_prepared(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train-labels-idx1-ubyte.gz", struct.pack(">II", 2049, 40) + b"\x0b" * 40, "label 11"),
        ("train-labels-idx1-ubyte.gz", struct.pack(">II", 2049, 39) + bytes(39), "39 labels"),
        ("t10k-images-idx3-ubyte.gz", struct.pack(">IIII", 2051, 12, 28, 28), "16 bytes"),
        ("t10k-images-idx3-ubyte.gz", struct.pack(">IIII", 2052, 0, 28, 28), "2052"),
        ("t10k-images-idx3-ubyte.gz", b"", "0 bytes"),
    ],
)
def test_damaged_mnist_archives(small, tmp_path, file, content, words):
    paths, _ = small.write_mnist(tmp_path / "files")
    (tmp_path / "files" / file).write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=file) as caught:
        prepare.prepare("mnist", tmp_path / "data", paths[::-1], checksums=small.checksums(*paths))
    assert words in str(caught.value)


def test_archives_that_are_missing_are_named(small, tmp_path):
    paths, _ = small.write_mnist(tmp_path / "files")
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz not found"):
        prepare.prepare("mnist", tmp_path, paths[:3], checksums=small.checksums(*paths))
    with pytest.raises(UserError, match="no such file"):
        prepare.prepare("mnist", tmp_path, [tmp_path / "nowhere"])
    with pytest.raises(UserError, match="expected one of cifar10, cifar100, mnist"):
        prepare.prepare("imagenet", tmp_path)


def test_a_full_disk_leaves_nothing_half_written(small, tmp_path):
    """A limit on the size of files stands for the full disk; in a process of its own."""
    members, _ = small.cifar10_members((50, 50, 50, 50, 50, 20))
    archive = small.write_tar(tmp_path / "cifar-10-binary.tar.gz", members)
    code = f"""
import resource, signal
from jax_train import errors
from jax_train.data.sources import prepare
from jax_train.data.sources.archives import bounded
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    prepare.prepare("cifar10", {str(tmp_path / "data")!r}, [{str(archive)!r}],
                    checksums={small.checksums(archive)!r})
except errors.UserError as error:
    print("said:", error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.startswith("said: "), run.stdout + run.stderr
    assert "Nothing incomplete was kept" in run.stdout
    _assert_nothing_prepared(tmp_path / "data")


def test_a_folder_that_is_not_complete_is_not_taken_for_data(small, tmp_path, cifar10):
    half = tmp_path / "data" / "cifar10" / "3.0.2"
    half.mkdir(parents=True)
    (half / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="is there but not complete"):
        prepare.prepare(
            "cifar10",
            tmp_path / "data",
            [cifar10.archive],
            checksums=small.checksums(cifar10.archive),
        )


def test_no_network_is_said_at_once(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        prepare.prepare("cifar10", tmp_path / "d", url_base=f"http://127.0.0.1:{closed}/")
    assert time.monotonic() - began < 15
    where = tmp_path / "d"
    assert f"cifar10 is not prepared in {where}: fetching it, 170 MB" in capsys.readouterr().err
    message = str(caught.value)
    assert f"python -m jax_train prepare cifar10 --data_dir {tmp_path / 'd'}" in message
    assert "--archive cifar-10-binary.tar.gz" in message
    assert f"http://127.0.0.1:{closed}/cifar-10-binary.tar.gz could not be reached" in message
    assert "Error" not in message
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist"])
def test_the_ways_out_fit_the_terminal(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = prepare.missing_message(name, prepare.data_root(), "there is no network")
    lines = as_paragraph(f"error: {text}").splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 12
    archive = prepare.RECIPES[name].files[0] if name != "mnist" else "FOLDER"
    assert f"  python -m jax_train prepare {name} --archive {archive}" in lines
    assert "  --config.data.data_dir=/path/to/tfds" in lines
    elsewhere = prepare.missing_message(name, Path("/a/rather/long/path/to/data"), "no network")
    assert max(map(len, as_paragraph(elsewhere).splitlines())) <= 80
    assert f"--data_dir /a/rather/long/path/to/data \\\n      --archive {archive}" in elsewhere


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (requests.ReadTimeout("HTTPPool(host=…)"), "no answer from http://x/"),
        (requests.ConnectionError("Max retries"), "http://x/ could not be reached"),
        (requests.exceptions.SSLError("Max retries"), "certificate of http://x/"),
        (requests.exceptions.ChunkedEncodingError("(0, 3)"), "http://x/ was cut short"),
    ],
)
def test_network_errors_are_told_in_words(error, words):
    text = prepare._plain_reason(error, "http://x/")
    assert words in text
    assert not set("()") & set(text)


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PROBE_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(UserError, match=r"not downloaded: no answer from http"):
            prepare.prepare("mnist", tmp_path, url_base=f"http://127.0.0.1:{port}/")
        assert time.monotonic() - began < 10


def test_a_name_server_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "PROBE_SECONDS", 1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(20))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"no answer from http://example\.invalid/"):
        prepare.prepare("cifar10", tmp_path, url_base="http://example.invalid/")
    assert time.monotonic() - began < 10


def test_a_changed_or_missing_download_is_refused(small, tmp_path, serve, cifar10):
    address, _ = serve(cifar10.data_dir)
    sums = {"cifar-10-binary.tar.gz": (5, "0" * 64)}
    with pytest.raises(UserError, match="wrong checksum"):
        prepare.prepare("cifar10", tmp_path / "d", url_base=address, checksums=sums)
    _assert_nothing_prepared(tmp_path)
    assert not list(tmp_path.rglob("*.tar.gz*"))
    with pytest.raises(UserError, match="HTTP status 404"):
        prepare.prepare("cifar10", tmp_path / "d", url_base=address + "nowhere/")


@pytest.mark.parametrize("wrong", [False, True])
def test_a_download_leaves_that_of_another_process_alone(
    small, tmp_path, serve, monkeypatch, wrong
):
    paths, _ = small.write_mnist(tmp_path / "files")
    address, _ = serve(tmp_path / "files")
    sums = small.checksums(*paths) | ({paths[0].name: (5, "0" * 64)} if wrong else {})
    downloads, real = tmp_path / "data" / "downloads", prepare._probe
    theirs = downloads / "train.gz.tmp.0123"

    def probe(url):
        theirs.mkdir(parents=True, exist_ok=True)  # nothing in it yet
        real(url)

    monkeypatch.setattr(prepare, "_probe", probe)
    with pytest.raises(UserError) if wrong else contextlib.nullcontext():
        prepare.prepare("mnist", tmp_path / "data", url_base=address, checksums=sums)
    assert list(downloads.glob("*.tmp.*")) == [theirs]


def test_first_load_downloads_by_itself(small, tmp_path, serve, monkeypatch):
    paths, truth = small.write_mnist(tmp_path / "files")
    address, _ = serve(tmp_path / "files")
    real = prepare.prepare

    def prepare_small(*args, **kwargs):
        return real(*args, **kwargs, url_base=address, checksums=small.checksums(*paths))

    monkeypatch.setattr(prepare, "prepare", prepare_small)
    loaded = data.load("mnist:3.0.1", "test", tmp_path / "data")
    assert len(loaded) == len(truth["test"][1])


def test_help_is_quick_and_imports_no_library():
    code = (
        "import runpy, sys\nsys.argv = ['jax_train', '--help']\n"
        "try: runpy.run_module('jax_train', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'jax', 'numpy', 'tensorflow_datasets', 'PIL'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "prepare" in run.stdout
    assert run.stdout.strip().endswith("[]")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frob"], "'frob' is no command (there are: compare, convert, evaluate, explain,"),
        (["prepar", "cifar10"], "'prepar' is no command (did you mean prepare?)."),
        ([], "required: COMMAND. See python -m jax_train --help"),
        (["convert"], "required: --from, --to. See python -m jax_train convert --help"),
        (["prepare"], "required: NAME"),
        (
            ["prepare", "cifar10", "--datadir=x"],
            "arguments: --datadir=x. See python -m jax_train prepare --help",
        ),
    ],
)
def test_a_mistaken_command_line_gets_one_paragraph(arguments, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in " ".join(err.split())
    assert max(map(len, err.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [[], ["prepare"], ["convert"]])
def test_help_fits_80_columns(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
