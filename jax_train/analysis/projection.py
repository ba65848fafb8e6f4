"""Features in the plane: near each other what is alike, for a picture of many images."""

import numpy as np

from jax_train.errors import UserError
from jax_train.printing import counted

NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "The first two principal components"}
_LEAST = 5  # images
_DIMENSIONS = 50  # that are left before t-SNE and UMAP, as their authors advise
_NEIGHBOURS = 30  # of t-SNE the perplexity; fewer of few images


def check(method: str) -> None:
    """Check that a method can be used, before features are made.

    Raises:
      UserError: its library is not installed.
    """
    if method == "umap":
        _umap()


def check_count(count: int) -> None:
    """Raise a UserError where there are too few images for a picture."""
    if count < _LEAST:
        raise UserError(
            f"--map: there is nothing to be seen in {counted(count, 'image')}; expected at least "
            f"{_LEAST}. Name more images."
        )


def _umap():
    try:
        import umap
    except ImportError as error:
        raise UserError(
            "--by umap needs the library umap-learn: pip install umap-learn, or choose --by tsne."
        ) from error
    return umap


def project(features: np.ndarray, method: str, seed: int = 0) -> np.ndarray:
    """Bring features to the plane; the same features and seed give the same places.

    The features get length 1, so that cosines count, as among nearest neighbours, and are reduced
    to 50 principal components. Then follows t-SNE (van der Maaten and Hinton 2008,
    https://jmlr.org/papers/v9/vandermaaten08a.html) as scikit-learn has it, begun at the first two
    components; UMAP (McInnes et al. 2018, https://arxiv.org/abs/1802.03426); or nothing, and the
    first two components it is.

    Args:
      features: [N,F], of five images or more.
      method: a key of `NAMES`.
      seed: of what is random.

    Returns:
      float32 [N,2].

    Raises:
      UserError: there are too few images, or the method's library is not installed.
    """
    from sklearn.decomposition import PCA

    count = len(features)
    check_count(count)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    dimensions = 2 if method == "pca" else min(_DIMENSIONS, *unit.shape)
    reduced = PCA(min(dimensions, *unit.shape), random_state=seed).fit_transform(unit)
    if method == "pca":
        return np.pad(reduced, ((0, 0), (0, 2 - reduced.shape[1]))).astype(np.float32)
    near = min(_NEIGHBOURS, (count - 1) // 3 or 1)
    if method == "umap":
        umap = _umap().UMAP(n_neighbors=max(2, near), random_state=seed, n_jobs=1)
        return umap.fit_transform(reduced)
    from sklearn.manifold import TSNE

    return TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(reduced)
