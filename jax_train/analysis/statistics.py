"""Statistics of predictions: confidence intervals and calibration."""

import math

import numpy as np


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share: the score interval of E. B. Wilson (1927).

    https://doi.org/10.1080/01621459.1927.10502953

    Args:
      right: successes.
      count: trials, at least one.

    Returns:
      Lower and upper bound, in [0, 1].
    """
    z, share = 1.959963984540054, right / count  # z: 97.5 % of the normal distribution
    middle = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return (0.0 if right == 0 else low), (1.0 if right == count else high)


def calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3).

    The mean, over all images, of the gap between mean confidence and accuracy in the image's bin;
    the bins are equally wide and closed above.

    Args:
      confidences: probability [N] of the predicted class.
      right: bool [N], whether that class is the true one.
      bins: their number.

    Returns:
      From 0 to 1; nan if a confidence is none.
    """
    if not np.isfinite(confidences).all():
        return math.nan
    confidences = confidences.astype(np.float64)
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, confidences - right, bins)
    return float(np.abs(gaps).sum() / len(confidences))
