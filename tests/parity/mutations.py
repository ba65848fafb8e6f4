"""Models broken on purpose, and the rungs that have to notice.

Shown in float64, on the case with prime sizes: an epsilon of 1e-6 for 1e-5 can hide below float32
rounding.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jax_models import cnn, conv_layers, layers, ops, vit
from jax_models.cpu import functions
from tests.parity.cases import CASES, PRIME
from tests.parity.ladder import climb


class Mutation(NamedTuple):
    """A way to break a model.

    Attributes:
      model: its name.
      must_break: rungs that have to exceed their bar.
      change: breaks a model in place.
      context: breaks the code while the model runs.
    """

    model: str
    must_break: tuple[str, ...]
    change: Callable[[nnx.Module], None] = lambda model: None
    context: Callable = contextlib.nullcontext


def set_everywhere(kind: type, attribute: str, value) -> Callable:
    """Set an attribute of all layers of a kind."""

    def change(model):
        for _, module in nnx.iter_modules(model):
            if isinstance(module, kind):
                setattr(module, attribute, value)

    return change


def change_kernel(path: str, function: Callable) -> Callable:
    """Replace one variable by a function of it."""

    def change(model):
        state = dict(nnx.to_flat_state(nnx.state(model)))
        variable = state[tuple(int(k) if k.isdigit() else k for k in path.split("."))]
        variable.set_value(function(variable.get_value()))

    return change


def swap_query_heads(kernel):
    """[D,3D]: exchange the first two heads of the queries of a ViT with 3 heads of 13."""
    return jnp.concatenate([kernel[:, 13:26], kernel[:, :13], kernel[:, 26:]], axis=1)


def transpose_patches(kernel):
    """[C·7·7,D]: exchange rows and columns inside a patch of 2 channels."""
    return kernel.reshape(2, 7, 7, -1).transpose(0, 2, 1, 3).reshape(kernel.shape)


def heads_outermost(kernel):
    """[D,3D]: as if the columns were [heads, 3, width] and not [3, heads, width]."""
    return kernel.reshape(-1, 3, 3, 13).swapaxes(1, 2).reshape(kernel.shape)


def swap_halves(kernel):
    """[D,2F]: what is gated in place of the gate."""
    return jnp.concatenate(jnp.split(kernel, 2, axis=1)[::-1], axis=1)


def positions_for_registers(model):
    """Positions also for the tokens before the patches."""
    positions = model.pos_embed[...]
    count = model.pool.prefix
    model.pos_embed = nnx.Param(jnp.concatenate([positions[:, :count], positions], axis=1))
    model.cover_prefix = True


@contextlib.contextmanager
def replaced(owner, name: str, function: Callable):
    """Replace an attribute for a while; the function is given the original."""
    original = getattr(owner, name)
    setattr(owner, name, function(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def tanh_gelu():
    """The approximation that `jax.nn.gelu` computes by default."""
    return replaced(functions, "gelu", lambda _: lambda x: jax.nn.gelu(x, approximate=True))


def heads_last():
    """Split heads dimension-major instead of head-major."""

    def wrong(right):
        def attend(q, k, v, **keywords):
            q, k, v = (x.reshape(*x.shape[:2], -1, x.shape[2]).swapaxes(2, 3) for x in (q, k, v))
            return right(q, k, v, **keywords)

        return attend

    return replaced(ops, "attend", wrong)


def one_head_alone():
    """Read the class token alone, as if there were no second head."""

    def wrong(right):
        def call(self, x, **how):
            return self.heads[0](x[:, 0], **how) + 0 * right(self, x, **how)

        return call

    return replaced(layers.MeanHead, "__call__", wrong)


def unscaled_branches():
    """Leave branches out without scaling those that are kept."""

    def wrong(right):
        def call(self, x, **how):
            return right(self, x, **how) * (1 - self.rate * how["train"])

        return call

    return replaced(layers.DropPath, "__call__", wrong)


def scaled_scores():
    """Scale the scores of the spatial attention, whose source does not."""

    def wrong(right):
        return lambda q, k, v, scale, **rest: right(q, k, v, scale=q.shape[-1] ** -0.5, **rest)

    return replaced(ops, "attend", wrong)


def biased_variance():
    """Keep the biased variance of a batch, as `nnx.BatchNorm` does."""

    def wrong(right):
        def track(self, x, mean, var):
            count = 3 * 23 * 29  # exact for the first stage only, which is enough
            right(self, x, mean, var * ((count - 1) / count))

        return track

    return replaced(conv_layers.BatchNorm, "_track", wrong)


def same_padding():
    """Pad strided convolutions as "SAME" does, which shifts maps of an even size by a pixel."""

    def wrong(right):
        def convolution(x, kernel, bias, padding, *, stride=1, **rest):
            if stride > 1 and padding:
                total = [
                    max((-(-side // stride) - 1) * stride + size - side, 0)
                    for side, size in zip(x.shape[1:3], kernel.shape[:2], strict=True)
                ]
                sides = [(t // 2, t - t // 2) for t in total]
                x, padding = jnp.pad(x, ((0, 0), *sides, (0, 0))), 0
            return right(x, kernel, bias, padding, stride=stride, **rest)

        return convolution

    return replaced(ops, "convolution", wrong)


def norm_on_the_branch():
    """As in other pre-norm blocks: the second norm is of what the MLP reads alone."""

    def wrong(right):
        def call(self, x, *, maps=True, queries=None, **how):
            y, weights = self.attn(self.norm1_in(x), **how, maps=maps, queries=queries)
            x = x + y
            return x + self.mlp(self.norm1_out(x), **how), weights

        return call

    return replaced(vit.Block, "__call__", wrong)


def every_token():
    """Let tokens attend to themselves."""

    def wrong(right):
        return lambda *args, **how: right(*args, **how | {"others_only": False})

    return replaced(ops, "attention", wrong)


def without_layer_scale(model):
    """Branches that are added as they are."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "gamma"):
            module.gamma[...] = jnp.ones_like(module.gamma[...])


