"""Weights to and from PyTorch state dicts: strict both ways, on names and numpy arrays alone.

A model's own paths (`blocks.0.attn.qkv.kernel`) become PyTorch names by two rules:
- modules keep their path unless the model's name table (`tables`) gives another, for a module or,
  as `TorchTensor`, for one variable;
- the last word follows from the layer: kernel and scale are `weight`, mean and var are
  `running_mean` and `running_var`; the rest keep their name.
Families have tables for several libraries, one after another: a state dict is read by the table
that shares most names with it.
Kernels turn from Flax's layout [in,out] and [kh,kw,in,out] to PyTorch's [out,in] and
[out,in,kh,kw].
"""

import os
from typing import Any

from flax import nnx

from jax_models.torch_weights import files
from jax_models.torch_weights.adapter import export_adapter
from jax_models.torch_weights.misfit import Misfit, Problem
from jax_models.torch_weights.tensors import export, load, names

__all__ = ["Misfit", "Problem", "export", "export_adapter", "load", "load_file", "names"]
__all__ += ["save_safetensors"]


def load_file(model: nnx.Module, path: str | os.PathLike, **more: Any) -> None:
    """Load a file of weights with PyTorch's names into a model, in place; no code in it is run.

    Args:
      model: as in `load`.
      path: `.safetensors`, `.npz`, or PyTorch's `.pt`, `.pth`, `.bin`, `.ckpt`, `.pth.tar` (these
        need PyTorch).
      **more: as in `load`.

    Raises:
      FileNotFoundError: there is no such file.
      ImportError: PyTorch is needed and not installed.
      ValueError: it cannot be read (see `files.read`).
      Misfit: it does not fit (see `load`); the model is untouched.
    """
    state = files.read(path, names(model, beside=True))
    try:
        load(model, state, **more)
    except Misfit as misfit:
        raise Misfit(misfit.problems, path, misfit.layout) from None


def save_safetensors(model: nnx.Module, path: str | os.PathLike, layout: str | None = None) -> None:
    """Write the model's weights, under PyTorch's names, to a safetensors file.

    The file appears under its name, whatever its ending, only when it is complete; a link is
    followed.

    Args:
      model: with values.
      path: of the file.
      layout: as in `export`.

    Raises:
      OSError: the file cannot be written.
      ValueError: as `export` does.
    """
    files.write(export(model, layout), path, ".safetensors")
