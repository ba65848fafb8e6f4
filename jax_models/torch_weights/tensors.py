"""A model's tensors under PyTorch's names and in its layout: checks, and there and back."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models import low_rank
from jax_models.torch_weights import tables
from jax_models.torch_weights.files import FileTensor, without_wrappers
from jax_models.torch_weights.misfit import Misfit, Problem, shown
from jax_models.torch_weights.tables import TorchTensor

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_COUNTER = "num_batches_tracked"  # of batch norm; momentum does without
_MOST_SLOTS = 65_536  # places in a batch; a few bytes can declare any number of them


class Entry(NamedTuple):
    """One tensor of the state dict: a variable, or one of `parts` slices of it."""

    variable: nnx.Variable
    leaf: str  # such as 'kernel'
    shape: tuple[int, ...]  # PyTorch's, of this slice
    part: int
    parts: int
    place: TorchTensor


class _Wrong(Exception):
    """Carries the problem of one entry."""


def load(model: nnx.Module, state_dict: Mapping[str, Any], **more: Any) -> None:
    """Copy a PyTorch state dict into a model, in place; adapters stay as they are.

    What wrappers add to names, such as `module.` and `_orig_mod.`, is left out with a warning (see
    `files.without_wrappers`), and so is what a layout leaves out knowingly. The layout is that of
    the model's own source or of another library, whichever the names say (`tables`). Without a
    single `num_batches_tracked` of batch norm, which PyTorch
    does not ask for either, all of them are 0, with a warning.

    Args:
      model: a model of this package; also one built by `nnx.eval_shape`, which gets its arrays.
      state_dict: name -> torch tensor or array, in PyTorch's layout. Values take on the
        dtype of the model, as in PyTorch's `load_state_dict`.
      **more: further entries, for what a source keeps outside its state dict.

    Raises:
      Misfit: entries are missing, unexpected, given twice, misshapen, no dense arrays of numbers,
        NaN, infinite or too large for the model's dtype; a running variance is negative; or a
        counter is no whole number from 0 that fits the model's dtype. Its message lists them all,
        as `problems` does, and the model is left untouched.
      ValueError: the state dict is no mapping, or no names are known of the model.
    """
    if not isinstance(state_dict, Mapping):
        expected = f"{type(state_dict).__name__}; expected names with their tensors"
        raise ValueError(f"The state dict is {expected}. Give model.state_dict().")
    given = without_wrappers(state_dict)
    twice = " is in the state dict and beside it"
    problems = [Problem("twice", name, twice) for name in more & given.keys()]
    given |= more
    found, root, entries, left_out = _recognised(model, given)
    given = {name: value for name, value in given.items() if name not in left_out}
    uncounted = [name for name, entry in entries.items() if entry.leaf == _COUNTER]
    if given.keys() & uncounted:  # some are there: that others are missing is a fault
        uncounted = []
    given |= {name: np.zeros(entries[name].shape, np.int64) for name in uncounted}
    problems += [Problem("unexpected", name) for name in given if name not in entries]
    arrays = _Arrays(given, entries)
    for name in entries:
        try:
            arrays.check(name)
        except _Wrong as wrong:
            problems.append(Problem(*wrong.args))
    if problems:
        others = len({names.layout for names in tables.known(model)}) > 1
        raise Misfit(problems, layout=found.layout if others else None)
    for name, why in left_out.items():
        warnings.warn(f"{shown(name)} is left out: {why}.", stacklevel=2)
    if uncounted:
        many = f"{_COUNTER} of {len(uncounted)} layer{'s' * (len(uncounted) != 1)}"
        warnings.warn(f"{many} is not in the state dict and set to 0.", stacklevel=2)
    if found.after_load:
        found.after_load(model, arrays, root)
    _assign(entries, arrays)


def export(model: nnx.Module, layout: str | None = None) -> dict[str, np.ndarray]:
    """Return the model's weights under PyTorch's names and in its layout, adapters folded in.

    Args:
      model: with values.
      layout: whose names: 'timm', 'torchvision' or 'huggingface', where the library has such a
        model; None for those of the model's mirror.

    Returns:
      name -> numpy array; after `torch.from_numpy` of each, the mirror's
      `load_state_dict(strict=True)` takes it. Values are copies.

    Raises:
      ValueError: the model was built by `nnx.eval_shape` and has no values, or has no names in
        that layout.
    """
    names, state, model = tables.written(model, layout), {}, low_rank.merged(model)
    for name, entry in _entries(model, _variables(model), names, names.root).items():
        if isinstance(entry.variable.get_value(), jax.ShapeDtypeStruct):
            raise ValueError(f"The model has shapes but no values ({name}): load weights first.")
        state[name] = to_torch_layout(entry)
    if names.before_save:
        names.before_save(model, state, names.root)
    return state


def names(model: nnx.Module, layout: str | None = None, *, beside: bool = False) -> list[str]:
    """Return the names of a model's state dict; or those a source keeps `beside` its own.

    Raises:
      ValueError: no names are known of the model (in that layout).
    """
    entries = named_entries(model, layout)
    return [name for name, entry in entries.items() if entry.place.beside or not beside]


def named_entries(
    model: nnx.Module, layout: str | None, *, in_memory: bool = False
) -> dict[str, Entry]:
    """The names of a model's state dict in a layout, each with its variable; raises as `names`.

    They are those in files, or with `in_memory` those of the library's modules.
    """
    names = (tables.in_memory if in_memory else tables.written)(model, layout)
    return _entries(model, _variables(model), names, names.root)


def shapes(model: nnx.Module, given: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The names of a model's state dict, as the layout of a given one has them, and their shapes.

    Raises:
      ValueError: no names are known of the model.
    """
    return {name: entry.shape for name, entry in _recognised(model, given).entries.items()}


