"""Weights to and from PyTorch state dicts: strict both ways, on names and numpy arrays alone.

A model's own paths (`blocks.0.attn.qkv.kernel`) become PyTorch names by two rules:
- modules keep their path unless the model's `torch_names()` gives another, for a module or, as
  `TorchTensor`, for one variable;
- the last word follows from the layer: kernel and scale are `weight`, mean and var are
  `running_mean` and `running_var`; the rest keep their name.
Kernels turn from Flax's layout [in,out] and [kh,kw,in,out] to PyTorch's [out,in] and
[out,in,kh,kw].
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models.torch_weights import files as weight_files
from jax_models.torch_weights.names import TorchTensor

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


_MOST_SLOTS = 65_536  # places in a batch; a few bytes can declare any number of them


_LONGEST_NAME = 200  # characters of an unknown name in a message


class _Entry(NamedTuple):
    """One tensor of the state dict: a variable, or one of `parts` slices of it."""

    variable: nnx.Variable
    is_kernel: bool
    shape: tuple[int, ...]  # PyTorch's, of this slice
    part: int
    parts: int
    per_slot: bool
    hint: str
    is_variance: bool


class _Problem(ValueError):
    """What is wrong with one entry, as a line of the message."""


def load(model: nnx.Module, state_dict: Mapping[str, Any], **more: Any) -> None:
    """Copy a PyTorch state dict into a model, in place.

    A `module.` before every name (`torch.nn.DataParallel`) is left out.

    Args:
      model: a model of this package; also one built by `nnx.eval_shape`, which gets its arrays.
      state_dict: name -> torch tensor or array, in PyTorch's layout. Values take on the
        dtype of the model, as in PyTorch's `load_state_dict`.
      **more: further entries, for what a source keeps outside its state dict.

    Raises:
      ValueError: entries are missing, unexpected, given twice, misshapen, no dense arrays of
        numbers, NaN, infinite or too large for the model's dtype; a running variance is negative;
        or a counter is no whole number from 0 that fits the model's dtype. The message lists them
        all, and the model is left untouched.
    """
    if not isinstance(state_dict, Mapping):
        raise ValueError(
            f"The state dict is {type(state_dict).__name__}; expected names with their tensors. "
            "Give model.state_dict()."
        )
    entries = _entries(model)
    given = _without_prefix(state_dict)
    problems = [f"twice: {name} is in the state dict and beside it" for name in more & given.keys()]
    given = {**given, **more}
    problems += [f"unexpected: {_shown(name)}" for name in given if name not in entries]
    arrays = {}
    for name, entry in entries.items():
        try:
            arrays[name] = _checked(given, name, entry)
        except _Problem as problem:
            problems.append(str(problem))
    if problems:
        raise ValueError(
            f"The state dict does not fit the model ({len(problems)} problems; nothing was "
            "loaded):\n  " + "\n  ".join(problems)
        )
    _assign(entries, arrays)


def export(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return the model's weights under PyTorch's names and in its layout.

    Returns:
      name -> numpy array; after `torch.from_numpy` of each, the mirror's
      `load_state_dict(strict=True)` takes it. Values are copies.

    Raises:
      ValueError: the model was built by `nnx.eval_shape` and has no values.
    """
    state = {}
    for name, entry in _entries(model).items():
        if isinstance(entry.variable.get_value(), jax.ShapeDtypeStruct):
            raise ValueError(f"The model has shapes but no values ({name}): load weights first.")
        state[name] = _to_torch_layout(entry)
    return state


def save_safetensors(model: nnx.Module, path: str | os.PathLike) -> None:
    """Write the model's weights, under PyTorch's names, to a safetensors file.

    The file appears under its name only when it is complete.

    Raises:
      OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    path = Path(path)
    data = save(export(model), metadata={"format": "pt"})
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_file(model: nnx.Module, path: str | os.PathLike, **more: Any) -> None:
    """Load a file of weights with PyTorch's names into a model, in place; no code in it is run.

    Args:
      model: as in `load`.
      path: `.safetensors`, `.npz`, or PyTorch's `.pt`, `.pth`, `.bin` (these need PyTorch).
      **more: as in `load`.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: PyTorch is needed and not installed.
      ValueError: it cannot be read (see `weight_files.read`) or does not fit (see `load`); the
        model is untouched.
    """
    _load_named(model, path, weight_files.read(path), more)


def load_safetensors(model: nnx.Module, path: str | os.PathLike, **more: Any) -> None:
    """Load a safetensors file with PyTorch's names into a model, in place, whatever its ending.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no safetensors file, or does not fit (see `load`); the model is untouched.
    """
    path = Path(path)
    weight_files.check_is_file(path)
    _load_named(model, path, weight_files.read_safetensors(path), more)


def _load_named(model, path, state: dict[str, Any], more: dict[str, Any]) -> None:
    try:
        load(model, state, **more)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _entries(model: nnx.Module) -> dict[str, _Entry]:
    """The names of the state dict, each with its variable."""
    renamed = model.torch_names()
    entries = {}
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        module, leaf = ".".join(map(str, keys[:-1])), str(keys[-1])
        is_kernel = leaf == "kernel"
        default = TorchTensor(_join(_module_name(renamed, module), _LEAVES.get(leaf, leaf)))
        place = renamed.get(_join(module, leaf), default)
        names = (place.name,) if isinstance(place.name, str) else place.name
        shape = place.shape
        if shape is None:
            shape = _kernel_to_torch_axes(variable.shape) if is_kernel else tuple(variable.shape)
            shape = (shape[0] // len(names), *shape[1:]) if shape else shape
        for part, name in enumerate(names):
            entries[name] = _Entry(
                variable, is_kernel, shape, part, len(names), place.per_slot, place.hint,
                is_variance=leaf == "var",
            )  # fmt: skip
    return entries


def _module_name(renamed, module: str) -> str:
    return renamed[module].name if module in renamed else module


def _join(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf


def _checked(given: Mapping[str, Any], name: str, entry: _Entry) -> np.ndarray:
    """Return an entry's array in PyTorch's layout and the model's dtype, or raise _Problem."""
    if name not in given:
        hint = f" ({entry.hint})" if entry.hint else ""
        raise _Problem(f"missing: {name} {list(entry.shape)}{hint}")
    value = given[name]
    # The shape first: a tensor of a few bytes can declare terabytes and would be copied.
    shape = tuple(value.shape) if hasattr(value, "shape") else np.shape(_to_numpy(value, name))
    slots = shape[0] if entry.per_slot and shape[1:] == entry.shape[1:] and shape else 0
    if shape != entry.shape and not 0 < slots <= _MOST_SLOTS:
        raise _Problem(f"misshapen: {name} is {list(shape)}, the model has {list(entry.shape)}")
    array = _to_numpy(value, name)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer)):
        raise _Problem(f"not numbers: {name} has dtype {array.dtype}")
    if slots:
        array = _first_slot(array, name)
    if jnp.issubdtype(entry.variable.dtype, np.integer):
        return _counts(array, np.dtype(entry.variable.dtype), name)
    return _finite(array, entry, name)


