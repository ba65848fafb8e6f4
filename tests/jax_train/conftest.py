"""Small archives in the original byte formats of CIFAR and MNIST, and a server on loopback."""

import gzip
import hashlib
import http.server
import io
import os
import struct
import tarfile
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from tests.jax_train.pages import browser

CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "truck"]


def checksums(*paths):
    """File name -> (size, SHA-256), as `prepare` takes them."""
    data = {path.name: path.read_bytes() for path in paths}
    return {name: (len(b), hashlib.sha256(b).hexdigest()) for name, b in data.items()}


def write_tar(path, members):
    """Write name -> bytes, or name -> TarInfo for a special member, as .tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def cifar10_members(counts=(8, 8, 8, 8, 8, 20)):
    """Members of a small CIFAR-10 archive, and the images and labels they hold by split."""
    rng = np.random.default_rng(0)
    members = {"cifar-10-batches-bin/batches.meta.txt": "\n".join([*CLASSES, ""]).encode()}
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    images, labels = [], []
    for name, count in zip(names, counts, strict=True):
        images.append(rng.integers(0, 256, (count, 32, 32, 3), np.uint8))
        labels.append(rng.integers(0, 10, count).astype(np.uint8))
        pixels = images[-1].transpose(0, 3, 1, 2).reshape(count, -1)
        records = np.concatenate([labels[-1][:, None], pixels], axis=1)
        members[f"cifar-10-batches-bin/{name}"] = records.tobytes()
    truth = {"train": (np.concatenate(images[:5]), np.concatenate(labels[:5]))}
    truth["test"] = (images[5], labels[5])
    return members, truth


def cifar100_members(count=30):
    """Members of a small CIFAR-100 archive, and images, coarse and fine labels by split."""
    rng = np.random.default_rng(1)
    fine = "".join(f"fine_{i}\n" for i in range(100)).encode()
    coarse = "".join(f"coarse_{i}\n" for i in range(20)).encode()
    prefix = "cifar-100-binary/"
    members = {prefix + "coarse_label_names.txt": coarse, prefix + "fine_label_names.txt": fine}
    truth = {}
    for split in ("train", "test"):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        labels = np.stack([rng.integers(0, 20, count), rng.integers(0, 100, count)], 1)
        pixels = images.transpose(0, 3, 1, 2).reshape(count, -1)
        records = np.concatenate([labels.astype(np.uint8), pixels], axis=1)
        members[f"{prefix}{split}.bin"] = records.tobytes()
        truth[split] = (images, labels[:, 0], labels[:, 1])
    return members, truth


def write_mnist(folder, counts=(40, 12)):
    """Write the four files of a small MNIST; return their paths and images, labels by split."""
    rng = np.random.default_rng(2)
    folder.mkdir(exist_ok=True)
    paths, truth = [], {}
    for split, prefix, n in zip(("train", "test"), ("train", "t10k"), counts, strict=True):
        images = rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images_bytes = struct.pack(">IIII", 2051, n, 28, 28) + images.tobytes()
        labels_bytes = struct.pack(">II", 2049, n) + labels.tobytes()
        paths.append(folder / f"{prefix}-images-idx3-ubyte.gz")
        paths[-1].write_bytes(gzip.compress(images_bytes))
        paths.append(folder / f"{prefix}-labels-idx1-ubyte.gz")
        paths[-1].write_bytes(gzip.compress(labels_bytes))
        truth[split] = (images, labels)
    return paths, truth


def by_label_and_pixels(images, labels):
    """The examples as a sorted list: TFDS's order is a shuffled one."""
    return sorted(
        (int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)
    )


@pytest.fixture(scope="session")
def small():
    """The helpers above; test modules cannot import this file."""
    return SimpleNamespace(
        checksums=checksums,
        write_tar=write_tar,
        cifar10_members=cifar10_members,
        cifar100_members=cifar100_members,
        write_mnist=write_mnist,
        by_label_and_pixels=by_label_and_pixels,
    )


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory):
    """A prepared small CIFAR-10: its data folder, and the true images and labels."""
    from jax_train.data.sources import prepare

    folder = tmp_path_factory.mktemp("cifar10")
    members, truth = cifar10_members()
    archive = write_tar(folder / "cifar-10-binary.tar.gz", members)
    prepared = prepare.prepare("cifar10", folder, [archive], checksums=checksums(archive))
    return SimpleNamespace(data_dir=folder, archive=archive, prepared=prepared, truth=truth)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Every test has a cache folder of its own."""
    folder = tmp_path_factory.mktemp("cache") / "new"
    monkeypatch.setenv("JAX_VIT_CNN_CACHE", str(folder))
    return folder


@pytest.fixture
def serve():
    """A function that serves a folder on loopback; returns its address and the log of paths."""
    servers = []

    def start(folder):
        paths = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                paths.append(self.path)

        handler = partial(Handler, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", paths

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def tab(tmp_path_factory):
    """A browser, for all tests of pages."""
    command = browser.find()
    if command is None:
        tell = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip
        tell(f"no browser on this machine: none of {', '.join(browser.NAMES)}")
    with browser.Browser(command, tmp_path_factory.mktemp("browser")) as tab:
        yield tab
