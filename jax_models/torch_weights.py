"""Weights to and from PyTorch state dicts: strict both ways, on names and numpy arrays alone.

A model's own paths (`blocks.0.attn.qkv.kernel`) become PyTorch names by two rules:
- modules keep their path unless the model's `torch_names()` gives another: a dict from our module
  path to theirs, or from the path of one tensor to (their name, their shape) where a kernel is
  stored in another shape;
- the last word follows from the layer: kernel and scale are `weight`, mean and var are
  `running_mean` and `running_var`; the rest keep their name.
Kernels turn from Flax's layout [in,out] and [kh,kw,in,out] to PyTorch's [out,in] and
[out,in,kh,kw].
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


class _Entry(NamedTuple):
    """One tensor of the state dict and the variable it belongs to."""

    variable: nnx.Variable
    is_kernel: bool
    shape: tuple[int, ...]  # PyTorch's


def load(model: nnx.Module, state_dict: Mapping[str, Any]) -> None:
    """Copy a PyTorch state dict into a model, in place.

    Args:
      model: a model of this package; also one built by `nnx.eval_shape`, which gets its arrays.
      state_dict: name -> torch tensor or array, in PyTorch's layout. Values take on the
        dtype of the model, as in PyTorch's `load_state_dict`.

    Raises:
      ValueError: entries are missing, unexpected, misshapen or not numbers. The message lists
        them all, and the model is left untouched.
    """
    entries = _entries(model)
    arrays, problems = {}, []
    for name in [name for name in state_dict if name not in entries]:
        problems.append(f"unexpected: {name}")
    for name, entry in entries.items():
        if name not in state_dict:
            problems.append(f"missing: {name} {list(entry.shape)}")
            continue
        array = _to_numpy(state_dict[name])
        if array.shape != entry.shape:
            problems.append(
                f"misshapen: {name} is {list(array.shape)}, the model has {list(entry.shape)}"
            )
        elif not any(jnp.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer)):
            problems.append(f"not numbers: {name} has dtype {array.dtype}")
        else:
            arrays[name] = _from_torch_layout(array, entry)
    if problems:
        raise ValueError(
            f"The state dict does not fit the model ({len(problems)} problems; nothing was "
            "loaded):\n  " + "\n  ".join(problems)
        )
    for name, entry in entries.items():
        # A copy: on the CPU jnp.asarray may share memory with the tensor it was given.
        entry.variable.set_value(jnp.array(arrays[name], entry.variable.dtype))


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


def load_safetensors(model: nnx.Module, path: str | os.PathLike) -> None:
    """Load a safetensors file with PyTorch's names into a model, in place.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no safetensors file, or does not fit (see `load`); the model is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no safetensors file {str(path)!r}.")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a readable safetensors file: {error}.") from error
    load(model, state)


def _entries(model: nnx.Module) -> dict[str, _Entry]:
    """The names of the state dict, each with its variable."""
    renamed = model.torch_names()
    entries = {}
    for keys, variable in nnx.to_flat_state(nnx.state(model)):
        module, leaf = ".".join(map(str, keys[:-1])), str(keys[-1])
        is_kernel = leaf == "kernel"
        shape = _kernel_to_torch_axes(variable.shape) if is_kernel else tuple(variable.shape)
        path = _join(module, leaf)
        if path in renamed:
            name, shape = renamed[path]
        else:
            name = _join(renamed.get(module, module), _LEAVES.get(leaf, leaf))
        entries[name] = _Entry(variable, is_kernel, shape)
    return entries


def _join(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf


def _kernel_to_torch_axes(axes):
    """[..., in, out] -> [out, in, ...]."""
    *window, inputs, outputs = axes
    return (outputs, inputs, *window)


def _to_torch_layout(entry: _Entry) -> np.ndarray:
    array = np.array(entry.variable.get_value())
    if entry.is_kernel:
        array = np.ascontiguousarray(array.transpose(_kernel_to_torch_axes(range(array.ndim))))
    if array.dtype == np.int32:  # num_batches_tracked
        array = array.astype(np.int64)
    return array.reshape(entry.shape)


def _from_torch_layout(array: np.ndarray, entry: _Entry) -> np.ndarray:
    if not entry.is_kernel:
        return array
    array = array.reshape(_kernel_to_torch_axes(entry.variable.shape))
    return array.transpose(*range(2, array.ndim), 1, 0)


def _to_numpy(value) -> np.ndarray:
    """An array of any framework on the host; torch's bfloat16, which numpy lacks, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()
    return np.asarray(value)