def _finite(array: np.ndarray, entry: _Entry, name: str) -> np.ndarray:
    """Cast to the model's dtype; NaN and infinity would make every output NaN."""
    dtype = np.dtype(entry.variable.dtype)
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
    if wrong := np.count_nonzero(~np.isfinite(cast)):
        raise _Problem(
            f"not finite: {name} has {wrong} of {cast.size} values NaN, infinite or too large for "
            f"{dtype}"
        )
    if entry.is_variance and (wrong := np.count_nonzero(cast < 0)):
        raise _Problem(f"negative: {name} has {wrong} of {cast.size} variances below 0")
    return cast


def _counts(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Cast counters to the model's dtype, in which larger ones would wrap around."""
    most = np.iinfo(dtype).max
    whole = array.astype(np.float64 if jnp.issubdtype(array.dtype, np.floating) else np.int64)
    # Written so that NaN fails; an unsigned number beyond int64 turns negative above.
    if not ((whole >= 0) & (whole <= most) & (whole % 1 == 0)).all():
        raise _Problem(f"no counts: {name} has others than whole numbers from 0 to {most}")
    return whole.astype(dtype)


def _assign(entries: dict[str, _Entry], arrays: dict[str, np.ndarray]) -> None:
    """Put checked arrays into the variables; the parts of a stacked one come in order."""
    parts, values = [], []
    for name, entry in entries.items():
        parts.append(arrays[name])
        if entry.part + 1 == entry.parts:
            whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
            # A copy: on the CPU jnp.asarray may share memory with the tensor it was given.
            value = jnp.array(_from_torch_layout(whole, entry), entry.variable.dtype)
            values.append((entry.variable, value))
            parts = []
    for variable, value in values:  # all or nothing: until here the memory may run out
        variable.set_value(value)


def _without_prefix(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    if state_dict and all(str(name).startswith("module.") for name in state_dict):
        return {str(name).removeprefix("module."): value for name, value in state_dict.items()}
    return state_dict


def _shown(name: Any) -> str:
    """A name from a file, safe to print: on one line, and not without end."""
    text = name if isinstance(name, str) and name.isprintable() and name else repr(name)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def _first_slot(array: np.ndarray, name: str) -> np.ndarray:
    if (array != array[:1]).any():
        warnings.warn(
            f"{name} differs between the {len(array)} places of a batch; the first one is used.",
            stacklevel=4,
        )
    return array[:1]


def _kernel_to_torch_axes(axes):
    """[..., in, out] -> [out, in, ...]."""
    *window, inputs, outputs = axes
    return (outputs, inputs, *window)


def _to_torch_layout(entry: _Entry) -> np.ndarray:
    array = np.asarray(entry.variable.get_value())
    if entry.is_kernel:
        array = array.transpose(_kernel_to_torch_axes(range(array.ndim)))
    if array.dtype == np.int32:  # num_batches_tracked
        array = array.astype(np.int64)
    if entry.parts > 1:
        array = np.split(array, entry.parts)[entry.part]
    return np.array(array, order="C").reshape(entry.shape)


def _from_torch_layout(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if not entry.is_kernel:
        return array.reshape(entry.variable.shape)
    array = array.reshape(_kernel_to_torch_axes(entry.variable.shape))
    return array.transpose(*range(2, array.ndim), 1, 0)


def _to_numpy(value, name: str) -> np.ndarray:
    """An array of any framework on the host; torch's bfloat16, which numpy lacks, as float32."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            if "bfloat16" in str(value.dtype):
                value = value.float()
        return np.asarray(value)
    except Exception as error:  # each framework raises its own: sparse, quantized, without data, …
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _Problem(f"no array: {name} cannot be read as a dense array: {reason}") from None
