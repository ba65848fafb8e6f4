"""Random inputs for whatever reads untrusted data, and what has to hold for each.

A case takes a `random.Random`, makes one input from it, and returns whether it was "accepted" or
"refused". It raises AssertionError, or lets any other exception through, when the promise is
broken: an error of the documented kind, a message, no half-changed model.
"""

# ruff: noqa: PT017  what an error says and leaves behind is what is looked at here
import contextlib
import functools
import gzip
import io
import json
import math
import struct
import tarfile
import tempfile
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image
from safetensors.numpy import save

from configs import common
from jax_models import create_model, torch_weights
from jax_models.torch_weights import files as weight_files
from jax_models.torch_weights import misfit
from jax_train import checks
from jax_train.config import command_line, ranges
from jax_train.config.fields import flatten, to_json
from jax_train.data.sources import archives
from jax_train.data.sources import folder as data_folder
from jax_train.errors import UserError
from tests.fuzz import folders
from tests.with_torch import torch

ACCEPTED, REFUSED = "accepted", "refused"

SETTINGS = {
    "vit": {
        "img_size": 6,
        "in_channels": 1,
        "num_classes": 5,
        "patch_size": 3,
        "embed_dim": 6,
        "depth": 1,
        "num_heads": 2,
        "mlp_dim": 7,
    },
    "simple_cnn": {"in_channels": 1, "num_classes": 5, "widths": (3,)},
}


@functools.cache
def model_of(name: str) -> nnx.Module:
    """One tiny model; a case that changes it puts its values back."""
    return create_model(name, rngs=nnx.Rngs(0), **SETTINGS[name])


@functools.cache
def state_of(name: str) -> dict[str, np.ndarray]:
    """A state dict that fits the model, with other values than the model has."""
    state = torch_weights.export(create_model(name, rngs=nnx.Rngs(1), **SETTINGS[name]))
    rng = np.random.default_rng(2)
    for key, array in state.items():
        if array.dtype == np.float32:
            state[key] = np.abs(array + rng.normal(size=array.shape)).astype(np.float32)
    return state


def bits(model: nnx.Module) -> dict[str, bytes]:
    """Path -> bytes of every variable."""
    flat = nnx.to_flat_state(nnx.state(model))
    return {str(path): np.asarray(variable.get_value()).tobytes() for path, variable in flat}


@contextlib.contextmanager
def unchanged(name: str):
    """The tiny model, whose values are put back afterwards."""
    model = model_of(name)
    values = [(v, v.get_value()) for _, v in nnx.to_flat_state(nnx.state(model))]
    try:
        yield model
    finally:
        for variable, value in values:
            variable.set_value(value)


def load_or_refuse(name: str, state, wrong: set) -> str:
    """Load a state into the tiny model: all of it, or none with an error that names what is wrong.

    Args:
      name: of the model.
      state: what is to be loaded.
      wrong: keys that the error has to name; empty when it must load.
    """
    with unchanged(name) as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = bits(model)
        try:
            torch_weights.load(model, state)
        except ValueError as error:
            assert wrong, f"refused what is right: {error}"
            for key in wrong:
                assert misfit.shown(key) in str(error), f"{key!r} is not named: {error}"
            assert bits(model) == before, f"refused, but changed: {error}"
            return REFUSED
        assert not wrong, f"accepted, although these are wrong: {wrong}"
        for key, array in torch_weights.export(model).items():
            given = state[key] if key in state else state.get(f"module.{key}", np.int64(0))
            given = given.float().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
            np.testing.assert_array_equal(array, given.astype(array.dtype), err_msg=key)
        return ACCEPTED


