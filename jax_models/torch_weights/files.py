"""Files of weights by their ending, in any case: .safetensors, .npz, and PyTorch's .pt and others.

Files come from anywhere, so nothing in them is trusted: no code in them is run, and what they
declare (sizes, shapes, names) is checked before memory is taken for it.
"""

import json
import math
import os
import pickle
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_models import output
from jax_models.torch_weights import google

TORCH_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar")
ENDINGS = (*TORCH_ENDINGS, ".safetensors", ".npz")
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model", "net")
# Words that wrappers put into names: those of torch.compile, FSDP and checkpointing anywhere, those
# of DataParallel, Lightning and the like before every name.
_WITHIN = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_BEFORE = ("module", "model", "net")

_SAFETENSORS_DTYPES = {
    f"{letter}{8 * size}": np.dtype(f"<{kind}{size}")
    for letter, kind, sizes in (("F", "f", (2, 4, 8)), ("I", "i", (1, 2, 4, 8)))
    for size in sizes
}
_SAFETENSORS_DTYPES |= {f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}
_SAFETENSORS_DTYPES |= {"BOOL": np.dtype(bool), "BF16": np.dtype(jnp.bfloat16)}

# Weights hardly compress; what unpacks to more than this is made to fill the memory.
_EXPANSION = 20  # bytes for each byte of the file
_ALWAYS_FINE = 64 * 2**20  # bytes; zeros of a small model do compress


def read(path: str | os.PathLike, beside: Collection[str] = ()) -> dict[str, Any]:
    """Return the tensors of a weight file by name.

    Args:
      path: a file that ends in one of `ENDINGS`, in any case. A PyTorch file may hold the state
        dict under one of `STATE_DICT_KEYS`, beside an optimizer's and other things; a warning
        names other state dicts beside it.
      beside: names that are taken too where they stand beside the state dict.

    Returns:
      name -> numpy array, or torch tensor for PyTorch's files; shapes are the file's. The names
        are without those of wrappers, see `without_wrappers`; Google's are turned into timm's.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: it is a PyTorch file, and PyTorch is not installed.
      ValueError: it is a folder, of an unknown ending, damaged, cut short, not of the format its
        ending says, or holds an entry twice, Python objects or other things than tensors.
    """
    path = Path(path)
    check_source(path)
    ending = _ending(path)
    if ending in TORCH_ENDINGS:
        state = _unwrap(_read_torch(path), path, beside)
    else:
        state = without_wrappers((_read_npz if ending == ".npz" else _read_safetensors)(path))
    for name, value in state.items():
        if not isinstance(name, str) or not hasattr(value, "shape"):
            raise ValueError(
                f"{path}: the entry {name!r} is {type(value).__name__}, not a tensor. "
                f"Save model.state_dict(), alone or under {' or '.join(STATE_DICT_KEYS)}."
            )
    return state


def write(state: Mapping[str, np.ndarray], path: str | os.PathLike, ending: str = "") -> None:
    """Write tensors to a file; see `output.write`.

    Args:
      state: name -> array.
      path: of the file.
      ending: says the format, one of `ENDINGS`, where the path's own does not.

    Raises:
      ImportError: it is a PyTorch file, and PyTorch is not installed.
      OSError, RuntimeError: the file cannot be written.
    """
    path = Path(path)
    save = _writer(ending or _ending(path), path)
    output.write(path, lambda file: save(state, file))


def _writer(ending: str, path: Path) -> Callable:
    if ending in TORCH_ENDINGS:
        torch = _import_torch(path)
        return lambda state, file: torch.save(
            {name: torch.from_numpy(array) for name, array in state.items()}, file
        )
    if ending == ".npz":
        return lambda state, file: np.savez(file, **state)
    from safetensors.numpy import save

    return lambda state, file: file.write(save(dict(state), metadata={"format": "pt"}))


