"""A small setting of every registered model, and what is known about it beforehand.

Sizes are distinct primes where they fit, so that a swapped axis cannot pass. Every model must have
an entry; the tests that hold for all models then cover it.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jax_models
from jax_models import registry
from tests.with_torch import torch, torch_ref


def whole(gradient):
    """All of a tensor, as a mask."""
    return np.ones_like(gradient, bool)


def key_third(gradient):
    """The keys of a bias [3D] whose rows are queries, keys, values, as a mask."""
    third = gradient.size // 3
    return np.arange(gradient.size) // third == 1


class Small(NamedTuple):
    """A model's small setting.

    Args:
      settings: a value for every constructor keyword.
      image: height and width.
      attention: shape of each attention map, without the batch.
      features: shape of each feature map, without the batch.
      no_gradient: end of a parameter's path -> (mask of the part that theory gives no gradient,
        the reason).
      gated: words of the paths of parameters in front of a ReLU, which may shut some of their
        units for all images of a batch, or none, so that batch norm takes their bias out again.
      misfits: settings that do not fit together -> words the error must hold.
      initial: settings for the comparison of initial weights: enough values in every tensor.
    """

    settings: dict
    image: tuple[int, int]
    attention: tuple[tuple[int, ...], ...]
    features: tuple[tuple[int, ...], ...]
    no_gradient: dict[str, tuple[Callable, str]]
    misfits: list[tuple[dict, list[str]]]
    initial: dict
    gated: tuple[str, ...] = ()


BEFORE_BATCH_NORM = (whole, "batch norm takes the mean out again, and the bias with it")
KEY_BIAS = "it adds the same to all scores of a query: softmax drops it"
FUSED_KEY_BIAS = {"qkv.bias": (key_third, KEY_BIAS)}

SMALL = {
    "vit": Small(
        settings={
            "img_size": 15,
            "in_channels": 2,
            "num_classes": 19,
            "patch_size": 5,
            "embed_dim": 21,
            "depth": 2,
            "num_heads": 3,
            "mlp_dim": 17,
            "dropout": 0.23,
        },
        image=(15, 15),
        attention=((3, 10, 10),) * 2,
        features=((10, 21),) * 2,
        no_gradient=FUSED_KEY_BIAS,
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=15", "1, 3, 5, 15."]),
            ({"img_size": 28, "patch_size": 29}, ["patch_size=29", "1, 2, 4, 7, 14, 28."]),
            ({"num_heads": 4}, ["num_heads=4", "embed_dim=21"]),
        ],
        initial={
            "img_size": 20,
            "patch_size": 4,
            "in_channels": 3,
            "embed_dim": 44,
            "num_heads": 4,
            "depth": 2,
            "mlp_dim": 92,
            "num_classes": 29,
        },
    ),
    "vit_tiny_patch16_224": Small(  # with all that its family may have
        settings={
            "img_size": 14,
            "in_channels": 2,
            "num_classes": 19,
            "patch_size": 7,
            "embed_dim": 22,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 13,
            "dropout": 0.23,
            "drop_path": 0.31,
            "pool": "token_and_avg",
            "norm_eps": 1e-6,
            "class_token": True,
            "distilled": False,
            "registers": 3,
            "cover_prefix": False,
            "layer_scale": 0.7,
            "swiglu": True,
            "fc_norm": None,
        },
        image=(14, 14),
        attention=((2, 8, 8),) * 2,
        features=((8, 22),) * 2,
        no_gradient=FUSED_KEY_BIAS,
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=14", "1, 2, 7, 14."]),
            ({"num_heads": 3}, ["num_heads=3", "embed_dim=22"]),
            ({"pool": "max"}, ["pool='max'", "token, avg, token_and_avg"]),
            ({"distilled": True}, ["pool='token_and_avg'", "distilled"]),
            ({"class_token": False}, ["class_token=False", "pool='token_and_avg'"]),
            ({"fc_norm": True}, ["fc_norm=True", "pool='avg'"]),
            ({"norm_eps": 0}, ["norm_eps=0", "above 0"]),
            ({"registers": 0}, ["registers=0", "at least 1"]),
            ({"layer_scale": -0.1}, ["layer_scale=-0.1", "above 0"]),
        ],
        initial={
            "img_size": 20,
            "patch_size": 4,
            "in_channels": 3,
            "embed_dim": 44,
            "num_heads": 4,
            "depth": 2,
            "mlp_dim": 92,
            "num_classes": 29,
            "swiglu": True,
            "distilled": True,
            "registers": 5,
            "cover_prefix": False,
            "layer_scale": 1e-5,
        },
    ),
    "simple_cnn": Small(
        settings={"in_channels": 2, "num_classes": 19, "widths": (5, 11)},
        image=(13, 9),
        attention=(),
        features=((6, 4, 5), (3, 2, 11)),
        no_gradient={"convs.0.bias": BEFORE_BATCH_NORM, "convs.1.bias": BEFORE_BATCH_NORM},
        misfits=[({"widths": ()}, ["widths=()"])],
        initial={"in_channels": 3, "num_classes": 29, "widths": (23, 31)},
    ),
    "attention_cnn": Small(
        settings={"in_channels": 2, "num_classes": 19, "widths": (24, 16)},
        image=(13, 9),
        attention=((1, 117, 24),) * 2,
        features=((13, 9, 24), (13, 9, 16)),
        no_gradient={"phi.bias": (whole, KEY_BIAS)},
        misfits=[
            ({"widths": ()}, ["widths=()"]),
            ({"widths": (16, 20)}, ["widths: 20 channels", "multiple of 8"]),
        ],
        initial={"in_channels": 3, "num_classes": 29, "widths": (24, 40)},
    ),
    "raster_vit": Small(
        settings={
            "img_size": 15,
            "in_channels": 2,
            "num_classes": 19,
            "patch_size": 5,
            "embed_dim": 21,
            "depth": 2,
            "num_heads": 3,
            "mlp_dim": 17,
        },
        image=(15, 15),
        attention=((3, 10, 10),) * 2,
        features=((10, 21),) * 2,
        no_gradient=FUSED_KEY_BIAS,
        gated=("norm1_in", "qkv", "norm2_in", "mlp."),
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=15", "1, 3, 5, 15."]),
            ({"num_heads": 4}, ["num_heads=4", "embed_dim=21"]),
        ],
        initial={
            "img_size": 12,
            "in_channels": 3,
            "num_classes": 29,
            "patch_size": 3,
            "embed_dim": 28,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 46,
        },
    ),
    "deep_vit": Small(
        settings={
            "img_size": 14,
            "in_channels": 2,
            "num_classes": 19,
            "patch_size": 7,
            "embed_dim": 22,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 13,
            "head_dims": (17,),
            "dropout": 0.23,
        },
        image=(14, 14),
        attention=((2, 5, 5),) * 2,
        features=((5, 22),) * 2,
        no_gradient=FUSED_KEY_BIAS,
        gated=("head.layers",),
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=14", "1, 2, 7, 14."]),
            ({"num_heads": 3}, ["num_heads=3", "embed_dim=22"]),
            ({"head_dims": (17, 11)}, ["head_dims=(17, 11)", "1 hidden"]),
            ({"head_dims": 17}, ["head_dims=17", "1 hidden"]),
        ],
        initial={
            "img_size": 12,
            "in_channels": 3,
            "num_classes": 29,
            "patch_size": 3,
            "embed_dim": 28,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 46,
            "head_dims": (37,),
        },
    ),
    "mnist_cnn": Small(
        settings={
            "img_size": 13,
            "in_channels": 2,
            "num_classes": 19,
            "widths": (5, 11),
            "head_dims": (23,),
            "dropout": 0.23,
            "head_dropout": 0.41,
        },
        image=(13, 13),
        attention=(),
        features=((11, 11, 5), (4, 4, 11)),
        no_gradient={},
        gated=("head.layers",),
        misfits=[
            ({"widths": (5, 11, 3)}, ["widths=(5, 11, 3)", "2 numbers"]),
            ({"head_dims": ()}, ["head_dims=()", "1 hidden"]),
            ({"img_size": 5}, ["img_size=5", "at least 6"]),
        ],
        initial={
            "img_size": 11,
            "in_channels": 3,
            "num_classes": 29,
            "widths": (23, 31),
            "head_dims": (37,),
        },
    ),
    "mnist_vit": Small(
        settings={
            "img_size": 21,
            "in_channels": 2,
            "num_classes": 13,
            "patch_size": 7,
            "embed_dim": 15,
            "depth": 2,
            "num_heads": 3,
            "mlp_dim": 23,
            "head_dims": (17, 11),
            "dropout": 0.23,
        },
        image=(21, 21),
        attention=((3, 10, 10),) * 2,
        features=((10, 15),) * 2,
        no_gradient=FUSED_KEY_BIAS,
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=21", "1, 3, 7, 21."]),
            ({"num_heads": 4}, ["num_heads=4", "embed_dim=15"]),
            ({"head_dims": (17,)}, ["head_dims=(17,)", "2 hidden"]),
        ],
        initial={
            "img_size": 12,
            "in_channels": 3,
            "num_classes": 29,
            "patch_size": 3,
            "embed_dim": 28,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 46,
            "head_dims": (37, 31),
        },
    ),
    "airbench94": Small(
        settings={
            "in_channels": 2,
            "num_classes": 19,
            "widths": (23, 11),
            "depths": (2, 3),
            "norm_momentum": 0.3,
            "norm_eps": 0.01,
            "head_scale": 0.3,
            "unit_head": True,
        },
        image=(15, 11),
        attention=(),
        features=((7, 5, 23), (3, 2, 11)),
        no_gradient={},
        misfits=[
            ({"widths": ()}, ["widths=()"]),
            ({"depths": (2,)}, ["depths=(2,)", "widths=(23, 11)"]),
            ({"norm_eps": 0.0}, ["norm_eps=0.0"]),
            ({"depths": (2, 4)}, ["depths[1]=4", "1, 2 or 3"]),
            ({"norm_momentum": 0.0}, ["norm_momentum=0.0", "above 0"]),
            ({"norm_momentum": 1.5}, ["norm_momentum=1.5", "at most 1"]),
            ({"head_scale": -1.0}, ["head_scale=-1.0", "above 0"]),
            ({"unit_head": 1}, ["unit_head=1", "True or False"]),
        ],
        initial={
            "in_channels": 3,
            "num_classes": 29,
            "widths": (37, 43),
            "depths": (2, 3),
            "unit_head": True,
        },
    ),
    "cct_2_3x2": Small(
        settings={
            "img_size": 13,
            "in_channels": 2,
            "num_classes": 19,
            "embed_dim": 21,
            "depth": 2,
            "num_heads": 3,
            "mlp_dim": 17,
            "conv_layers": 2,
            "conv_size": 3,
            "positions": "learned",
            "dropout": 0.23,
            "attention_dropout": 0.17,
            "drop_path": 0.31,
        },
        image=(13, 13),
        attention=((3, 16, 16),) * 2,
        features=((16, 21),) * 2,
        no_gradient={"pool.score.bias": (whole, KEY_BIAS)},
        gated=("patch_embed",),
        misfits=[
            ({"num_heads": 4}, ["num_heads=4", "embed_dim=21"]),
            ({"positions": "sin"}, ["positions='sin'", "learned, sine"]),
        ],
        initial={
            "img_size": 12,
            "in_channels": 3,
            "num_classes": 29,
            "embed_dim": 28,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 46,
        },
    ),
    "sl_vit": Small(
        settings={
            "img_size": 14,
            "in_channels": 2,
            "num_classes": 19,
            "patch_size": 7,
            "embed_dim": 22,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 13,
            "dropout": 0.23,
            "drop_path": 0.31,
        },
        image=(14, 14),
        attention=((2, 5, 5),) * 2,
        features=((5, 22),) * 2,
        no_gradient={},
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=14", "1, 2, 7, 14."]),
            ({"patch_size": 1}, ["patch_size=1", "at least 2"]),
            ({"num_heads": 3}, ["num_heads=3", "embed_dim=22"]),
        ],
        initial={
            "img_size": 12,
            "in_channels": 3,
            "num_classes": 29,
            "patch_size": 3,
            "embed_dim": 28,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 46,
        },
    ),
    "resnet18": Small(
        settings={
            "in_channels": 2,
            "num_classes": 19,
            "depths": (1, 2),
            "widths": (5, 11),
            "block": "bottleneck",
            "stem": "imagenet",
            "drop_path": 0.23,
        },
        image=(29, 23),
        attention=(),
        features=((8, 6, 20), (4, 3, 44)),
        no_gradient={},
        gated=("stem.norm.bias",),
        misfits=[
            ({"widths": ()}, ["widths=()"]),
            ({"depths": (2,)}, ["depths=(2,)", "widths=(5, 11)"]),
            ({"block": "wide"}, ["block='wide'", "basic, bottleneck"]),
            ({"stem": "tiny"}, ["stem='tiny'", "imagenet, cifar"]),
        ],
        initial={
            "in_channels": 3,
            "num_classes": 29,
            "depths": (1, 2),
            "widths": (23, 31),
            "block": "bottleneck",
        },
    ),
    "convnext_tiny": Small(
        settings={
            "in_channels": 2,
            "num_classes": 19,
            "depths": (1, 2),
            "widths": (5, 11),
            "norm_eps": 1e-6,
            "head_norm_eps": None,
            "drop_path": 0.23,
        },
        image=(41, 35),
        attention=(),
        features=((10, 8, 5), (5, 4, 11)),
        no_gradient={},
        misfits=[
            ({"widths": ()}, ["widths=()"]),
            ({"depths": (2,)}, ["depths=(2,)", "widths=(5, 11)"]),
        ],
        initial={"in_channels": 3, "num_classes": 29, "depths": (1, 2), "widths": (23, 31)},
    ),
    "mlp_head_vit": Small(
        settings={
            "img_size": 15,
            "in_channels": 2,
            "num_classes": 19,
            "patch_size": 3,
            "embed_dim": 14,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 11,
            "head_dims": (23, 17),
            "dropout": 0.23,
            "head_dropout": 0.41,
        },
        image=(15, 15),
        attention=((2, 26, 26),) * 2,
        features=((26, 14),) * 2,
        no_gradient=FUSED_KEY_BIAS,
        misfits=[
            ({"patch_size": 4}, ["patch_size=4", "img_size=15", "1, 3, 5, 15."]),
            ({"num_heads": 3}, ["num_heads=3", "embed_dim=14"]),
            ({"head_dims": (23,)}, ["head_dims=(23,)", "2 hidden"]),
        ],
        initial={
            "img_size": 12,
            "in_channels": 3,
            "num_classes": 29,
            "patch_size": 3,
            "embed_dim": 28,
            "depth": 2,
            "num_heads": 4,
            "mlp_dim": 46,
            "head_dims": (37, 31),
        },
    ),
}

COVERED = sorted(SMALL)  # at least one name of each family: test_models.py fails otherwise


# (name, keyword) of every rate of dropout.
RATES = [
    (name, key)
    for name in COVERED
    for key in ("dropout", "attention_dropout", "head_dropout", "drop_path")
    if key in SMALL[name].settings
]


def build(name: str, seed: int = 0, **changes) -> nnx.Module:
    """A new small model of random values, see `drawn`."""
    return drawn(empty(name, **changes), seed)


def empty(name: str, **changes) -> nnx.Module:
    """A new small model without values."""
    return registry.abstract_model(name, **(SMALL[name].settings | changes))


def drawn(model: nnx.Module, seed: int = 0) -> nnx.Module:
    """Fill an abstract model with random values, none where models start; without JAX, at once."""
    random = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        noise, leaf = random.normal(size=variable.shape), path[-1]
        if leaf == "kernel":
            values = noise / math.sqrt(math.prod(variable.shape[:-1]))
        elif leaf in ("scale", "gamma", "var"):
            values = 1 + abs(noise) / 5
        elif jnp.issubdtype(variable.dtype, jnp.floating):
            values = noise / 5
        else:
            values = np.zeros(variable.shape)
        variable.set_value(jnp.asarray(values.astype(variable.dtype)))
    return model


def mirror_of(name: str, **settings) -> "torch.nn.Module":
    """The mirror of a model, at the sizes of its name but for the settings."""
    keywords = jax_models.model_keywords(name) | settings
    return torch_ref.create_model(jax_models.family(name), **keywords)


def build_mirror(name: str, seed: int = 0, **changes) -> "torch.nn.Module":
    """A new small mirror, with random values in place of ones and zeros."""
    torch.manual_seed(seed)
    mirror = mirror_of(name, **(SMALL[name].settings | changes))
    for key, tensor in mirror.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape) / 7).abs_()
        else:
            tensor.add_(len(key))
    return mirror


@functools.cache
def shared(name: str) -> nnx.Module:
    """One small model for all tests that do not change it."""
    return build(name)


abstract = functools.cache(registry.abstract_model)


def count(model: nnx.Module, kind: type = nnx.Param) -> int:
    """How many values a model has in variables of a kind."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(model, kind)))


def draw_images(name: str, batch: int = 7, seed: int = 0) -> jax.Array:
    """Random images [batch,H,W,C] for a small model."""
    shape = (batch, *SMALL[name].image, SMALL[name].settings["in_channels"])
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bits(model: nnx.Module) -> dict[str, tuple]:
    """Path -> dtype, shape and bytes of every variable."""
    return {
        ".".join(map(str, path)): (str(v.dtype), v.shape, np.asarray(v.get_value()).tobytes())
        for path, v in nnx.to_flat_state(nnx.state(model))
    }