class _Layout(NamedTuple):
    """The names that a state dict was recognised by."""

    names: tables.Names
    root: str
    entries: dict[str, Entry]
    left_out: dict[str, str]  # names in the state dict that are left out, and why


def _recognised(model: nnx.Module, given: Mapping[str, Any]) -> _Layout:
    """The layout that knows most names of a state dict, the first one of equals."""
    variables = _variables(model)

    def seen_as(names):
        root = names.root_in(given)
        entries = _entries(model, variables, names, root)
        reasons = {n: names.left_out_because(n, root) for n in given if n not in entries}
        return _Layout(names, root, entries, {n: why for n, why in reasons.items() if why})

    def known(layout):
        return len(layout.entries.keys() & given.keys()) + len(layout.left_out)

    return max(map(seen_as, tables.known(model)), key=known)


def _variables(model: nnx.Module) -> list[tuple[tuple, nnx.Variable]]:
    """All but those of adapters, which PyTorch's models do not have."""
    flat = nnx.to_flat_state(nnx.state(model))
    return [(keys, variable) for keys, variable in flat if keys[-1] not in low_rank.LEAVES]


def _entries(
    model: nnx.Module, variables: list, names: tables.Names, root: str
) -> dict[str, Entry]:
    """The names of the state dict, each with its variable."""
    entries = {}

    def find(path):
        return names.find(path, root)

    for keys, variable in variables:
        module, leaf = ".".join(map(str, keys[:-1])), str(keys[-1])
        place = find(f"{module}.{leaf}".removeprefix("."))
        if place is None:
            renamed = find(module) or TorchTensor(module)
            place = TorchTensor(f"{renamed.name}.{_LEAVES.get(leaf, leaf)}".removeprefix("."))
        parts = (place.name,) if isinstance(place.name, str) else place.name
        shape = tuple(variable.shape)
        if leaf == "kernel":
            shape = _kernel_to_torch_axes(shape)
        shape = (shape[0] // len(parts), *shape[1:]) if shape else shape
        if place.shape is not None:
            shape = place.shape(model, shape)
        for part, name in enumerate(parts):
            entries[name] = Entry(variable, leaf, shape, part, len(parts), place)
    return entries


class _Arrays(dict):
    """Checked arrays by name.

    One that lies in a file is let go after the check and read again when it is asked for, so that
    the weights are never in memory twice.
    """

    def __init__(self, given: Mapping[str, Any], entries: dict[str, Entry]):
        super().__init__()
        self._given, self._entries = given, entries

    def check(self, name: str) -> None:
        array = _checked(self._given, name, self._entries[name])
        if not isinstance(self._given[name], FileTensor):
            self[name] = array

    def __missing__(self, name: str) -> np.ndarray:
        return _checked(self._given, name, self._entries[name])


def _checked(given: Mapping[str, Any], name: str, entry: Entry) -> np.ndarray:
    """Return an entry's array in PyTorch's layout and the model's dtype, or raise _Wrong."""
    if name not in given:
        hint = f" ({entry.place.hint})" if entry.place.hint else ""
        raise _Wrong("missing", name, f" {list(entry.shape)}{hint}", entry.shape)
    value = given[name]
    # The shape first: a tensor of a few bytes can declare terabytes and would be copied.
    shape = tuple(value.shape) if hasattr(value, "shape") else np.shape(_to_numpy(value, name))
    slots = shape[0] if entry.place.per_slot and shape[1:] == entry.shape[1:] and shape else 0
    if shape != entry.shape and not 0 < slots <= _MOST_SLOTS:
        says = f" is {list(shape)}, the model has {list(entry.shape)}"
        raise _Wrong("misshapen", name, says, entry.shape, shape)
    array = _to_numpy(value, name)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer)):
        raise _Wrong("not numbers", name, f" has dtype {array.dtype}")
    if slots:
        if (array != array[:1]).any():
            differs = f"{name} differs between the {slots} places of a batch"
            warnings.warn(f"{differs}; the first one is used.", stacklevel=3)
        array = array[:1]
    if jnp.issubdtype(entry.variable.dtype, np.integer):
        return _counts(array, np.dtype(entry.variable.dtype), name)
    return _finite(array, entry, name)