# Changes of one entry: each takes the entry and a Random, and returns what stands in its place.
# Those that are wrong for every model:
_BAD = {
    "reshaped": lambda a, r: a[None],
    "flat and longer": lambda a, r: np.zeros(a.size + r.randint(1, 9), a.dtype),
    "complex": lambda a, r: a.astype(np.complex64),
    "text": lambda a, r: np.full(a.shape, "1.0"),
    "switches": lambda a, r: a > 0,
    "objects": lambda a, r: a.astype(object),
    "bytes": lambda a, r: np.full(a.shape, b"1.0"),
    "dates": lambda a, r: np.zeros(a.shape, "M8[s]"),
    "fields": lambda a, r: np.zeros(a.shape, [("a", "f4")]),
    "nothing": lambda a, r: r.choice([None, {}, set(), "text", object()]) if a.ndim else None,
    "ragged": lambda a, r: [[1.0], [2.0, 3.0]],
    "sparse": lambda a, r: torch.from_numpy(np.atleast_1d(a)).to_sparse(),
    "no data": lambda a, r: torch.empty(a.shape, device="meta"),
    "endless": lambda a, r: torch.zeros(1).expand(10 ** r.randint(7, 15)),
    "nan": lambda a, r: _with_one(a, r, np.nan),
    "infinite": lambda a, r: _with_one(a, r, r.choice([np.inf, -np.inf])),
    "too large": lambda a, r: _with_one(a, r, 1e300),
    "too large a count": lambda a, r: _with_one(a, r, 2.0**200),
}
# And those that any model takes, as PyTorch does:
_GOOD = {
    "double": lambda a, r: a.astype(np.float64),
    "tensor": lambda a, r: torch.from_numpy(a.copy()),
    "bfloat16": lambda a, r: torch.from_numpy(np.array(np.round(a))).bfloat16(),
    "jax": lambda a, r: jnp.asarray(np.round(a), jnp.float32),
    "big-endian": lambda a, r: a.astype(a.dtype.newbyteorder(">")),
    "fortran": lambda a, r: np.array(a, order="F"),
    "read-only": lambda a, r: np.broadcast_to(a[..., None], (*a.shape, 1))[..., 0],
}


def _with_one(array, random, value):
    array = array.astype(np.float64)
    array.reshape(-1)[random.randrange(array.size)] = value
    return array


def state_dict(random, name: str) -> str:
    """A valid state dict with some entries dropped, renamed, reshaped, retyped, NaN or added."""
    state, wrong = dict(state_of(name)), set()
    keys = list(state)
    for key in random.sample(keys, random.randint(0, min(4, len(keys)))):
        change = random.choice(["drop", "rename", "add", "bad", "bad", "good", "good"])
        if change == "bad":
            state[key] = _BAD[random.choice(sorted(_BAD))](state[key], random)
        elif change == "good":
            state[key] = _GOOD[random.choice(sorted(_GOOD))](state[key], random)
        else:
            other = _odd_name(random, key)
            if other in state or (change == "add" and other in wrong):
                continue
            state[other] = state[key]
            wrong.add(other)
            if change != "add":
                del state[key]
        if change == "drop":
            del state[other]
            wrong.discard(other)
        if change in ("bad", "drop", "rename"):
            wrong.add(key)
    counters = {key for key in keys if key.endswith("num_batches_tracked")}
    if not counters & state.keys():  # without any, they are 0
        wrong -= counters
    if random.random() < 0.2 and all(isinstance(key, str) for key in state):
        state = {f"module.{key}": value for key, value in state.items()}
    return load_or_refuse(name, state, wrong)


def _odd_name(random, key: str):
    letters = "".join(random.choice("ab.\n\0\x1bé\ud800 ") for _ in range(random.randint(0, 5)))
    return random.choice([key + letters + "x", letters, key.upper(), 7, None, (key,), "x" * 999])


@functools.cache
def file_of(name: str, ending: str) -> bytes:
    """A valid file of weights."""
    state, buffer = state_of(name), io.BytesIO()
    if ending == ".safetensors":
        return save(state, metadata={"format": "pt"})
    if ending == ".npz":
        np.savez(buffer, **state)
    else:
        torch.save({key: torch.from_numpy(array) for key, array in state.items()}, buffer)
    return buffer.getvalue()


def mutate(random, data: bytes) -> bytes:
    """Change, insert, remove, repeat or cut off a few bytes."""
    data = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        at = random.randrange(len(data)) if data else 0
        kind = random.choice(["flip", "flip", "set", "cut", "insert", "remove", "repeat", "edge"])
        if kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = bytes(random.randrange(256) for _ in range(random.randint(1, 9)))
        elif kind == "remove":
            del data[at : at + random.randint(1, 9)]
        elif kind == "repeat":
            data[at:at] = data[at : at + random.randint(1, 99)]
        elif kind == "edge":
            data[at : at + 4] = random.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
        elif data:
            data[at] = (
                random.randrange(256) if kind == "set" else data[at] ^ 1 << random.randrange(8)
            )
    return bytes(data)


def weight_file(random, name: str, ending: str) -> str:
    """A mutated file of weights: equal values, or a refusal that names the file.

    Only safetensors has no checksum: there, values differ where bytes within the tensors do.
    """
    whole = file_of(name, ending)
    data = _flip_values(random, whole, ending) if random.random() < 0.3 else mutate(random, whole)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"weights{ending}")
        path.write_bytes(data)
        try:
            found = weight_files.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: "), error
            assert data != whole, f"refused what is right: {error}"
            assert len(str(error)) > len(str(path)) + 40, f"says too little: {error}"
            assert bits(model_of(name)) == _bits_of(name)
            return REFUSED
        _compare(name, ending, whole, data, found)
        with unchanged(name) as model:
            try:
                torch_weights.load_file(model, path)
            except ValueError as error:
                assert data != whole, f"refused what is right: {error}"
                assert str(error).startswith(f"{path}: "), error
                assert bits(model) == _bits_of(name), "refused, but changed"
                return REFUSED
    return ACCEPTED


