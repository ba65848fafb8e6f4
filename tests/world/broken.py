"""This project's models broken on purpose, held against the libraries: each has to be noticed."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from flax import nnx

from jax_models import conv_layers
from jax_models.tokens import Pool
from tests.parity import mutations
from tests.parity.mutations import change_kernel, set_everywhere
from tests.world import of_originals, of_timm, of_torchvision, of_transformers
from tests.world.climb import climb, evaluation, training


class Broken(NamedTuple):
    """A way to break a model.

    Attributes:
      library: module whose case it is.
      name: of the case.
      rung: that has to exceed its bar.
      change: breaks a model in place.
      context: breaks the code while the model runs.
    """

    library: object
    name: str
    rung: str
    change: Callable[[nnx.Module], None] = lambda model: None
    context: Callable = contextlib.nullcontext


def _head_norm(model):
    model.head.norm.epsilon = 1e-6


def _norm_after_the_mean(model):
    model.pool = Pool("avg", prefix=0, fc_norm=model.pool.norm)


_DINOV2 = "Dinov2WithRegistersForImageClassification"
_QKV = "blocks.1.attn.qkv.kernel"
_VIT = "vit_tiny_patch16_224"
_EPS = set_everywhere(nnx.LayerNorm, "epsilon", 1e-5)
BROKEN = {
    "tanh GELU": Broken(of_timm, _VIT, "logits", context=mutations.tanh_gelu),
    "tanh GELU in a ConvNeXt": Broken(
        of_timm, "convnext_tiny", "logits", context=mutations.tanh_gelu
    ),
    "layer norm epsilon 1e-5 for 1e-6": Broken(of_timm, _VIT, "logits", _EPS),
    "layer norm epsilon 1e-6 for 1e-12": Broken(
        of_transformers,
        "ViTForImageClassification",
        "logits",
        set_everywhere(nnx.LayerNorm, "epsilon", 1e-6),
    ),
    "epsilon 1e-6 for 1e-12 in the last norm of a ConvNeXt": Broken(
        of_transformers, "ConvNextForImageClassification", "logits", _head_norm
    ),
    "queries, keys and values split head-first": Broken(
        of_timm, _VIT, "attention", change_kernel(_QKV, mutations.heads_outermost)
    ),
    "registers under positions": Broken(
        of_timm, "vit_small_patch14_reg4_dinov2", "logits", mutations.positions_for_registers
    ),
    "registers in the mean": Broken(
        of_transformers, _DINOV2, "logits", lambda model: setattr(model.pool, "prefix", 1)
    ),
    "the last norm after the mean": Broken(
        of_originals, f"{_VIT}, pool gap, scanned", "logits", _norm_after_the_mean
    ),
    "one head of two": Broken(
        of_timm, "deit_tiny_distilled_patch16_224", "logits", context=mutations.one_head_alone
    ),
    "no layer scale": Broken(
        of_timm, "deit3_small_patch16_224", "logits", mutations.without_layer_scale
    ),
    "SAME padding of strided convolutions": Broken(
        of_torchvision, "ResNet, BasicBlock", "logits", context=mutations.same_padding
    ),
    "batch norm epsilon 1e-6": Broken(
        of_timm, "resnet50", "logits", set_everywhere(conv_layers.BatchNorm, "epsilon", 1e-6)
    ),
    "batch norm momentum 0.99": Broken(
        of_torchvision,
        "ResNet, Bottleneck",
        "batch norm",
        set_everywhere(conv_layers.BatchNorm, "momentum", 0.01),
    ),
}


def measure_broken() -> dict[str, dict[str, float | str]]:
    """The error of each broken model on the rung that has to notice."""
    found = {}
    for name, broken in BROKEN.items():
        case = next(case for case in broken.library.cases() if case.name == broken.name)
        with broken.context():
            measures = [training if broken.rung == "batch norm" else evaluation]
            error = climb(case, broken.change, measures)[broken.rung]
        found[name] = {"model": f"{case.library} {case.name}", "rung": broken.rung, "error": error}
        print(f"broken: {name}: {broken.rung} {error:.0e}", flush=True)
    return found
