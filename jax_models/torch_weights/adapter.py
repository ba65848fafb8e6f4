"""A model's adapters as PEFT keeps them: `adapter_model.safetensors` and `adapter_config.json`.

Source: https://huggingface.co/docs/peft/developer_guides/checkpoint. PEFT puts them on the model
that they were trained beside.
"""

import math

import numpy as np
from flax import nnx

from jax_models import low_rank
from jax_models.torch_weights import tensors

FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


def export_adapter(
    model: nnx.Module, layout: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Return the tensors of a model's adapters and head by PEFT's names, and PEFT's config.

    The names are those of the library's modules: of transformers those since 5, which are others
    than in files. Where it keeps queries, keys and values apart, each gets the same A and its part
    of B.

    Args:
      model: with adapters and values.
      layout: whose names, as in `export`.

    Raises:
      ValueError: it has no adapters, or no names in that layout, or there a matrix that PEFT cannot
        adapt.
    """
    layers = low_rank.adapters(model)
    if not layers:
        raise ValueError("The model has no adapters: it was built without lora_rank.")
    by_kernel = {id(layer.kernel): layer for layer in layers.values()}
    head = {id(v) for keys, v in nnx.to_flat_state(nnx.state(model)) if keys[0] == "head"}
    found, targets, saved = {}, [], []
    for name, entry in tensors.named_entries(model, layout, in_memory=True).items():
        module, _, leaf = name.rpartition(".")
        if id(entry.variable) in by_kernel:
            if leaf != "weight":
                raise ValueError(f"layout={layout!r}: PEFT cannot adapt a part of {name}.")
            a, b = _matrices(by_kernel[id(entry.variable)], entry)
            found |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            targets.append(module)
        elif id(entry.variable) in head:
            found[name] = tensors.to_torch_layout(entry)
            saved.append(module)
    first = next(iter(layers.values()))
    rank = first.lora_a.shape[1]
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": round(first.lora_scale * rank, 9),
        "lora_dropout": 0.0,
        "target_modules": targets,
        "modules_to_save": list(dict.fromkeys(saved)),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    return {f"{_PREFIX}{name}": array for name, array in found.items()}, config


def _matrices(layer: low_rank.Adaptable, entry: tensors.Entry) -> tuple[np.ndarray, np.ndarray]:
    """A [rank, ...in] and B [out,rank, ...] of a tensor, of a convolution's with its axes."""
    a, b = (np.asarray(matrix[...]).T for matrix in (layer.lora_a, layer.lora_b))
    b = np.split(b, entry.parts)[entry.part]
    inputs = entry.shape[1:]
    ones = (1,) * (len(inputs) - 1)
    assert math.prod(inputs) == a.shape[1]
    return a.reshape(len(a), *inputs).copy(), b.reshape(*b.shape, *ones).copy()
