"""What a trained model looks at, as arrays: attention, filters, feature maps, Grad-CAM.

Drawing is left to `drawing`, `drawing_vit` and `drawing_cnn`. Letters in shapes: B images, L
blocks, h heads, T tokens (the class token first), N = T - 1 patches, M planes of a token map, H and
W pixels, C channels.

A *token map* int [M,H,W] says which patch a pixel belongs to. Square patches need one plane. The
tokens of `raster_vit` are runs of the channels-first memory, so each colour is a plane of its own.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models.cnn import ConvNet
from jax_models.layers import PatchEmbed
from jax_models.vit import VisionTransformer
from jax_train.engine.state import cast
from jax_train.runs.trained import TrainedRun

_BATCH = 32  # images per call where attention is only summed up


class Seen(NamedTuple):
    """What a model makes of B images, all float32 at least.

    Attributes:
      pixels: [B,H,W,C] in [0, 1], as the model gets them: resized, not yet normalised.
      logits: [B,K].
      attention: per block or stage that has any, [B,h,queries,keys].
      features: per block the tokens [B,T,D], or per stage the feature map [B,H',W',C'].
    """

    pixels: np.ndarray
    logits: np.ndarray
    attention: tuple[np.ndarray, ...]
    features: tuple[np.ndarray, ...]

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, [B,K]."""
        exp = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)


def look(run: TrainedRun, images: np.ndarray) -> Seen:
    """Show a run's model raw images uint8 [B,H,W,C], as evaluation in training does."""
    inputs, logits, out = _call(run, images)
    arrays = jax.tree.map(_as_numpy, (logits, out["attention"], out["features"]))
    mean, std = (np.asarray(run.config.data[name]) for name in ("mean", "std"))
    return Seen(np.clip(_as_numpy(inputs) * std + mean, 0, 1), *arrays)


def _call(run, images):
    recipe = run.recipe
    evaluate = recipe.augmentation.evaluate
    return _forward(recipe.graphdef, evaluate, recipe.dtype, run.params, run.stats, images)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _forward(graphdef, evaluate, dtype, params, stats, images):
    model = nnx.merge(graphdef, cast(params, dtype), stats)
    inputs = evaluate(images)
    return inputs, *model(inputs.astype(dtype), return_intermediates=True)


def _as_numpy(array) -> np.ndarray:
    return np.asarray(array.astype(jnp.promote_types(array.dtype, jnp.float32)))


# Attention of Vision Transformers


def class_token_attention(attention: Sequence[np.ndarray]) -> np.ndarray:
    """How much the class token attends to each patch, by block and head.

    Args:
      attention: per block [B,h,T,T].

    Returns:
      [L,B,h,N]. The sum over N lacks what the class token keeps for itself, `attention[...,0,0]`.
    """
    return np.stack([weights[:, :, 0, 1:] for weights in attention])


def rollout(attention: Sequence[np.ndarray]) -> np.ndarray:
    """Attention rollout: how much of each input token is in each token after the last block.

    The mean over the heads stands for a block's mixing; its shortcut adds an identity, and rows are
    scaled to sum to 1 again. The product over the blocks follows the mixing from the input up.
    Source: Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928.

    Args:
      attention: per block [B,h,T,T], the first block first.

    Returns:
      [B,T,T], rows sum to 1; `[:, 0, 1:]` is what the class token has of the patches.
    """
    mixed = np.eye(attention[0].shape[-1])
    for weights in attention:
        step = weights.mean(axis=1) + np.eye(weights.shape[-1])
        mixed = step / step.sum(axis=-1, keepdims=True) @ mixed
    return mixed


def attention_distance(attention: Sequence[np.ndarray], centres: np.ndarray) -> np.ndarray:
    """Mean distance in pixels between a patch and those it attends to, weighted by the attention.

    Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, figure 7, right. The class
    token has no place in the image: its row and column are left out and rows scaled to sum to 1.
    So are patches whose centre is not a number.

    Args:
      attention: per block [B,h,T,T].
      centres: of the patches, [N,2] pixels, see `token_centres`.

    Returns:
      Mean over images and patches, [L,h].
    """
    placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
    distances = pairwise_distances(centres[placed])
    rows = []
    for weights in attention:
        weights = weights[:, :, 1:, 1:][:, :, placed[:, None], placed]
        total = weights.sum(axis=-1, keepdims=True)
        # A patch may attend to nothing but the class token; it then counts as looking at itself.
        shares = weights / np.where(total > 0, total, 1)
        rows.append((shares * distances).sum(axis=-1).mean(axis=(0, 2)))
    return np.stack(rows)


def mean_attention_distance(run: TrainedRun, images: np.ndarray) -> np.ndarray:
    """`attention_distance` [L,h] of a ViT run over raw images uint8 [B,H,W,C]."""
    centres = token_centres(token_map(run.model.patch_embed))
    total = 0.0
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        attention = jax.tree.map(_as_numpy, _call(run, part)[2]["attention"])
        total = total + len(part) * attention_distance(attention, centres)
    return total / len(images)


def pairwise_distances(centres: np.ndarray) -> np.ndarray:
    """Distances [N,N] between points [N,2]; their mean is what even attention would give."""
    return np.linalg.norm(centres[:, None] - centres[None], axis=-1)


# Where the tokens lie