def _finite(array: np.ndarray, entry: Entry, name: str) -> np.ndarray:
    """Cast to the model's dtype; NaN and infinity would make every output NaN."""
    dtype = np.dtype(entry.variable.dtype)
    with np.errstate(all="ignore"):
        cast = array.astype(dtype, copy=False)
    if wrong := np.count_nonzero(~np.isfinite(cast)):
        many = f"{wrong} of {cast.size} values"
        raise _Wrong("not finite", name, f" has {many} NaN, infinite or too large for {dtype}")
    if entry.leaf == "var" and (wrong := np.count_nonzero(cast < 0)):
        raise _Wrong("negative", name, f" has {wrong} of {cast.size} variances below 0")
    return cast


def _counts(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Cast counters to the model's dtype, in which larger ones would wrap around."""
    most = np.iinfo(dtype).max
    whole = array.astype(np.float64 if jnp.issubdtype(array.dtype, np.floating) else np.int64)
    # Written so that NaN fails; an unsigned number beyond int64 turns negative above.
    if not ((whole >= 0) & (whole <= most) & (whole % 1 == 0)).all():
        raise _Wrong("no counts", name, f" has others than whole numbers from 0 to {most}")
    return whole.astype(dtype)


def _assign(entries: dict[str, Entry], arrays: Mapping[str, np.ndarray]) -> None:
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


def _kernel_to_torch_axes(axes):
    """[..., in, out] -> [out, in, ...]."""
    *window, inputs, outputs = axes
    return (outputs, inputs, *window)


def to_torch_layout(entry: Entry) -> np.ndarray:
    """The values of an entry as PyTorch has them."""
    array = np.asarray(entry.variable.get_value())
    if entry.leaf == "kernel":
        array = array.transpose(_kernel_to_torch_axes(range(array.ndim)))
    if array.dtype == np.int32:  # num_batches_tracked
        array = array.astype(np.int64)
    if entry.parts > 1:
        array = np.split(array, entry.parts)[entry.part]
    array = np.array(array, order="C")
    return array if entry.place.converted else array.reshape(entry.shape)


def _from_torch_layout(array: np.ndarray, entry: Entry) -> np.ndarray:
    if entry.leaf != "kernel":
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
        says = f" cannot be read as a dense array: {reason}"
        raise _Wrong("no array", name, says) from None
