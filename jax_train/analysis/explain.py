"""What a trained model looks at, as arrays: attention, filters, feature maps, Grad-CAM.

Drawing is left to `drawing`. Letters in shapes: B images, L blocks, h heads, T tokens (the class
token first, the N patches last, in some models others between), M planes of a token map, H and W
pixels, C channels.

A *token map* int [M,H,W] says which patch a pixel belongs to: `values[..., tokens]` gives each
pixel the value of its patch. Square patches need one plane. The tokens of `raster_vit` are runs of
the channels-first memory, so each colour is a plane of its own.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models.cct import ConvEmbed
from jax_models.layers import PatchEmbed
from jax_models.tokens import SequencePool
from jax_train.runs.trained import TrainedRun

_BATCH = 32  # images per call where attention is only summed up


class Intermediates(NamedTuple):
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
        return np.asarray(jax.nn.softmax(self.logits))


def forward(run: TrainedRun, images: np.ndarray) -> Intermediates:
    """Show a run's model raw images uint8 [B,H,W,C], as evaluation in training does."""
    inputs, logits, out = _forward(run.recipe, run.params, run.stats, images)
    arrays = jax.tree.map(_as_numpy, (logits, out["attention"], out["features"]))
    mean, std = (np.asarray(run.config.data[name]) for name in ("mean", "std"))
    return Intermediates(np.clip(_as_numpy(inputs) * std + mean, 0, 1), *arrays)


@functools.partial(jax.jit, static_argnums=0)
def _forward(recipe, params, stats, images):
    inputs = recipe.augmentation.evaluate(images)
    model = recipe.merge(params, stats)
    return inputs, *model(inputs.astype(recipe.dtype), return_intermediates=True)


def _as_numpy(array) -> np.ndarray:
    return np.asarray(array.astype(jnp.promote_types(array.dtype, jnp.float32)))


# Attention of Vision Transformers


def of_patches(
    shares: np.ndarray, patches: int, class_token: bool = True, counts: np.ndarray | None = None
) -> np.ndarray:
    """What the class token has of each of N `patches`: [B,...,T,T] -> [B,...,N].

    Without a class token it is the mean over the patches, which the head then reads, or the one
    that is weighted by `counts` [B,T], see `token_counts`. The sum over N lacks what goes to the
    tokens before the patches.
    """
    rows = shares[..., -patches:]
    if counts is not None:
        return np.einsum("b...qk,bq->b...k", rows, counts)
    return rows[..., 0, :] if class_token else rows[..., -patches:, :].mean(axis=-2)


def token_counts(model: nnx.Module, tokens: np.ndarray) -> np.ndarray | None:
    """What each token after the last block, [B,T,D], counts in the mean that a head reads.

    Returns:
      [B,T], of sum 1; None where the head reads no weighted mean.
    """
    if not isinstance(model.pool, SequencePool):
        return None
    return _as_numpy(model.pool.weights(jnp.asarray(tokens)))


def rollout(attention: Sequence[np.ndarray]) -> np.ndarray:
    """Attention rollout: how much of each input token is in each token after the last block.

    The mean over the heads of a block's attention [B,h,T,T] stands for its mixing; its shortcut
    adds an identity, and rows are scaled to sum to 1 again. The product over the blocks, the first
    one first, follows the mixing from the input up.
    Source: Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928.

    Returns:
      [B,T,T], rows sum to 1; see `of_patches`.
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
      centres: [N,2] pixels, see `token_centres`.

    Returns:
      Mean over images and patches, [L,h].
    """
    count, placed = len(centres), np.flatnonzero(np.isfinite(centres).all(axis=1))
    distances = pairwise_distances(centres[placed])
    rows = []
    for weights in attention:
        weights = weights[:, :, -count:, -count:][:, :, placed[:, None], placed]
        total = weights.sum(axis=-1, keepdims=True)
        # A patch may attend to no other patch; it then counts as looking at itself.
        shares = weights / np.where(total > 0, total, 1)
        rows.append((shares * distances).sum(axis=-1).mean(axis=(0, 2)))
    return np.stack(rows)


def mean_attention_distance(run: TrainedRun, images: np.ndarray) -> np.ndarray:
    """`attention_distance` [L,h] of a ViT run over raw images uint8 [B,H,W,C]."""
    centres = token_centres(token_map(run.model.patch_embed))
    total = 0.0
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        _, _, out = _forward(run.recipe, run.params, run.stats, part)
        attention = jax.tree.map(_as_numpy, out["attention"])
        total = total + len(part) * attention_distance(attention, centres)
    return total / len(images)


def pairwise_distances(centres: np.ndarray) -> np.ndarray:
    """Distances [N,N] between points [N,2]; their mean is what even attention would give."""
    return np.linalg.norm(centres[:, None] - centres[None], axis=-1)