_GRADIENTS = ("train-mode logits", "gradients of the parameters", "gradient of the images")
_TRAINING = (
    "recipe, loss of the first 5 steps",
    "recipe, loss of 100 steps",
    "recipe, parameters after 100 steps",
)
_WHOLE = ("features", "logits", "each block alone", *_GRADIENTS)
_DROPOUT = ("dropout with equal masks: logits", "dropout with equal masks: gradients")

MUTATIONS: dict[str, Mutation] = {
    "tanh GELU": Mutation("vit", (*_WHOLE, *_DROPOUT, *_TRAINING), context=tanh_gelu),
    "layer norm epsilon 1e-6": Mutation(
        "vit", (*_WHOLE, *_DROPOUT, "attention"), set_everywhere(nnx.LayerNorm, "epsilon", 1e-6)
    ),
    "layer norm epsilon 1e-5 for 1e-6": Mutation(
        "mlp_head_vit", (*_WHOLE, *_DROPOUT), set_everywhere(nnx.LayerNorm, "epsilon", 1e-5)
    ),
    "batch norm epsilon 1e-6": Mutation(
        "simple_cnn", _WHOLE, set_everywhere(conv_layers.BatchNorm, "epsilon", 1e-6)
    ),
    "batch norm momentum 0.99": Mutation(
        "simple_cnn",
        ("running statistics, 3 steps", "recipe, parameters after 100 steps"),
        set_everywhere(conv_layers.BatchNorm, "momentum", 0.01),
    ),
    "biased running variance": Mutation(
        "simple_cnn",
        ("running statistics, 3 steps", "recipe, parameters after 100 steps"),
        context=biased_variance,
    ),
    "transposed linear kernel": Mutation(
        "vit", _WHOLE, change_kernel("blocks.1.attn.projection.kernel", jnp.transpose)
    ),
    "transposed convolution kernel": Mutation(
        "simple_cnn",
        (*_WHOLE, "running statistics, 3 steps"),
        change_kernel("stages.1.convs.1.kernel", lambda k: k.transpose(1, 0, 2, 3)),
    ),
    "transposed patch kernel": Mutation(
        "vit",
        ("embedding", "features", "logits", "attention", *_GRADIENTS),
        change_kernel("patch_embed.projection.kernel", transpose_patches),
    ),
    "swapped query heads": Mutation(
        "vit",
        (*_WHOLE, "attention"),
        change_kernel("blocks.1.attn.qkv.kernel", swap_query_heads),
    ),
    "heads split dimension-major": Mutation("vit", (*_WHOLE, "attention"), context=heads_last),
    "spatial patches for raster tokens": Mutation(
        "raster_vit",
        ("embedding", "features", "logits", *_GRADIENTS),
        set_everywhere(layers.PatchEmbed, "raster", False),
    ),
    "no ReLU after the norms": Mutation(
        "raster_vit",
        _WHOLE,
        lambda model: [setattr(block, "in_activation", layers.identity) for block in model.blocks],
    ),
    "no activation after the embedding": Mutation(
        "deep_vit",
        ("embedding", "features", "logits", *_GRADIENTS),
        lambda model: setattr(model, "embed_activation", layers.identity),
    ),
    "columns of the tokens not normalised": Mutation(
        "mnist_vit",
        ("embedding", "features", "logits", *_GRADIENTS),
        lambda model: setattr(model, "unit_columns", False),
    ),
    "tanh after the wrong head layer": Mutation(
        "mnist_vit",
        ("logits", *_GRADIENTS),
        lambda model: setattr(model.head, "activations", (jnp.tanh, layers.identity)),
    ),
    "no activation after the second MLP layer": Mutation(
        "mlp_head_vit",
        (*_WHOLE, *_DROPOUT),
        lambda model: [
            setattr(block.mlp, "out_activation", layers.identity) for block in model.blocks
        ],
    ),
    "tanh GELU of a standard ViT": Mutation(
        "deit_tiny_distilled_patch16_224", _WHOLE, context=tanh_gelu
    ),
    "layer norm epsilon 1e-5 of a standard ViT": Mutation(
        "deit_tiny_distilled_patch16_224", _WHOLE, set_everywhere(nnx.LayerNorm, "epsilon", 1e-5)
    ),
    "queries, keys and values split head-first": Mutation(
        "deit_tiny_distilled_patch16_224",
        (*_WHOLE, "attention"),
        change_kernel("blocks.1.attn.qkv.kernel", heads_outermost),
    ),
    "the class token's head alone": Mutation(
        "deit_tiny_distilled_patch16_224",
        ("logits", *_GRADIENTS),
        context=one_head_alone,
    ),
    "branches left out without scaling the others": Mutation(
        "deit_tiny_distilled_patch16_224", _DROPOUT, context=unscaled_branches
    ),
    "registers under positions": Mutation(
        "vit_small_patch14_reg4_dinov2",
        ("embedding", "features", "logits", "attention"),
        positions_for_registers,
    ),
    "registers in the mean": Mutation(
        "vit_small_patch14_reg4_dinov2",
        ("logits", *_GRADIENTS),
        lambda model: setattr(model.pool, "prefix", 1),
    ),
    "gate and values exchanged": Mutation(
        "vit_small_patch14_reg4_dinov2",
        _WHOLE,
        change_kernel("blocks.1.mlp.fc1.kernel", swap_halves),
    ),
    "the second norm of a CCT on its branch": Mutation(
        "cct_2_3x2", _WHOLE, context=norm_on_the_branch
    ),
    "the plain mean of a CCT's tokens": Mutation(
        "cct_2_3x2",
        ("logits", *_GRADIENTS),
        change_kernel("pool.score.kernel", jnp.zeros_like),
    ),
    "tokens that attend to themselves": Mutation(
        "sl_vit", (*_WHOLE, *_DROPOUT, "attention"), context=every_token
    ),
    "shifts in another order": Mutation(
        "sl_vit",
        ("embedding", "features", "logits", *_GRADIENTS),
        set_everywhere(layers.PatchEmbed, "SHIFTS", layers.PatchEmbed.SHIFTS[::-1]),
    ),
    "flattened channels last": Mutation(
        "mnist_cnn",
        ("logits", *_GRADIENTS, *_DROPOUT),
        change_kernel(
            "head.layers.0.kernel",
            lambda k: k.reshape(7, 6, 6, -1).transpose(1, 2, 0, 3).reshape(k.shape),
        ),
    ),
    "batch norm epsilon 1e-5 in an airbench": Mutation(
        "airbench94", _WHOLE, set_everywhere(conv_layers.BatchNorm, "epsilon", 1e-5)
    ),
    "the mean of each channel before airbench's head": Mutation(
        "airbench94",
        ("logits", *_GRADIENTS),
        lambda model: setattr(model, "pool", cnn.channel_means),
    ),
    "SAME padding of strided convolutions": Mutation(
        "resnet18", (*_WHOLE, *_DROPOUT, "running statistics, 3 steps"), context=same_padding
    ),
    "batch norm momentum 0.99 in a ResNet": Mutation(
        "resnet18",
        ("running statistics, 3 steps",),
        set_everywhere(conv_layers.BatchNorm, "momentum", 0.01),
    ),
    "layer norm epsilon 1e-5 in a ConvNeXt": Mutation(
        "convnext_tiny",
        ("embedding", *_WHOLE, *_DROPOUT),
        set_everywhere(nnx.LayerNorm, "epsilon", 1e-5),
    ),
    "no layer scale": Mutation("convnext_tiny", (*_WHOLE, *_DROPOUT), without_layer_scale),
    "scaled spatial attention": Mutation(
        "attention_cnn", (*_WHOLE, "attention"), context=scaled_scores
    ),
}


def measure_mutations() -> dict[str, dict[str, float]]:
    """Errors of the broken models, on the rungs that have to notice."""
    errors = {}
    for name, mutation in MUTATIONS.items():
        with mutation.context():
            cases = CASES[mutation.model][PRIME : PRIME + 1]
            errors[name] = climb(mutation.model, cases, mutation.change, mutation.must_break)
    return errors