def token_map(embed: PatchEmbed) -> np.ndarray:
    """Which patch each pixel belongs to, from 0 to N - 1: int [M,H,W].

    One plane for square patches; one per colour for runs of the channels-first memory, where one
    token may hold the end of one colour and the start of the next.
    """
    size, p = embed.img_size, embed.patch_size
    if embed.raster:
        places = np.arange(embed.in_channels * size**2)
        return (places // (embed.in_channels * p**2)).reshape(-1, size, size)
    places = np.arange(size) // p
    return (places[:, None] * (size // p) + places)[None]


def paint(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Give each pixel the value of its patch: values [...,N], token map [M,H,W] -> [...,M,H,W]."""
    return values[..., tokens]


def token_centres(tokens: np.ndarray) -> np.ndarray:
    """Centres (row, column) of the patches in pixels, [N,2], of a token map [M,H,W].

    Not a number for a run that goes over from one colour to the next: it lies in two places.
    """
    plane, row, column = np.indices(tokens.shape).reshape(3, -1)
    index, count = tokens.ravel(), np.bincount(tokens.ravel())

    def mean(of):
        return np.bincount(index, of) / count

    centres = np.stack([mean(row), mean(column)], axis=1)
    several = mean(plane**2) - mean(plane) ** 2 > 1e-9
    centres[several] = np.nan
    return centres


def patches_of(images: np.ndarray, embed: PatchEmbed) -> np.ndarray:
    """Cut images [B,H,W,C] as a model does.

    Returns:
      Squares [B,N,P,P,C]; of a model over runs of memory those, [B,N,C·P·P].
    """
    b, h, w, c = images.shape
    p = embed.patch_size
    if embed.raster:
        return images.transpose(0, 3, 1, 2).reshape(b, -1, c * p * p)
    squares = images.reshape(b, h // p, p, w // p, p, c).swapaxes(2, 3)
    return squares.reshape(b, -1, p, p, c)


# Weights


def position_similarity(positions: np.ndarray) -> np.ndarray:
    """Cosine similarity [N,N] of the position embeddings [1,T,D] of the patches.

    Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, figure 7, middle.
    """
    patches = positions[0, 1:]
    lengths = np.linalg.norm(patches, axis=1, keepdims=True)
    unit = patches / np.maximum(lengths, np.finfo(patches.dtype).tiny)
    return unit @ unit.T


def principal_filters(kernel: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the D filters of a patch projection [C·P·P,D].

    Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, figure 7, left.

    Returns:
      (components [k,C·P·P], at most `count`, of length 1 and with their largest value positive;
      share of the variance of each, [k]).
    """
    filters = kernel.T - kernel.T.mean(axis=0)
    _, sizes, components = np.linalg.svd(filters, full_matrices=False)
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    shares = sizes**2 / np.maximum((sizes**2).sum(), np.finfo(sizes.dtype).tiny)
    return (components * signs[:, None])[:count], shares[:count]


def filter_images(filters: np.ndarray, embed: PatchEmbed) -> np.ndarray:
    """Filters [k,C·P·P] of square patches as images [k,P,P,C]."""
    p = embed.patch_size
    return filters.reshape(-1, embed.in_channels, p, p).transpose(0, 2, 3, 1)


# Convolutional networks


def strongest_channels(features: np.ndarray, count: int) -> np.ndarray:
    """The channels of a feature map [H',W',C'] with the largest mean size, strongest first."""
    return np.argsort(-np.abs(features).mean(axis=(0, 1)), kind="stable")[:count]


def grad_cam(
    model: ConvNet, features: np.ndarray, classes: np.ndarray, stage: int = -1
) -> np.ndarray:
    """Grad-CAM: where a stage's feature map speaks for a class.

    The channels, each weighted by the mean gradient of the class's logit with respect to it, are
    added up, and what speaks against the class is cut to 0. Source: Selvaraju et al. 2017,
    https://arxiv.org/abs/1610.02391, equations 1 and 2.

    Args:
      model: in evaluation mode.
      features: output of the stage, [B,H',W',C'].
      classes: whose logit is explained, int [B].
      stage: its number, from 0; negative from the end.

    Returns:
      [B,H',W'], at least 0, in units of the logit.
    """
    return np.asarray(_grad_cam(model, jnp.asarray(features), jnp.asarray(classes), stage))


@functools.partial(nnx.jit, static_argnames="stage")
def _grad_cam(model, features, classes, stage):
    stages = list(model.stages)
    # The rest of the network is a network too, over feature maps instead of images.
    rest = ConvNet(
        stages[stage % len(stages) + 1 :], model.head, in_channels=features.shape[-1],
        flatten=model.flatten, torch_names={},
    )  # fmt: skip

    def score(features):
        return jnp.take_along_axis(rest(features), classes[:, None], axis=1).sum()

    weights = jax.grad(score)(features).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * features).sum(axis=-1))


def stage_pixels(model: ConvNet, stage: int) -> tuple[int, int]:
    """Where a stage's feature map lies on the image: (first pixel, pixels per value).

    Value i of a row or column stands for pixels first + i·step up to first + (i+1)·step. The first
    one is 0 where convolutions pad; without padding each takes a border off.
    """
    first, step = 0, 1
    for part in list(model.stages)[: stage % len(model.stages) + 1]:
        for conv in part.convs:
            first += step * (conv.kernel_size[0] // 2 - conv.padding[0][0])
        step *= 2 if part.pool else 1
    return first, step


def query_attention(attention: np.ndarray, width: int, query: tuple[int, int]) -> np.ndarray:
    """Where a position of a feature map looks, by `conv_layers.SpatialAttention`.

    Args:
      attention: of one image, [1,H'·W',(H'//2)·(W'//2)]; a key is the maximum of 2×2 positions.
      width: W'.
      query: (row, column) in the feature map.

    Returns:
      [H'//2,W'//2], sums to 1.
    """
    row, column = query
    return attention[0, row * width + column].reshape(-1, width // 2)


def has_attention(model: Any) -> bool:
    """Whether a model returns attention."""
    if isinstance(model, ConvNet):
        return any(stage.attention is not None for stage in model.stages)
    return isinstance(model, VisionTransformer)