# Where the tokens lie


def token_map(embed: PatchEmbed | ConvEmbed) -> np.ndarray:
    """Which patch each pixel belongs to, from 0 to N - 1: int [M,H,W].

    One plane for square patches; one per colour for runs of the channels-first memory, where one
    token may hold the end of one colour and the start of the next. Of tokens that see more than
    their own pixels it is the nearest.
    """
    size = embed.img_size
    if embed.raster:
        places = np.arange(embed.in_channels * size**2)
        return (places // (embed.in_channels * embed.patch_size**2)).reshape(-1, size, size)
    first, step, _ = embed.token_pixels
    places = np.floor((np.arange(size) + 0.5 - first) / step).astype(int)
    places = np.clip(places, 0, embed.grid - 1)
    return (places[:, None] * embed.grid + places)[None]


def token_centres(tokens: np.ndarray) -> np.ndarray:
    """Centres (row, column) of the patches in pixels, [N,2], of a token map [M,H,W].

    Not a number for a run that goes over from one colour to the next: it lies in two places.
    """
    plane, row, column = np.indices(tokens.shape).reshape(3, -1)

    def mean(of):
        return np.bincount(tokens.ravel(), of) / np.bincount(tokens.ravel())

    centres = np.stack([mean(row), mean(column)], axis=1)
    centres[mean(plane**2) - mean(plane) ** 2 > 1e-9] = np.nan
    return centres


# Weights


def position_similarity(positions: np.ndarray) -> np.ndarray:
    """Cosine similarity [N,N] of the position embeddings [N,D] of the patches.

    Source: Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929, figure 7, middle.
    """
    lengths = np.linalg.norm(positions, axis=1, keepdims=True)
    unit = positions / np.maximum(lengths, np.finfo(positions.dtype).tiny)
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


def squares(flat: np.ndarray, embed: PatchEmbed) -> np.ndarray:
    """Square patches, or filters of them, [k,C·P·P] as images [k,P,P,C].

    Filters of shifted patches, [k,P·P·5·C], as images [k,S,S,C] of all that they see, where what
    looks at the same pixel is added up.
    """
    p, c, s = embed.patch_size, embed.in_channels, embed.shift
    if not s:
        return flat.reshape(-1, c, p, p).transpose(0, 2, 3, 1)
    parts = flat.reshape(-1, p, p, len(embed.SHIFTS), c)
    whole = np.zeros((len(flat), p + 2 * s, p + 2 * s, c), flat.dtype)
    for number, (down, right) in enumerate(embed.SHIFTS):
        i, j = s + s * down, s + s * right
        whole[:, i : i + p, j : j + p] += parts[:, :, :, number]
    return whole


# Convolutional networks


def strongest_channels(features: np.ndarray, count: int) -> np.ndarray:
    """The channels of a feature map [H',W',C'] with the largest mean size, strongest first."""
    return np.argsort(-np.abs(features).mean(axis=(0, 1)), kind="stable")[:count]


def grad_cam(
    model: nnx.Module, features: np.ndarray, classes: np.ndarray, stage: int = -1
) -> np.ndarray:
    """Grad-CAM: where a stage's feature map speaks for a class.

    The channels, each weighted by the mean gradient of the class's logit with respect to it, are
    added up, and what speaks against the class is cut to 0. Source: Selvaraju et al. 2017,
    https://arxiv.org/abs/1610.02391, equations 1 and 2.

    Args:
      model: with `stages` and `after`, such as a ConvNet; it computes in the dtype of its weights.
      features: output of the stage, [B,H',W',C'].
      classes: whose logit is explained, int [B].
      stage: its number, from 0; negative from the end.

    Returns:
      [B,H',W'], at least 0, in units of the logit.
    """
    dtype = jax.tree.leaves(nnx.state(model, nnx.Param))[0].dtype
    stage %= len(model.stages)
    return _as_numpy(_grad_cam(model, jnp.asarray(features, dtype), jnp.asarray(classes), stage))


@functools.partial(nnx.jit, static_argnames="stage")
def _grad_cam(model, features, classes, stage):
    def score(features):
        logits = model.after(stage, features)
        return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()

    weights = jax.grad(score)(features).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * features).sum(axis=-1))


def query_attention(attention: np.ndarray, width: int, query: tuple[int, int]) -> np.ndarray:
    """Where a position of a feature map looks, [H'//2,W'//2] with sum 1; see `SpatialAttention`.

    Args:
      attention: of one image, [1,H'·W',(H'//2)·(W'//2)]; a key is the maximum of 2×2 positions.
      width: W'.
      query: (row, column) in the feature map.
    """
    row, column = query
    return attention[0, row * width + column].reshape(-1, width // 2)
