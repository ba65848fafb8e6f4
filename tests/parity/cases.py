"""The sizes each model is compared at, and a model with its mirror on the same random weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_models
import torch_ref
from jax_models import registry, torch_weights

# Each model: its published sizes (`depth`, `depths` and airbench's `widths` are cut, but not in a
# full measurement), and others that are distinct primes where they fit, so that a swapped axis
# cannot pass.
CASES: dict[str, list[dict]] = {
    "vit": [
        {"batch": 2, "image": (32, 32), "depth": 2},
        {
            "batch": 3,
            "image": (35, 35),
            "img_size": 35,
            "patch_size": 7,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
        },
        {
            "batch": 5,
            "image": (22, 22),
            "img_size": 22,
            "patch_size": 11,
            "in_channels": 1,
            "embed_dim": 10,
            "num_heads": 5,
            "depth": 3,
            "mlp_dim": 17,
            "num_classes": 7,
        },
    ],
    "raster_vit": [
        {"batch": 2, "image": (32, 32), "depth": 2},
        {
            "batch": 3,
            "image": (15, 15),
            "img_size": 15,
            "patch_size": 5,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
        },
    ],
    "deep_vit": [
        {"batch": 2, "image": (32, 32), "depth": 2},
        {
            "batch": 3,
            "image": (35, 35),
            "img_size": 35,
            "patch_size": 7,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 3,
            "mlp_dim": 53,
            "num_classes": 11,
            "head_dims": (29,),
        },
    ],
    "mnist_vit": [
        {"batch": 2, "image": (28, 28), "depth": 2},
        {
            "batch": 3,
            "image": (33, 33),
            "img_size": 33,
            "patch_size": 11,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
            "head_dims": (29, 23),
        },
    ],
    "mlp_head_vit": [
        {"batch": 2, "image": (72, 72), "depth": 2},
        {
            "batch": 3,
            "image": (26, 26),
            "img_size": 26,
            "patch_size": 13,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
            "head_dims": (29, 23),
        },
    ],
    "deit_tiny_distilled_patch16_224": [
        {"batch": 2, "image": (224, 224), "depth": 1},
        {
            "batch": 3,
            "image": (35, 35),
            "img_size": 35,
            "patch_size": 7,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
        },
        {
            "batch": 5,
            "image": (22, 22),
            "img_size": 22,
            "patch_size": 11,
            "in_channels": 1,
            "embed_dim": 10,
            "num_heads": 5,
            "depth": 2,
            "num_classes": 7,
            "class_token": False,
            "distilled": False,
            "pool": "avg",
            "fc_norm": False,
            "norm_eps": 1e-5,
        },
    ],
    "vit_small_patch14_reg4_dinov2": [
        {"batch": 2, "image": (70, 70), "img_size": 70, "depth": 1},
        {
            "batch": 3,
            "image": (35, 35),
            "img_size": 35,
            "patch_size": 7,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
            "registers": 5,
            "swiglu": True,
            "pool": "token_and_avg",
        },
    ],
    "cct_2_3x2": [
        {"batch": 2, "image": (32, 32), "kernels": 0.6},
        {
            "batch": 3,
            "image": (23, 23),
            "img_size": 23,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
        },
        {
            "batch": 5,
            "image": (17, 17),
            "img_size": 17,
            "in_channels": 1,
            "embed_dim": 10,
            "num_heads": 5,
            "depth": 3,
            "mlp_dim": 17,
            "conv_layers": 1,
            "conv_size": 7,
            "num_classes": 7,
        },
    ],
    "sl_vit": [
        {"batch": 2, "image": (32, 32), "depth": 2},
        {
            "batch": 3,
            "image": (35, 35),
            "img_size": 35,
            "patch_size": 7,
            "in_channels": 2,
            "embed_dim": 39,
            "num_heads": 3,
            "depth": 2,
            "mlp_dim": 53,
            "num_classes": 11,
        },
    ],
    "simple_cnn": [
        {"batch": 2, "image": (32, 32)},
        {
            "batch": 3,
            "image": (23, 29),
            "in_channels": 2,
            "widths": (5, 7, 11),
            "num_classes": 13,
        },
        {"batch": 5, "image": (8, 8), "in_channels": 1, "widths": (17,), "num_classes": 3},
    ],
    "mnist_cnn": [
        {"batch": 2, "image": (28, 28)},
        {
            "batch": 3,
            "image": (17, 17),
            "img_size": 17,
            "in_channels": 2,
            "widths": (5, 7),
            "head_dims": (29,),
            "num_classes": 11,
        },
    ],
    "attention_cnn": [
        {"batch": 2, "image": (32, 32)},
        {
            "batch": 3,
            "image": (13, 11),
            "in_channels": 2,
            "widths": (8, 24, 16),
            "num_classes": 7,
        },
    ],
    "airbench94": [
        {"batch": 2, "image": (32, 32), "kernels": 0.3, "widths": (24, 48, 56)},
        {
            "batch": 3,
            "image": (23, 29),
            "kernels": 0.5,
            "in_channels": 2,
            "widths": (19, 5, 11),
            "depths": (3, 2, 3),
            "norm_momentum": 0.3,
            "norm_eps": 0.01,
            "head_scale": 0.13,  # with larger ones rounding grows in training, as rates do
            "num_classes": 13,
        },
        {
            "batch": 5,
            "image": (9, 7),
            "in_channels": 1,
            "widths": (7,),
            "depths": (1,),
            "num_classes": 3,
        },
    ],
    "resnet18": [
        {"batch": 2, "image": (48, 48), "depths": (1, 1, 1, 1)},
        {
            "batch": 3,
            "image": (37, 29),
            "in_channels": 2,
            "depths": (1, 2, 1),
            "widths": (5, 7, 11),
            "block": "bottleneck",
            "draw": 1,
            "num_classes": 13,
        },
        {
            "batch": 5,
            "image": (12, 9),
            "in_channels": 1,
            "depths": (2, 1),
            "widths": (7, 5),
            "stem": "cifar",
            "num_classes": 3,
        },
    ],
    "convnext_tiny": [
        {"batch": 2, "image": (32, 32), "depths": (1, 1, 1, 1)},
        {
            "batch": 3,
            "image": (43, 37),
            "in_channels": 2,
            "depths": (1, 2, 1),
            "widths": (5, 7, 11),
            "num_classes": 13,
        },
        {
            "batch": 5,
            "image": (17, 13),
            "in_channels": 1,
            "depths": (2,),
            "widths": (7,),
            "head_norm_eps": 1e-12,
            "num_classes": 3,
        },
    ],
}

PRIME = 1  # the place of the case with prime sizes


def full_size(cases: list[dict]) -> list[dict]:
    """The cases with the published depth and widths."""
    published, *others = cases
    cut = {"depth", "depths", "widths"}
    return [{key: value for key, value in published.items() if key not in cut}, *others]


class Pair:
    """A mirror with random weights, the Flax model with the same, and random inputs.

    Args:
      name: of the model.
      case: settings, and `batch`, `image` (height, width) and `kernels`, a factor of them. Those
        that start as the identity are to be smaller: each sum of theirs has one large term, at
        whose size float32 rounds what is added after it. So are those that make values grow, as
        convolutions do whose deviation is Kaiming's and whose outputs are pooled. `draw` is added
        to the seed: where a value before a ReLU is nearer to zero than float32 rounds, the two
        sides may have it on either side, and their gradients then differ by a whole entry.
      mutate: changes the Flax model after it was loaded.
      dropout: rate everywhere.
    """

    def __init__(
        self, name: str, case: dict, mutate: Callable = lambda model: None, dropout: float = 0.0
    ):
        settings = dict(case)
        batch, image = settings.pop("batch"), settings.pop("image")
        factor, seed = settings.pop("kernels", 1.0), len(name) + batch + settings.pop("draw", 0)
        known = jax_models.model_keywords(name)
        settings = known | settings
        rates = {"dropout", "attention_dropout", "head_dropout", "drop_path"} & known.keys()
        settings |= dict.fromkeys(rates, dropout)
        self.has_dropout = bool(rates)
        x64 = jax.config.jax_enable_x64
        self.dtype = jnp.float64 if x64 else jnp.float32
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.mirror = torch_ref.create_model(jax_models.family(name), **settings)
        self.mirror.to(torch.float64 if x64 else torch.float32)
        self._randomise(factor)
        # Shapes only: nothing is drawn or compiled before the mirror's weights are there.
        self.model = registry.abstract_model(name, **settings)
        as_dtype(self.model, self.dtype)
        torch_weights.load(self.model, self.mirror.state_dict())
        mutate(self.model)
        self.classes = settings["num_classes"]
        self.shape = (batch, *image, settings["in_channels"])

    def _randomise(self, factor: float) -> None:
        """Move every tensor from its initial value: ones and zeros hide mistakes."""
        for name, tensor in self.mirror.state_dict().items():
            if tensor.is_floating_point():
                noise = self.random.normal(size=tensor.shape) * (0.3 if tensor.ndim == 1 else 0.02)
                tensor += torch.from_numpy(np.asarray(noise)).to(tensor)
                tensor *= factor if tensor.ndim > 1 else 1.0
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.1)

    def parts(self) -> list:
        """The Flax model's blocks or stages; the mirror has `stages()`."""
        return list(self.model.blocks if hasattr(self.model, "blocks") else self.model.stages)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images [B,H,W,C] and labels [B]."""
        return self.draw(self.shape), self.random.integers(0, self.classes, self.shape[0])

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal values in the precision of this process."""
        return self.random.normal(size=shape).astype(self.dtype)


def as_dtype(model: nnx.Module, dtype) -> None:
    """Turn a model's floating-point variables, or their shapes, into another dtype, in place."""
    for _, variable in nnx.to_flat_state(nnx.state(model)):
        value = variable.get_value()
        if not jnp.issubdtype(value.dtype, jnp.floating):
            continue
        if isinstance(value, jax.ShapeDtypeStruct):
            variable.set_value(value.update(dtype=dtype))
        else:  # NumPy compiles nothing
            variable.set_value(jnp.asarray(np.asarray(value).astype(dtype)))


def to_torch(x: np.ndarray) -> torch.Tensor:
    """[B,H,W,C] -> [B,C,H,W]; tokens stay as they are."""
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x))


def largest(ours, theirs, feature_map: bool = False) -> float:
    """Largest absolute difference; 4-D feature maps of the mirror are channels-first."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    if feature_map and theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {ours.shape} and {theirs.shape}")
    return float(np.abs(ours - theirs).max())
