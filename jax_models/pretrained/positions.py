"""Learned positions at another image size: the rules of five libraries.

Each rule is separable: one matrix [m, n] for each axis takes n positions to m. Prefix tokens, such
as the class token, pass unchanged.
"""

from collections.abc import Callable

import numpy as np

Rule = Callable[[int, int], np.ndarray]


def resize(positions: np.ndarray, grid: int, rule: Rule, *, old: int | None = None) -> np.ndarray:
    """Resize the positions of a square image.

    Args:
      positions: [1,R+n·n,D], R prefix tokens first; the patches row by row.
      grid: m, patches on a side of the new image.
      rule: one of `RULES`.
      old: n; None: the largest that there is room for, which with R > 2n is too large.

    Returns:
      [1,R+m·m,D], in the dtype of the positions, worked out in float64.
    """
    tokens, width = positions.shape[1:]
    old = int(np.sqrt(tokens)) if old is None else old
    prefix = tokens - old * old
    patches = np.asarray(positions[0, prefix:], np.float64).reshape(old, old, width)
    matrix = rule(old, grid)
    rows = np.tensordot(matrix, patches, axes=(1, 0))  # [m,n,D]
    both = np.tensordot(matrix, rows, axes=(1, 1)).transpose(1, 0, 2)  # [m,m,D]
    both = both.reshape(1, grid * grid, width).astype(positions.dtype)
    return np.concatenate([positions[:, :prefix], both], axis=1)


def timm(n: int, m: int) -> np.ndarray:
    """Bicubic (a = -0.5) with antialias, [m,n]; `jax.image.resize(…, "bicubic")` is the same.

    Source: timm.layers.resample_abs_pos_embed. Hugging Face's DINOv2 with registers has it too.
    """
    stretch = max(n / m, 1)
    places = (_centres(n, m)[:, None] - np.arange(n)) / stretch
    weights = _cubic(places, -0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def hugging_face(n: int, m: int) -> np.ndarray:
    """Bicubic (a = -0.75) without antialias, [m,n]; the border goes on outside.

    Source: `interpolate_pos_encoding` of transformers' ViT, DeiT and DINOv2.
    """
    return _taps(n, _centres(n, m), 2, lambda distance: _cubic(distance, -0.75))


def torchvision(n: int, m: int) -> np.ndarray:
    """Bicubic (a = -0.75), corners on corners, [m,n].

    Source: torchvision.models.vision_transformer.interpolate_embeddings.
    """
    return _taps(n, _corners(n, m), 2, lambda distance: _cubic(distance, -0.75))


def google(n: int, m: int) -> np.ndarray:
    """Linear, corners on corners, [m,n].

    Source: google-research/vision_transformer, `scipy.ndimage.zoom(…, order=1)`.
    """
    return _taps(n, _corners(n, m), 1, lambda distance: np.maximum(1 - np.abs(distance), 0))


def timm_npz(n: int, m: int) -> np.ndarray:
    """Linear without antialias, [m,n]: what timm does to Google's files."""
    return _taps(n, _centres(n, m), 1, lambda distance: np.maximum(1 - np.abs(distance), 0))


RULES: dict[str, Rule] = {
    "timm": timm,
    "Hugging Face": hugging_face,
    "torchvision": torchvision,
    "Google": google,
    "timm's for .npz": timm_npz,
}


def _centres(n: int, m: int) -> np.ndarray:
    """Where the m new positions lie among the n old ones, all of them centres of pixels."""
    return (np.arange(m) + 0.5) * (n / m) - 0.5


def _corners(n: int, m: int) -> np.ndarray:
    """The same with the first on the first and the last on the last."""
    return np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0.0)


def _taps(n: int, places: np.ndarray, reach: int, weight: Callable) -> np.ndarray:
    """Weights of the `2·reach` old positions around each place; those outside are the border's."""
    matrix = np.zeros((len(places), n))
    first = np.floor(places).astype(int) - reach + 1
    for tap in range(2 * reach):
        taken = np.clip(first + tap, 0, n - 1)
        np.add.at(matrix, (np.arange(len(places)), taken), weight(places - (first + tap)))
    return matrix


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel. Source: Keys 1981, https://doi.org/10.1109/TASSP.1981.1163711."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
