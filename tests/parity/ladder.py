"""Measure how far the Flax models are from their PyTorch mirrors, rung by rung.

  JAX_ENABLE_X64=1 python -m tests.parity.ladder --out errors.json [--mutations] [--full]

float64 is a setting of the whole process, so the tests start one process for each precision. Every
rung is a number to be held against its bar in `bar` (the table of docs/parity.md).
"""

import argparse
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.nn import functional

from jax_models import cpu, dropout, torch_weights
from jax_models.cpu import onednn
from jax_models.rngs import ExampleRngs
from jax_train.engine import metrics
from tests import xla
from tests.parity.cases import CASES, PRIME, Pair, as_dtype, full_size, largest, to_torch
from tests.parity.training import training

# Largest error allowed on each rung: float32, float64. None: not asserted in that precision.
BARS: dict[str, tuple[float | None, float | None]] = {
    "embedding": (1e-5, 1e-10),
    "each block alone": (1e-5, 1e-10),
    "attention": (1e-5, 1e-10),
    "features": (1e-5, 1e-10),
    "logits": (1e-5, 1e-10),
    "train-mode logits": (1e-5, 1e-10),
    "gradient of the images": (1e-4, 1e-10),
    "gradients of the parameters": (1e-4, 1e-10),
    "dropout with equal masks: logits": (1e-5, 1e-10),
    "dropout with equal masks: gradients": (1e-4, 1e-10),
    "running statistics, 3 steps": (1e-5, 1e-10),
    "bfloat16 logits, relative": (5e-2, None),
    "recipe, loss of the first 5 steps": (1e-5, 1e-12),
    "recipe, loss of 100 steps": (1e-5, 1e-12),
    "recipe, parameters after 100 steps": (1e-4, 1e-10),
}
BATCH_NORM = ("simple_cnn", "airbench94", "resnet18")
# Rounding grows in float32 training: by batch norm, and by channels that are almost never active,
# whose tiny gradients Adam turns into steps of full size (docs/parity.md).
DRIFTING = ("simple_cnn", "attention_cnn", "airbench94", "resnet18")
_DRIFTS = ("recipe, loss of 100 steps", "recipe, parameters after 100 steps")


def bar(model: str, rung: str, precision: str) -> float | None:
    """The largest error allowed; None where it is reported only."""
    if precision == "float32" and model in DRIFTING and rung in _DRIFTS:
        return None
    return BARS[rung][precision == "float64"]


def forward(pair: Pair) -> Iterator[tuple[str, float]]:
    """Evaluation mode: logits, every block's attention, every feature map."""
    images, _ = pair.batch()
    embeds = hasattr(pair.model, "patch_embed") or pair.model.stem is not None
    pair.mirror.eval()

    @jax.jit
    def run(model, x):
        # Where no maps are asked for, the last block is worked out for the class token alone.
        return model(x, return_intermediates=True), model(x), model.embed(x) if embeds else None

    (logits, out), plain_logits, tokens = run(pair.model, images)
    their_logits, their_out = pair.mirror(to_torch(images), return_intermediates=True)
    yield "logits", largest(logits, their_logits)
    yield "logits", largest(plain_logits, their_logits)
    for kind in ("attention", "features"):
        for ours, theirs in zip(out[kind], their_out[kind], strict=True):
            yield kind, largest(ours, theirs, feature_map=kind == "features")
    shapes = [images.shape, *(feature.shape for feature in out["features"])]
    if embeds:
        theirs = pair.mirror.embed(to_torch(images))
        yield "embedding", largest(tokens, theirs, feature_map=True)
        shapes[0] = tokens.shape
    yield from blocks_alone(pair, shapes)


def blocks_alone(pair: Pair, shapes: list[tuple[int, ...]]) -> Iterator[tuple[str, float]]:
    """Every block or stage on random input of its own."""
    run = jax.jit(lambda part, x: part(x, train=False, rngs=None))
    for part, mirror, shape in zip(pair.parts(), pair.mirror.stages(), shapes, strict=False):
        x = pair.draw(shape)
        (ours, weights), (theirs, their_weights) = run(part, x), mirror(to_torch(x))
        yield "each block alone", largest(ours, theirs, feature_map=True)
        if weights is not None:
            yield "each block alone", largest(weights, their_weights)