@functools.cache
def _bits_of(name: str) -> dict[str, bytes]:
    return bits(model_of(name))


def _values_start(data: bytes) -> int:
    return 8 + struct.unpack("<Q", data[:8])[0]


def _flip_values(random, whole: bytes, ending: str) -> bytes:
    """Change bytes within the tensors of a safetensors file; of others, anywhere."""
    data = bytearray(whole)
    start = _values_start(whole) if ending == ".safetensors" else 0
    for _ in range(random.randint(1, 4)):
        data[random.randrange(start, len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _compare(name: str, ending: str, whole: bytes, data: bytes, found: dict) -> None:
    """Compare what was read from mutated bytes with what was written."""
    state = state_of(name)
    arrays = {key: np.asarray(value) for key, value in found.items()}
    if ending == ".npz":
        for key, array in arrays.items():
            assert array.tobytes() == state[key].tobytes(), f"{key} differs in spite of checksums"
    elif ending == ".safetensors":
        start = _values_start(data)
        size = sum(array.nbytes for array in arrays.values())
        assert size == len(data) - start, "values are not those of the file"
        if data[:start] == whole[:start]:
            expected = _values_of(state, data[start:], whole[start:])
            assert {key: array.tobytes() for key, array in arrays.items()} == expected


def _values_of(state: dict, data: bytes, whole: bytes) -> dict[str, bytes]:
    """The bytes of each tensor in changed data; their places are found in the unchanged data."""
    places = {}
    for key, array in sorted(state.items(), key=lambda pair: -pair[1].nbytes):
        text = array.tobytes()
        at = whole.find(text)
        while any(at < end and at + len(text) > begin for begin, end in places.values()):
            at = whole.find(text, at + 1)
        places[key] = (at, at + len(text))
    return {key: data[begin:end] for key, (begin, end) in places.items()}


# Overrides


@functools.cache
def fields() -> dict[str, object]:
    """Every field of the config with its default."""
    return flatten(common.get_config())


_VALUES = (
    "",
    "0",
    "-1",
    "1",
    "3",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "1e3",
    "0.5",
    "True",
    "false",
    "None",
    "none",
    "vit",
    "adamw",
    "(1,2)",
    "1,2",
    "(1e999,)",
    "'a','b'",
    "[1]",
    "{}",
    "()",
    "(None,)",
    "9" * 30,
    "9" * 5000,
    "0x10",
    "1_0",
    "١",
    "(" * 300,
    "[" * 3000,
    "-" * 3000,
    "a\0b",
    "\ud800",
    "é",
    "1" + "+1" * 2000,
    "9**9**9",
    "__import__('os')",
    "b'x'",
    "{1:2}",
    "lambda: 0",
    "1j",
    "train[:10%]",
    "config",
    "configs/vit_digits.py",
    "configs/common.py",
    "configs/none.py",
    "=",
    "--",
    " ",
    "\n",
    "'" * 99,
)
_NAMES = (
    "config",
    "config",
    "workdir",
    "if_finished",
    "epochs",
    "lr",
    "config.",
    "config..",
    "noconfig.x",
    "",
    "=",
    "config.train",
    "config.optim.name.x",
    "config.model.items",
    "config.__class__",
    "config.seed[0]",
    "config.model.widths[0]",
    "é",
    "help",
    "undefok",
    "x" * 999,
)


def override(random) -> list[str]:
    """A random command line."""
    arguments = []
    for _ in range(random.randint(1, 5)):
        field = random.choice([*fields()] * 3 + [*_NAMES])
        name = f"config.{field}" if field in fields() else field
        if random.random() < 0.15:
            letters = bytearray(name.encode("utf-8", "replace"))
            name = mutate(random, bytes(letters)).decode("utf-8", "replace")
        value = random.choice(_VALUES)
        if field in fields() and random.random() < 0.4:
            value = str(fields()[field])
        if random.random() < 0.1:
            value = mutate(random, value.encode("utf-8", "replace")).decode("utf-8", "replace")
        dashes = random.choice(["--"] * 6 + ["-", "", "--no", "---"])
        shape = random.random()
        if shape < 0.8:
            arguments.append(f"{dashes}{name}={value}")
        else:
            arguments += [f"{dashes}{name}"] + [value] * (shape < 0.9)
    return [argument for argument in arguments if "flagfile" not in argument]  # it reads files


def overrides(random) -> str:
    """A random command line: a config that is valid, or a UserError."""
    arguments = override(random)
    try:
        chosen = parse(arguments)
    except UserError as error:
        assert len(str(error)) > 20, f"{arguments}: says too little: {error}"
        return REFUSED
    except Exception as error:
        raise AssertionError(f"{arguments}: {type(error).__name__}: {error}") from error
    _check_config(chosen)
    return ACCEPTED


def _check_config(chosen) -> None:
    """Check a config that was accepted, by other means than its tables."""
    found = flatten(chosen)
    assert list(found) == list(fields())
    for field, value in found.items():
        group, _, key = f".{field}".rpartition(".")
        place = functools.reduce(getattr, group.split(".")[1:], common.get_config())
        kind = place.get_type(key)
        if value is None:
            assert fields()[field] is None, field
        elif kind is float:
            assert type(value) in (int, float), field
            assert abs(value) < math.inf, field
        else:
            assert type(value) is kind, f"{field}={value!r}"
    assert json.loads(to_json(chosen))


def parse(arguments: list[str]):
    """Run the training command's own parsing and checks on a command line."""
    chosen = command_line.parse(arguments).config
    ranges.check_fields(chosen, checks.CHECKS)
    return chosen


# Images and archives


@functools.cache
def image_of(kind: str) -> bytes:
    """A small valid image."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    options = {"GIF": {"save_all": True, "append_images": [image]}, "BMP": {}, "PPM": {}}
    image.save(buffer, kind, **options.get(kind, {"exif": exif}))
    return buffer.getvalue()


def image(random) -> str:
    """A mutated image file: pixels, or an error that names the file."""
    kind = random.choice(["PNG", "JPEG", "GIF", "BMP", "PPM", "TIFF", "WEBP"])
    data = mutate(random, image_of(kind))
    suffix = random.choice([".png", ".jpg", ".gif", ".tif"])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "cat", f"1{suffix}")
        for name in ("cat", "dog"):
            Path(folder, name).mkdir()
        path.write_bytes(data)
        Path(folder, "dog", "1.bmp").write_bytes(image_of("BMP"))
        try:
            source = data_folder.folder_source(folder, 4)
            images = source.open("train").read(np.arange(2))[0]
        except UserError as error:
            assert str(path) in str(error)
            assert data != image_of(kind), f"refused what is right: {error}"
            return REFUSED
    assert images.shape == (2, 4, 4, 3)
    return ACCEPTED


@functools.cache
def tar_of() -> bytes:
    """A small CIFAR-10 archive, not compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            _add(archive, name, bytes(3073))
        _add(archive, "batches.meta.txt", "\n".join(map(str, range(10))).encode())
        _add(archive, "x" * 120, b"")  # a long name: a header of its own
    return buffer.getvalue()


def _add(archive, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def archive(random) -> str:
    """A mutated archive, before or after it is compressed: its records, or a UserError."""
    if random.random() < 0.5:
        data = gzip.compress(mutate(random, tar_of()), 1)
    else:
        data = mutate(random, gzip.compress(tar_of(), 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cifar-10-binary.tar.gz")
        path.write_bytes(data)
        try:
            contents = archives.RECIPES["cifar10"].read({path.name: path})
        except UserError as error:
            assert str(path) in str(error)
            return REFUSED
    assert all(len(images) == len(labels["label"]) for _, images, labels in contents.splits)
    return ACCEPTED


def folder(random) -> str:
    """A random folder of images: its splits and labels, or a UserError."""
    return ACCEPTED if folders.load(random) else REFUSED


def folder_run(random) -> str:
    """A random folder of images: trained on, reported, evaluated, predicted; or a UserError."""
    return ACCEPTED if folders.run(random) else REFUSED


CASES = {
    "state dict, ViT": functools.partial(state_dict, name="vit"),
    "state dict, CNN": functools.partial(state_dict, name="simple_cnn"),
    ".safetensors": functools.partial(weight_file, name="simple_cnn", ending=".safetensors"),
    ".npz": functools.partial(weight_file, name="simple_cnn", ending=".npz"),
    ".pt": functools.partial(weight_file, name="simple_cnn", ending=".pt"),
    "overrides": overrides,
    "image": image,
    "archive": archive,
    "folder": folder,
    "folder, whole run": folder_run,
}
