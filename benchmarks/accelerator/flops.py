"""Floating-point operations of products of matrices and convolutions, which utilisation is of."""

import math
import re

import jax
import jax.numpy as jnp

from jax_models import cpu
from jax_train.engine import seeds, steps
from jax_train.engine.program import Program

# Of a chip in TFLOP/s, without sparsity: float32, TF32 and bfloat16, by the first words of JAX's
# name of the device. From NVIDIA's data sheets and Google's pages of Cloud TPU, which name bfloat16
# alone. Of TPU v2 and v3 a device is half a chip.
PEAKS = {
    "Tesla V100": (15.7, None, None),
    "Tesla T4": (8.1, None, None),
    "NVIDIA A100": (19.5, 156, 312),
    "NVIDIA L4": (30.3, 60, 121),
    "NVIDIA H100 PCIe": (51, 378, 756),
    "NVIDIA H100 NVL": (60, 417.5, 835.5),
    "NVIDIA H100": (66.9, 494.7, 989.4),
    "NVIDIA H200 NVL": (60, 417.5, 835.5),
    "NVIDIA H200": (66.9, 494.7, 989.4),
    "TPU v2": (None, None, 22.5),
    "TPU v3": (None, None, 61.5),
    "TPU v4 lite": (None, None, 138),
    "TPU v4": (None, None, 275),
    "TPU v5 lite": (None, None, 197),
    "TPU v5": (None, None, 459),
    "TPU v6 lite": (None, None, 918),
}


def peak(kind: str, precision: str) -> float | None:
    """What a device does in a second at most; None where that is not known.

    Args:
      kind: as JAX calls the device.
      precision: "float32", "tf32" or "bfloat16".
    """
    place = ("float32", "tf32", "bfloat16").index(precision)
    of = (peaks[place] for name, peaks in PEAKS.items() if re.match(rf"{name}(?!\w)", kind))
    found = next(of, None)
    return found and found * 1e12


def of_training(program: Program, image_shape: tuple[int, int, int]) -> float:
    """Of the model's forward and backward pass, per image.

    Augmentation and the optimizer are left out, and so is what the last block of a ViT does not
    work out.
    """
    recipe, state = program.recipe, program.like.state
    batch = recipe.batch_size
    raw = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
    images = jax.eval_shape(recipe.augmentation.evaluate, raw)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def gradients(images, labels):
        keys = seeds.keys_at(recipe.seed, seeds.DROPOUT, 0, jnp.arange(batch))
        weights = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        return steps.gradients(recipe, weights.params, weights.stats, images, labels, keys)

    with cpu.using(False):
        return count_products(jax.make_jaxpr(gradients)(images, labels).jaxpr) / batch


def count_products(jaxpr) -> float:
    """FLOPs of all matrix products and convolutions in a jaxpr; loops count each time."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            lengths = equation.invars[0].aval.shape
            total += 2 * out.size * math.prod(lengths[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            total += 2 * _products_of_convolution(equation, out.shape)
        times = equation.params.get("length", 1) if name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * count_products(inner)
    return total


def _products_of_convolution(equation, out) -> float:
    """Multiplications of a convolution, without those by padding or between dilated entries."""
    numbers, params = equation.params["dimension_numbers"], equation.params
    image, kernel = (variable.aval.shape for variable in equation.invars)
    total = out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * kernel[numbers.rhs_spec[1]]
    for axis, (low, _) in enumerate(params["padding"]):
        places = (
            o * params["window_strides"][axis] + k * params["rhs_dilation"][axis] - low
            for o in range(out[numbers.out_spec[2 + axis]])
            for k in range(kernel[numbers.rhs_spec[2 + axis]])
        )
        dilation, size = params["lhs_dilation"][axis], image[numbers.lhs_spec[2 + axis]]
        total *= sum(p % dilation == 0 and 0 <= p // dilation < size for p in places)
    return total
