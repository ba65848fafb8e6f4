"""Measure how far the Flax models are from their PyTorch mirrors, rung by rung.

  JAX_ENABLE_X64=1 python -m tests.parity.ladder --out errors.json [--mutations]

float64 is a setting of the whole process, so the tests start one process for each precision. Every
rung is a number to be held against its bar in `BARS` (the table of docs/parity.md).
"""

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.nn import functional

import jax_models
import torch_ref
from configs import common
from jax_models import layers, torch_weights
from jax_train import metrics, optim, steps

# Sizes are distinct primes where they fit, so that a swapped axis cannot pass.
CASES: dict[str, list[dict]] = {
    "vit": [
        {"batch": 2, "image": (32, 32)},
        {
            "batch": 3, "image": (35, 35), "img_size": 35, "patch_size": 7, "in_channels": 2,
            "embed_dim": 39, "num_heads": 3, "depth": 2, "mlp_dim": 53, "num_classes": 11,
        },
        {
            "batch": 5, "image": (22, 22), "img_size": 22, "patch_size": 11, "in_channels": 1,
            "embed_dim": 10, "num_heads": 5, "depth": 3, "mlp_dim": 17, "num_classes": 7,
        },
    ],
    "simple_cnn": [
        {"batch": 2, "image": (32, 32)},
        {
            "batch": 3, "image": (23, 29), "in_channels": 2, "widths": (5, 7, 11),
            "num_classes": 13,
        },
        {"batch": 5, "image": (8, 8), "in_channels": 1, "widths": (17,), "num_classes": 3},
    ],
}  # fmt: skip

# Largest error allowed on each rung: float32, float64. None: not asserted in that precision.
BARS: dict[str, tuple[float | None, float]] = {
    "logits": (1e-5, 1e-10),
    "attention": (1e-5, 1e-10),
    "features": (1e-5, 1e-10),
    "train-mode logits": (1e-5, 1e-10),
    "gradient of the images": (1e-4, 1e-10),
    "gradients of the parameters": (1e-4, 1e-10),
    "running statistics, 3 steps": (1e-5, 1e-10),
    "loss, 20 training steps": (None, 1e-12),
    "parameters, 20 training steps": (None, 1e-10),
}


class Pair:
    """A mirror with random weights, the Flax model with the same, and random inputs.

    Args:
      name: of the model.
      case: settings, and `batch` and `image` (height, width).
      mutate: changes the Flax model after it was loaded.
    """

    def __init__(self, name: str, case: dict, mutate: Callable = lambda model: None):
        settings = dict(case)
        batch, image = settings.pop("batch"), settings.pop("image")
        if "dropout" in jax_models.model_keywords(name):
            settings["dropout"] = 0.0
        self.dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
        self.random = np.random.default_rng(len(name) + batch)
        self.mirror = torch_ref.create_model(name, **settings)
        self.mirror.to(torch.float64 if jax.config.jax_enable_x64 else torch.float32)
        self._randomise()
        self.model = jax_models.create_model(name, rngs=nnx.Rngs(1), **settings)
        as_dtype(self.model, self.dtype)
        torch_weights.load(self.model, self.mirror.state_dict())
        mutate(self.model)
        self.classes = settings.get("num_classes", 10)
        self.shape = (batch, *image, settings.get("in_channels", 3))

    def _randomise(self) -> None:
        """Move every tensor from its initial value: ones and zeros hide mistakes."""
        for name, tensor in self.mirror.state_dict().items():
            if tensor.is_floating_point():
                noise = self.random.normal(size=tensor.shape) * (0.3 if tensor.ndim == 1 else 0.02)
                tensor += torch.from_numpy(np.asarray(noise)).to(tensor)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.1)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Random images [B,H,W,C] and labels [B]."""
        images = self.random.normal(size=self.shape).astype(self.dtype)
        return images, self.random.integers(0, self.classes, self.shape[0])


def as_dtype(model: nnx.Module, dtype) -> None:
    """Turn a model's floating-point variables into another dtype, in place."""
    for _, variable in nnx.to_flat_state(nnx.state(model)):
        if jnp.issubdtype(variable.dtype, jnp.floating):
            variable.set_value(variable.get_value().astype(dtype))


def to_torch(images: np.ndarray) -> torch.Tensor:
    """[B,H,W,C] -> [B,C,H,W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def largest(ours, theirs) -> float:
    """Largest absolute difference; feature maps of the mirror are channels-first."""
    ours, theirs = np.asarray(ours), theirs.detach().numpy()
    if theirs.ndim == 4 and ours.shape != theirs.shape:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.abs(ours - theirs).max())


def forward(pair: Pair) -> Iterator[tuple[str, float]]:
    """Evaluation mode: logits, every block's attention, every feature map."""
    images, _ = pair.batch()
    pair.mirror.eval()
    logits, out = jax.jit(lambda model, x: model(x, return_intermediates=True), static_argnums=())(
        pair.model, jnp.asarray(images)
    )
    their_logits, their_out = pair.mirror(to_torch(images), return_intermediates=True)
    yield "logits", largest(logits, their_logits)
    for kind in ("attention", "features"):
        assert len(out[kind]) == len(their_out[kind])
        for ours, theirs in zip(out[kind], their_out[kind], strict=True):
            yield kind, largest(ours, theirs)


