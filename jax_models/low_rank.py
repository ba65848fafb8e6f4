"""Low-rank adapters (LoRA): two small matrices beside a large one, which itself does not change.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685: y = x·W + b + alpha/rank · (x·A)·B, where
A [in,rank] starts as in PEFT (https://github.com/huggingface/peft) and B [rank,out] at zero, so
that a model starts as it was. A·B is never made in training, nor is a gradient of W's size.
"""

import re
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jax_models.checks import check_positive, check_sizes
from jax_models.rngs import InitRngs

# The attention's projections, of ViTs and between convolutions.
TARGETS = (r"\battn\.(qkv|projection)\b", r"\battention\.(theta|phi|g|o)\b")
LEAVES = ("lora_a", "lora_b")
_kaiming_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Adaptable:
    """A layer that multiplies its input's last axis with its kernel, and may have an adapter."""

    lora_a = lora_b = None
    lora_scale = 1.0
    is_matrix = True  # else the kernel is none, and there is no adapter

    def low_rank(self, x: Array) -> Array | None:
        """What the adapter adds to the output for x [..., in]: [..., out]; None without one."""
        if self.lora_a is None:
            return None
        return self.lora_scale * (x @ self.lora_a[...] @ self.lora_b[...])


def add_adapters(
    model: nnx.Module, rngs: nnx.Rngs | InitRngs, *, lora_rank: int,
    lora_alpha: float | None = None, lora_targets: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Give layers of a model adapters, in place.

    Args:
      model: with or without values.
      rngs: what A is drawn with.
      lora_rank: of the adapters, at least 1.
      lora_alpha: what they add counts alpha / rank times; None: the rank, for once.
      lora_targets: regexes; a layer gets an adapter where `re.search` finds one of them in its
        path or its kernel's. None: the projections of the attention. The head, which is to train
        as a whole, gets none.

    Raises:
      ValueError: a value is out of its range, the targets are no regexes, or one names no matrix
        or nothing.
    """
    alpha = lora_rank if lora_alpha is None else lora_alpha
    check_sizes(lora_rank=lora_rank)
    check_positive(lora_alpha=alpha)
    _check_targets(lora_targets)
    chosen = _chosen(model, lora_targets)
    if getattr(model, "scan_layers", False):
        _check_alike(list(chosen), len(model.blocks), lora_targets)
    for layer in chosen.values():
        *_, inputs, outputs = layer.kernel.shape
        start = _kaiming_uniform(rngs.params(), (inputs, lora_rank), jnp.float32)
        layer.lora_a = nnx.Param(start)
        layer.lora_b = nnx.Param(jnp.zeros((lora_rank, outputs), jnp.float32))
        layer.lora_scale = alpha / lora_rank


def _check_targets(targets: Sequence[str] | None) -> None:
    """Refuse what is no sequence of regexes; of a text each letter would be one."""
    expected = "expected a tuple of regexes, such as ('mlp',)."
    if isinstance(targets, str) or not isinstance(targets, Sequence | None):
        raise ValueError(f"lora_targets={targets!r}: {expected}")
    for pattern in targets or ():
        try:
            re.compile(pattern)
        except (re.error, TypeError, RecursionError) as error:
            wrong = f"{pattern!r} is none ({error})"
            raise ValueError(f"lora_targets={targets!r}: {wrong}; {expected}") from None


def _chosen(model: nnx.Module, targets: Sequence[str] | None) -> dict[str, Adaptable]:
    """The layers that targets name, by path."""
    matrices = {path: layer for path, layer in _layers(model) if layer.is_matrix}
    found = {}
    for pattern in TARGETS if targets is None else targets:
        hits = [path for path in matrices if _finds(pattern, path, "kernel")]
        if targets is not None and not hits:
            raise ValueError(_refusal(model, pattern, targets, list(matrices)))
        found |= dict.fromkeys(hits)
    if not found:
        raise ValueError(
            f"lora_targets={targets!r}: the model has no attention to adapt. {_some(matrices)}"
        )
    return {path: layer for path, layer in matrices.items() if path in found}


def _layers(model: nnx.Module) -> Iterator[tuple[str, Adaptable]]:
    """All layers but the head's that may have an adapter, with their paths."""
    for keys, module in nnx.iter_modules(model):
        if isinstance(module, Adaptable) and keys[:1] != ("head",):
            yield ".".join(map(str, keys)), module


def _finds(pattern: str, path: str, leaf: str) -> bool:
    return any(re.search(pattern, each) for each in (path, f"{path}.{leaf}"))


def _refusal(model, pattern: str, targets, matrices: list[str]) -> str:
    """Say what a pattern that names no matrix does name."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    paths = [(".".join(map(str, keys[:-1])), str(keys[-1])) for keys, _ in state]
    hits = [f"{path}.{leaf}".strip(".") for path, leaf in paths if _finds(pattern, path, leaf)]
    start = f"lora_targets={targets!r}: "
    if not hits:
        return f"{start}{pattern!r} is found in no path. {_some(matrices)}"
    more = f" and {len(hits) - 3} more" if len(hits) > 3 else ""
    what = "the head, which trains as a whole" if hits[0].startswith("head") else "no matrices"
    return f"{start}{pattern!r} names {', '.join(hits[:3])}{more}: {what}. {_some(matrices)}"


def _some(matrices: Sequence[str]) -> str:
    names = list(dict.fromkeys(re.sub(r"\.\d+\.", ".0.", f".{path}")[1:] for path in matrices))
    return f"Matrices are, for example: {', '.join(names[:6])}."


def _check_alike(paths: list[str], count: int, targets) -> None:
    """Refuse adapters in some blocks alone where blocks run in a loop."""
    inside = [re.fullmatch(r"blocks\.(\d+)\.(.*)", path) for path in paths]
    by_block = {str(i): set() for i in range(count)}
    for match in filter(None, inside):
        by_block[match[1]].add(match[2])
    if len({frozenset(names) for names in by_block.values()}) > 1:
        raise ValueError(
            f"lora_targets={targets!r}: scan_layers=True needs blocks that are alike, and these "
            "adapt some of them alone: leave one of the two out."
        )


def adapters(model: nnx.Module) -> dict[str, Adaptable]:
    """The layers of a model that have adapters, by path."""
    return {path: layer for path, layer in _layers(model) if layer.lora_a is not None}


def merged(model: nnx.Module) -> nnx.Module:
    """The model with its adapters folded into the kernels: the same function, and a plain model."""
    if not adapters(model):
        return model
    model = nnx.clone(model)
    for layer in adapters(model).values():
        kernel, a, b = (v.get_value() for v in (layer.kernel, layer.lora_a, layer.lora_b))
        if not isinstance(kernel, jax.ShapeDtypeStruct):
            product = layer.lora_scale * jnp.matmul(a, b, precision="highest")
            layer.kernel.set_value(kernel + product.reshape(kernel.shape).astype(kernel.dtype))
        del layer.lora_a, layer.lora_b, layer.lora_scale
    return model
