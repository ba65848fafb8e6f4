"""Convolutions, Linear layers, norms, pooling and attention by oneDNN, forward and backward.

XLA's convolutions are several times slower on CPUs, and for the gradient of a kernel XLA first
transposes one of the two large arrays. Sums are added up in another order than XLA's, so results
differ in the last bits. Each function comes with `…_fits`, which says whether it takes the given
arrays and is worth it; where not, use XLA's.
"""

from jax_models.cpu.kernels.attend import (
    attention,
    attention_fits,
    self_attention,
    self_attention_fits,
)
from jax_models.cpu.kernels.convolve import (
    affine_fits,
    convolution,
    convolution_affine,
    convolution_fits,
)
from jax_models.cpu.kernels.normalise import (
    batch_norm,
    batch_norm_fits,
    layer_norm,
    layer_norm_fits,
)
from jax_models.cpu.kernels.order import channels_first, channels_first_fits
from jax_models.cpu.kernels.pool import max_pool3x3, max_pool3x3_fits
from jax_models.cpu.kernels.project import linear, linear_fits

__all__ = ["attention", "attention_fits", "linear", "self_attention", "self_attention_fits"]
__all__ += ["affine_fits", "convolution", "convolution_affine", "convolution_fits", "linear_fits"]
__all__ += ["batch_norm", "batch_norm_fits", "layer_norm", "layer_norm_fits"]
__all__ += ["channels_first", "channels_first_fits"]
__all__ += ["max_pool3x3", "max_pool3x3_fits"]