def gradients(pair: Pair) -> Iterator[tuple[str, float]]:
    """Training mode (batch statistics): logits and gradients of the cross-entropy."""
    images, labels = pair.batch()
    graphdef, *state = nnx.split(pair.model, nnx.Param, ...)
    params, stats = map(nnx.to_pure_dict, state)

    @jax.jit
    def grad(params, images):
        def loss(params, images):
            logits = nnx.merge(graphdef, params, stats)(images, train=True)
            return metrics.cross_entropy(logits, labels).mean(), logits

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, images)

    (of_params, of_images), logits = grad(params, jnp.asarray(images))
    pair.mirror.train()
    their_images = to_torch(images).requires_grad_()
    their_logits = pair.mirror(their_images)
    functional.cross_entropy(their_logits, torch.from_numpy(labels)).backward()
    yield "train-mode logits", largest(logits, their_logits)
    ours = torch_weights.export(nnx.merge(graphdef, of_params, stats))
    theirs = {name: p.grad.numpy() for name, p in pair.mirror.named_parameters()}
    yield (
        "gradient of the images",
        gradient_error({"x": np.asarray(of_images)}, {
            "x": their_images.grad.numpy().transpose(0, 2, 3, 1)
        }),
    )  # fmt: skip
    yield "gradients of the parameters", gradient_error(ours, theirs)


def gradient_error(ours: dict, theirs: dict) -> float:
    """Largest ‖difference of t‖ / (‖t‖ + share of ‖all‖): a zero gradient has no relative error."""
    share = 1.0 if jax.config.jax_enable_x64 else 0.01
    total = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
    norm = np.linalg.norm
    return max(
        float(norm((ours[t] - g).ravel()) / (norm(g.ravel()) + share * total))
        for t, g in theirs.items()
    )


def running_statistics(pair: Pair) -> Iterator[tuple[str, float]]:
    """Buffers after three train-mode passes over different batches."""
    buffers = [name for name, _ in pair.mirror.named_buffers()]
    if not buffers:
        return
    pair.mirror.train()
    for _ in range(3):
        images, _ = pair.batch()
        pair.model(jnp.asarray(images), train=True)
        with torch.no_grad():
            pair.mirror(to_torch(images))
    ours, theirs = torch_weights.export(pair.model), pair.mirror.state_dict()
    for name in buffers:
        yield "running statistics, 3 steps", float(np.abs(ours[name] - theirs[name].numpy()).max())