def _ending(path: Path) -> str:
    """The one of `ENDINGS` that a path has, else ''."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def check_ending(path: Path) -> None:
    """Raise a ValueError unless the path's ending is one of `ENDINGS`, in any case."""
    if not _ending(path):
        raise ValueError(
            f"{path}: the format follows from the ending, and {path.suffix!r} is "
            f"none of {', '.join(ENDINGS)}. Give a file that ends in one of them."
        )


def check_source(path: Path) -> None:
    """Check the ending, and for a regular file: reading a pipe or a device might never end.

    Raises:
      FileNotFoundError: there is nothing.
      ValueError: it is something else, or of an unknown ending.
    """
    check_ending(path)
    if path.is_file():
        return
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file. Check the path.")
    kind = "a folder" if path.is_dir() else "a pipe or a device"
    raise ValueError(f"{path} is {kind}; expected a file of weights. Give the file itself.")


def _import_torch(path: Path):
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{path}: files that end in {', '.join(TORCH_ENDINGS)} need PyTorch, which "
            "is not installed. Install it (pip install torch) or use .safetensors or .npz."
        ) from None
    return torch


class FileTensor:
    """A tensor in a safetensors file, read when NumPy asks for it and kept by nobody.

    Mapped into memory the file would count beside its copy; read array by array it never does.
    """

    def __init__(self, path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]):
        self._path, self._offset, self.dtype, self.shape = path, offset, dtype, shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        count = math.prod(self.shape)
        array = np.fromfile(self._path, self.dtype, count, offset=self._offset)
        if array.size != count:
            raise ValueError(f"{self._path} became shorter while it was read")
        array = array.reshape(self.shape)
        return array if dtype is None else array.astype(dtype, copy=False)


def _read_safetensors(path: Path) -> dict[str, FileTensor]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass  # it checks names, sizes, shapes and that the offsets leave no gap
        with open(path, "rb") as file:  # of a name that stands twice it would drop one
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size), object_pairs_hook=_only_once)
        header.pop("__metadata__", None)
        start = 8 + size
        return {name: _file_tensor(path, start, **entry) for name, entry in header.items()}
    except Exception as error:  # SafetensorError, OSError, MemoryError, …
        raise _damaged(path, "safetensors", error) from None


def _file_tensor(path: Path, start: int, dtype: str, shape: list[int], data_offsets) -> FileTensor:
    if dtype not in _SAFETENSORS_DTYPES:
        raise ValueError(f"a tensor is of a type NumPy lacks, {dtype}; save it as float32")
    return FileTensor(path, start + data_offsets[0], _SAFETENSORS_DTYPES[dtype], tuple(shape))


def _only_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_names([name for name, _ in pairs])
    return dict(pairs)


def _check_names(names: list[str]) -> None:
    name, count = (Counter(names).most_common(1) or [("", 0)])[0]
    if count > 1:
        raise ValueError(f"the entry {name!r} stands in it {count} times")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if others := [name for name in archive.namelist() if not name.endswith(".npy")]:
                raise ValueError(f"the member {others[0]!r} is no array")
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            _check_names(names)
            _check_expansion(path, members)
            arrays = (_read_npy(archive, info) for info in members)
            state = dict(zip(names, arrays, strict=True))
            return google.as_timm(state) if google.recognises(names) else state
    except google.OtherModel as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # damage shows in many ways: BadZipFile, zlib.error, SyntaxError, …
        raise _damaged(path, "NumPy .npz", error) from None


