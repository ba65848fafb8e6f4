"""Weights to and from PyTorch state dicts: strict both ways, on names and numpy arrays alone.

A model's own paths (`blocks.0.attn.qkv.kernel`) become PyTorch names by two rules:
- modules keep their path unless the model's `torch_names()` gives another, for a module or, as
  `TorchTensor`, for one variable;
- the last word follows from the layer: kernel and scale are `weight`, mean and var are
  `running_mean` and `running_var`; the rest keep their name.
Kernels turn from Flax's layout [in,out] and [kh,kw,in,out] to PyTorch's [out,in] and
[out,in,kh,kw].
"""

from jax_models.torch_weights.tensors import (
    export,
    load,
    load_file,
    load_safetensors,
    save_safetensors,
)  # fmt: skip

__all__ = ["export", "load", "load_file", "load_safetensors", "save_safetensors"]