class TrainMode:
    """Both sides in training mode; ours is compiled once for all batches.

    Args:
      pair: model and mirror.
      keys: of dropout, one for each example.
    """

    def __init__(self, pair: Pair, keys: jax.Array | None = None):
        self.pair, self.keys = pair, keys
        self.graphdef, *state = nnx.split(pair.model, nnx.Param, ...)
        self.params, self.stats = map(nnx.to_pure_dict, state)
        pair.mirror.train()
        self._run = jax.jit(self._loss_and_gradients)

    def _loss_and_gradients(self, params, stats, images, labels):
        def loss(params, images):
            model = nnx.merge(self.graphdef, params, stats)
            rngs = None if self.keys is None else ExampleRngs(self.keys)
            logits = model(images, train=True, rngs=rngs)
            state = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))
            return metrics.cross_entropy(logits, labels).mean(), (logits, state)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, images)

    def __call__(self, images: np.ndarray, labels: np.ndarray):
        """Of both sides the logits, the named gradients, and the gradient of the images."""
        grads, (logits, self.stats) = self._run(self.params, self.stats, images, labels)
        ours = torch_weights.export(nnx.merge(self.graphdef, grads[0], self.stats))
        mirror, their_images = self.pair.mirror, to_torch(images).requires_grad_()
        mirror.zero_grad()
        their_logits = mirror(their_images)
        functional.cross_entropy(their_logits, torch.from_numpy(labels)).backward()
        theirs = {name: p.grad.numpy() for name, p in mirror.named_parameters()}
        of_images = np.asarray(grads[1]), their_images.grad.numpy().transpose(0, 2, 3, 1)
        return (logits, their_logits), (ours, theirs), of_images

    def buffers(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every buffer of both sides, after the batches so far."""
        ours = torch_weights.export(nnx.merge(self.graphdef, self.params, self.stats))
        for name, buffer in self.pair.mirror.named_buffers():
            yield ours[name], buffer.numpy()


def gradients(pair: Pair) -> Iterator[tuple[str, float]]:
    """Training mode (batch statistics): logits and gradients of the cross-entropy; buffers."""
    of_params, of_images, both = [], [], TrainMode(pair)
    for _ in range(3 if both.stats else draws()):
        logits, params, (ours, theirs) = both(*pair.batch())
        yield "train-mode logits", largest(*logits)
        of_images.append(gradient_error({"x": ours}, {"x": theirs}))
        of_params.append(gradient_error(*params))
    yield "gradient of the images", min(of_images)
    yield "gradients of the parameters", min(of_params)
    for ours, theirs in both.buffers():
        yield "running statistics, 3 steps", float(np.abs(ours - theirs).max())


def draws() -> int:
    """Batches that gradients are taken of; the best counts.

    In float32 rounding now and then moves a value across the kink of a ReLU or to another maximum
    of a pool, and the gradient jumps, however correct both sides are. Never seen in float64.
    """
    return 1 if jax.config.jax_enable_x64 else 3


def gradient_error(ours: dict, theirs: dict) -> float:
    """Largest ‖difference of t‖ / (‖t‖ + share of ‖all‖): a zero gradient has no relative error."""
    share = 1.0 if jax.config.jax_enable_x64 else 0.01
    total = np.sqrt(sum(np.square(g).sum() for g in theirs.values()))
    norm = np.linalg.norm
    return max(
        float(norm((ours[t] - g).ravel()) / (norm(g.ravel()) + share * total))
        for t, g in theirs.items()
    )


def with_equal_masks(pair: Pair) -> Iterator[tuple[str, float]]:
    """Training mode with dropout, the n-th mask of the model given to the n-th of the mirror."""
    if not pair.has_dropout:
        return
    of_params, masks = [], []
    both = TrainMode(pair, jax.random.split(jax.random.key(0), pair.shape[0]))
    for _ in range(draws()):
        with equal_masks(masks):
            logits, params, _ = both(*pair.batch())
        yield "dropout with equal masks: logits", largest(*logits)
        of_params.append(gradient_error(*params))
    yield "dropout with equal masks: gradients", min(of_params)


@contextmanager
def equal_masks(masks: list[np.ndarray]):
    """Replace the masks of both sides by the same random ones, by order of the calls.

    Args:
      masks: takes those of the model, drawn when it is traced; the mirror is given them in turn.
    """
    given = iter(masks)  # also of what is added later
    random = np.random.default_rng(5)

    def ours(key, shape, rate):
        masks.append(random.random(shape) >= rate)
        return jnp.asarray(masks[-1])

    def theirs(x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        mask = next(given)
        if mask.ndim == 4 and x.ndim == 3:  # attention with heads folded into the batch
            mask = mask.reshape(x.shape)
        elif mask.ndim == 3 and mask.shape != x.shape:  # the class token's; others do not matter
            others = random.random((len(x), x.shape[1] - mask.shape[1], x.shape[2])) >= p
            mask = np.concatenate([mask, others], axis=1)
        elif mask.shape != tuple(x.shape):
            mask = mask.transpose(0, 3, 1, 2)
        return x * torch.from_numpy(mask) / (1 - p)

    kept = dropout.dropout_mask, functional.dropout
    dropout.dropout_mask, functional.dropout = ours, theirs
    try:
        yield
        if left := len(list(given)):
            raise ValueError(f"the mirror used {left} masks fewer than the model")
    finally:
        dropout.dropout_mask, functional.dropout = kept


def low_precision(pair: Pair) -> Iterator[tuple[str, float]]:
    """Weights, inputs and computation in bfloat16 against the mirror in float32."""
    if jax.config.jax_enable_x64:
        return
    images, _ = pair.batch()
    as_dtype(pair.model, jnp.bfloat16)
    # The bar is too coarse to see how well it is compiled, which takes long in bfloat16.
    quick = xla.QUICK if jax.default_backend() == "cpu" else None  # a TPU's compiler has others
    run = jax.jit(lambda model, x: model(x), compiler_options=quick)
    ours = np.asarray(run(pair.model, images.astype(jnp.bfloat16)), np.float32)
    theirs = pair.mirror.eval()(to_torch(images)).detach().numpy()
    yield "bfloat16 logits, relative", float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


# What measures the rungs, in the order of their cases, and the rate of dropout it needs.
_MEASURES = {
    forward: (("embedding", "each block alone", "attention", "features", "logits"), 0.0),
    gradients: (
        (
            "train-mode logits",
            "gradient of the images",
            "gradients of the parameters",
            "running statistics, 3 steps",
        ),
        0.0,
    ),
    low_precision: (("bfloat16 logits, relative",), 0.0),
    with_equal_masks: (
        ("dropout with equal masks: logits", "dropout with equal masks: gradients"),
        0.3,
    ),
}


def climb(
    name: str,
    cases: list[dict],
    mutate: Callable = lambda model: None,
    rungs: Collection[str] = tuple(BARS),
) -> dict[str, float]:
    """The largest error on each rung over all cases of a model.

    Args:
      name: of the model.
      cases: of `CASES`.
      mutate: changes every model that was loaded.
      rungs: those to measure; others may come with them.
    """
    errors: dict[str, float] = {}

    def note(results):
        for key, error in results:
            # A NaN must not get lost in a maximum.
            errors[key] = max(errors.get(key, 0.0), error if error == error else np.inf)

    for case in cases:
        for measure, (names, rate) in _MEASURES.items():
            if not set(names).isdisjoint(rungs):
                note(measure(Pair(name, case, mutate, rate)))
    if any(rung.startswith("recipe") for rung in rungs):
        note(training(name, Pair(name, CASES[name][PRIME] | {"batch": 8}, mutate)))
    return {rung: errors[rung] for rung in BARS if rung in errors}


def main() -> None:
    """Measure in the precision of this process and write the figures."""
    from tests.parity.mutations import measure_mutations

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mutations", action="store_true", help="also measure broken models")
    parser.add_argument("--full", action="store_true", help="published depths")
    parser.add_argument("--plain", action="store_true", help="without the CPU's ways")
    args = parser.parse_args()
    torch.set_num_threads(1)
    onednn.LEAST_FLOPS = 0  # so that small models meet oneDNN too
    result = {"errors": {}}
    # Without AVX-512 PyTorch's convolutions by oneDNN are up to 1e-5 away from float64, which
    # leaves nothing of the bar for ours; those of its own stay within 3e-6.
    with cpu.using(not args.plain), torch.backends.mkldnn.flags(enabled=False):
        for name in CASES:
            cases = full_size(CASES[name]) if args.full else CASES[name]
            result["errors"][name] = climb(name, cases)
        if args.mutations:
            result["mutations"] = measure_mutations()
    args.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