def _check_expansion(path: Path, members: list[zipfile.ZipInfo]) -> None:
    declared, size = sum(info.file_size for info in members), path.stat().st_size
    if declared > max(_ALWAYS_FINE, _EXPANSION * size):
        raise ValueError(f"it would unpack from {size:,} to {declared:,} bytes")


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """Return one array, once its header is known to declare as much as there is."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):  # a later one only names fields, which weights lack
            raise ValueError(f"{info.filename!r} is of the unknown .npy version {version}")
        shape, _, dtype = getattr(np.lib.format, f"read_array_header_{version[0]}_0")(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which could run code")
        held = info.file_size - file.tell()
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{info.filename!r} declares {dtype} {list(shape)} and holds {held} bytes")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)  # zipfile checks the checksum


def _read_torch(path: Path) -> Any:
    torch = _import_torch(path)
    try:
        _check_torch_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: an error says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: not a file of tensors alone. It is damaged, no PyTorch file, or "
            "holds Python objects, which are not loaded because they could run code. Where it "
            "was made, load it and save model.state_dict() instead."
        ) from None
    except Exception as error:  # damage shows in many ways, from EOFError to RuntimeError
        raise _damaged(path, "PyTorch", error) from None


def _check_torch_archive(path: Path) -> None:
    """Check sizes, names and checksums of the zip that PyTorch writes; it looks at none of them."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return  # from before PyTorch 1.6: no archive
    with zipfile.ZipFile(path) as archive:
        _check_names(archive.namelist())
        _check_expansion(path, archive.infolist())
        if (wrong := archive.testzip()) is not None:
            raise ValueError(f"the member {wrong!r} has a wrong checksum")


def _unwrap(loaded: Any, path: Path, beside: Collection[str]) -> dict[str, Any]:
    """The state dict in what `torch.load` gave, with the tensors that stand beside it."""
    if not isinstance(loaded, Mapping):
        holds = f"{path}: holds {type(loaded).__name__}, expected a state dict."
        raise ValueError(f"{holds} Save model.state_dict().")
    state = dict(_state_dict_in(loaded))
    others = {name: state.pop(name, loaded.get(name)) for name in beside}
    # Taken off here, because the entries beside have none.
    state = without_wrappers(state)
    return {name: value for name, value in others.items() if value is not None} | state


def _state_dict_in(loaded: Mapping[str, Any]) -> Mapping[str, Any]:
    taken = next((k for k in STATE_DICT_KEYS if isinstance(loaded.get(k), Mapping)), None)
    if taken is None:
        return loaded
    if others := [repr(k) for k, v in loaded.items() if k != taken and _is_state_dict(v)]:
        told = f"{taken!r} of the file is read, and {', '.join(others)} beside it not"
        warnings.warn(f"{told}; to take another, save it alone.", stacklevel=4)
    return _state_dict_in(loaded[taken])


def _is_state_dict(value: Any) -> bool:
    values = value.values() if isinstance(value, Mapping) else ()
    return bool(values) and all(hasattr(one, "shape") for one in values)


def without_wrappers(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with the names of the bare model, whatever it was wrapped in when it was saved.

    Left out, with a warning that names them, are `_orig_mod.` of `torch.compile` and its like, and
    `module.`, `model.` and `net.` where they stand before every name, one after another.
    """
    taken: dict[str, None] = {}  # in order
    names = []
    for name in map(str, state):
        words = name.split(".")
        names.append(".".join(word for word in words if word not in _WITHIN))
        taken |= dict.fromkeys(word for word in words if word in _WITHIN)
    while names and (word := names[0].partition(".")[0]) in _BEFORE:
        if not all(name.startswith(f"{word}.") for name in names):
            break
        names = [name.removeprefix(f"{word}.") for name in names]
        taken[word] = None
    if not taken or len(set(names)) < len(state):
        return dict(state)
    told = " and ".join(f"'{word}.'" for word in taken)
    warnings.warn(f"{told} of a wrapped model left out of the names.", stacklevel=3)
    return dict(zip(names, state.values(), strict=True))


def _damaged(path: Path, kind: str, error: Exception) -> ValueError:
    lines = str(error).splitlines() or [type(error).__name__]
    return ValueError(
        f"{path}: not a readable {kind} file ({lines[0].rstrip('.')}). It may be damaged, cut "
        "short or of another format than its ending says: fetch or save it again."
    )