def training(pair: Pair, num_steps: int = 20) -> Iterator[tuple[str, float]]:
    """AdamW with a cosine schedule on identical batches, through the engine's own step."""
    config = common.get_config()
    config.train.epochs, config.optim.weight_decay = 1, 0.05
    config.optim.learning_rate = 1e-3
    recipe_optimizer = optim.create_optimizer(config, optim.schedule_tables(config, num_steps))
    recipe = steps.Recipe(
        graphdef=nnx.split(pair.model, nnx.Param, ...)[0], optimizer=recipe_optimizer,
        augmentation=None, layout=None, seed=0, batch_size=pair.shape[0], steps_per_epoch=num_steps,
    )  # fmt: skip
    state = steps.init_state(pair.model, recipe_optimizer)
    step = jax.jit(lambda state, images, labels: steps.apply_batch(
        recipe, state, metrics.zero_train_sums(), images, labels, None
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(pair.mirror.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    pair.mirror.train()
    for _ in range(num_steps):
        images, labels = pair.batch()
        state, sums = step(state, jnp.asarray(images), jnp.asarray(labels))
        optimizer.zero_grad()
        loss = functional.cross_entropy(pair.mirror(to_torch(images)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        schedule.step()
        ours = float(sums.loss) / pair.shape[0]
        yield "loss, 20 training steps", abs(ours - loss.item()) / abs(loss.item())
    ours = torch_weights.export(nnx.merge(recipe.graphdef, state.params, state.stats))
    theirs = {name: tensor.numpy() for name, tensor in pair.mirror.state_dict().items()}
    difference = sum(np.square(ours[name] - value).sum() for name, value in theirs.items())
    total = sum(np.square(value).sum() for value in theirs.values())
    yield "parameters, 20 training steps", float(np.sqrt(difference / total))


RUNGS = (forward, gradients, running_statistics, training)


def climb(name: str, cases: list[dict], mutate: Callable = lambda model: None) -> dict[str, float]:
    """The largest error on each rung over all cases of a model."""
    errors: dict[str, float] = {}
    for case in cases:
        for rung in RUNGS:
            for key, error in rung(Pair(name, case, mutate)):
                # A NaN must not get lost in a maximum.
                errors[key] = max(errors.get(key, 0.0), error if error == error else np.inf)
    return errors


def set_everywhere(kind: type, attribute: str, value) -> Callable:
    """A mutation that sets an attribute of all layers of a kind."""

    def mutate(model):
        for _, module in nnx.iter_modules(model):
            if isinstance(module, kind):
                setattr(module, attribute, value)

    return mutate


def change_kernel(path: str, change: Callable) -> Callable:
    """A mutation of one kernel."""

    def mutate(model):
        state = dict(nnx.to_flat_state(nnx.state(model)))
        variable = state[tuple(int(k) if k.isdigit() else k for k in path.split("."))]
        variable.set_value(change(variable.get_value()))

    return mutate


def swap_query_heads(kernel):
    """[D,3D]: exchange the first two heads of the queries of a ViT with 3 heads of 13."""
    return jnp.concatenate([kernel[:, 13:26], kernel[:, :13], kernel[:, 26:]], axis=1)


@contextlib.contextmanager
def tanh_gelu():
    """The approximation that `jax.nn.gelu` computes by default."""
    exact = jax.nn.gelu
    layers.jax.nn.gelu = lambda x, approximate: exact(x, approximate=True)
    try:
        yield
    finally:
        layers.jax.nn.gelu = exact


@contextlib.contextmanager
def heads_last():
    """Split heads dimension-major instead of head-major."""
    right = layers.Attention.__call__

    def wrong(self, x, **keywords):
        d = x.shape[-1]
        original = self.qkv

        def shuffled(x):
            y = original(x).reshape(*x.shape[:-1], 3, d // self.num_heads, self.num_heads)
            return y.swapaxes(-1, -2).reshape(*x.shape[:-1], 3 * d)

        object.__setattr__(self, "qkv", shuffled)
        try:
            return right(self, x, **keywords)
        finally:
            object.__setattr__(self, "qkv", original)

    layers.Attention.__call__ = wrong
    try:
        yield
    finally:
        layers.Attention.__call__ = right


_FORWARD = (
    "logits", "features", "train-mode logits", "gradients of the parameters",
    "gradient of the images",
)  # fmt: skip
_TRAINING = ("loss, 20 training steps", "parameters, 20 training steps")

# name: (model, context, change of the model, rungs that must break)
MUTATIONS: dict[str, tuple] = {
    "tanh GELU": ("vit", tanh_gelu, None, (*_FORWARD, *_TRAINING)),
    "layer norm epsilon 1e-6": (
        "vit", None, set_everywhere(nnx.LayerNorm, "epsilon", 1e-6),
        (*_FORWARD, "attention", *_TRAINING),
    ),
    "batch norm epsilon 1e-6": (
        "simple_cnn", None, set_everywhere(layers.BatchNorm, "epsilon", 1e-6),
        (*_FORWARD, *_TRAINING),
    ),
    "batch norm momentum 0.99": (
        "simple_cnn", None, set_everywhere(layers.BatchNorm, "momentum", 0.01),
        ("running statistics, 3 steps", "parameters, 20 training steps"),
    ),
    "transposed linear kernel": (
        "vit", None, change_kernel("blocks.1.attn.projection.kernel", jnp.transpose),
        (*_FORWARD, *_TRAINING),
    ),
    "transposed convolution kernel": (
        "simple_cnn", None,
        change_kernel("stages.1.conv2.kernel", lambda k: k.transpose(1, 0, 2, 3)),
        (*_FORWARD, *_TRAINING, "running statistics, 3 steps"),
    ),
    "transposed patch kernel": (
        "vit", None,
        change_kernel("patch_embed.projection.kernel", lambda k: k.reshape(2, 7, 7, -1)
                      .transpose(0, 2, 1, 3).reshape(k.shape)),
        (*_FORWARD, "attention", *_TRAINING),
    ),
    "swapped query heads": (
        "vit", None, change_kernel("blocks.1.attn.qkv.kernel", swap_query_heads),
        (*_FORWARD, "attention", *_TRAINING),
    ),
    "heads split dimension-major": (
        "vit", heads_last, None, (*_FORWARD, "attention", *_TRAINING),
    ),
}  # fmt: skip


def measure_mutations() -> dict[str, dict[str, float]]:
    """Errors of deliberately broken models, on the case with prime sizes."""
    errors = {}
    for mutation, (name, context, change, _) in MUTATIONS.items():
        with (context or contextlib.nullcontext)():
            errors[mutation] = climb(name, CASES[name][1:2], change or (lambda model: None))
    return errors


def main() -> None:
    """Measure in the precision of this process and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mutations", action="store_true", help="also measure broken models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    errors = {name: climb(name, CASES[name]) for name in jax_models.list_models()}
    result = {"errors": errors}
    if args.mutations:
        result["mutations"] = measure_mutations()
    args.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
