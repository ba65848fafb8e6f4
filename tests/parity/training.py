"""100 optimizer steps of each source's recipe, through the engine's own step and in PyTorch."""

import functools
import importlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch.nn import functional

from jax_models import torch_weights
from jax_models.torch_weights import tensors
from jax_train.engine import average, optim, steps, trainable
from jax_train.engine.checks import group_configs
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import Recipe
from jax_train.engine.state import init_state, leaf_paths
from jax_train.engine.trainable import Plan, matched
from tests import xla
from tests.parity.cases import Pair, to_torch

# The recipe that trains each model; its optimizer, schedule, weight decay and loss are used.
RECIPES = {
    "vit": "vit_cifar10",
    "simple_cnn": "cnn_cifar10",
    "attention_cnn": "attention_cnn_cifar10",
    "raster_vit": "raster_vit_cifar10",
    "deep_vit": "deep_vit_cifar100",
    "mnist_cnn": "cnn_mnist",
    "mnist_vit": "vit_mnist",
    "mlp_head_vit": "mlp_head_vit_cifar100",
    "deit_tiny_distilled_patch16_224": "vit_tiny_cifar10",
    "vit_small_patch14_reg4_dinov2": "vit_tiny_cifar10",
    "airbench94": "airbench94_cifar10",
    "cct_2_3x2": "cct2_cifar10",
    "sl_vit": "sl_vit_cifar10",
    "resnet18": "resnet18_cifar10",
    "convnext_tiny": "convnext_cifar10",
}
EPOCHS, STEPS_PER_EPOCH = 5, 20

# Biases that add the same to all scores of a query, or of a pool, which softmax takes out again:
# their gradient is zero in theory, so that Adam in float32 moves them by rounding alone. Left out
# of the float32 parameters: the key third of fused biases, and these.
_KEY_BIASES = ("key.bias", "phi.bias", "attention_pool.bias")
_FUSED_BIASES = ("qkv.bias", "in_proj_bias")


def get_recipe(name: str, batch_size: int):
    """The recipe of a model, its warm-up too, cut to 100 steps, with batches of another size."""
    module = importlib.import_module(f"configs.{RECIPES[name]}")
    config = module.get_config()
    config.schedule.warmup_epochs *= EPOCHS / config.train.epochs
    config.train.epochs, config.train.batch_size = EPOCHS, batch_size
    if name == "airbench94":  # its rates are of sums over a batch
        module.set_rates(config, learning_rate=11.5, weight_decay=0.0153)
    return config


def torch_optimizer(config, parameters, steps_per_epoch: int):
    """PyTorch's optimizer and schedule for a recipe, and whether the schedule steps by epoch."""
    epochs = config.train.epochs
    optim_, lr = config.optim, config.optim.learning_rate
    adam = {"lr": lr, "betas": (optim_.beta1, optim_.beta2), "eps": optim_.eps}
    if optim_.name == "sgd":
        decay = {"weight_decay": optim_.weight_decay, "nesterov": optim_.nesterov}
        optimizer = torch.optim.SGD(parameters, lr=lr, momentum=optim_.momentum, **decay)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim_.name]
        optimizer = kind(parameters, **adam, weight_decay=optim_.weight_decay)
    schedules = torch.optim.lr_scheduler
    # A warm-up changes the rate at every step.
    by_epoch = config.schedule.unit == "epoch" and not config.schedule.warmup_epochs
    if config.schedule.name == "onecycle":
        schedule = schedules.OneCycleLR(optimizer, lr, total_steps=epochs * steps_per_epoch)
    elif config.schedule.name == "constant":
        schedule = schedules.ConstantLR(optimizer, 1.0)
    elif config.schedule.name == "linear":
        count = epochs * steps_per_epoch
        factors = [_triangle(group["schedule"], count, epochs) for group in optimizer.param_groups]
        schedule = schedules.LambdaLR(optimizer, factors)
    else:
        count = epochs if by_epoch else epochs * steps_per_epoch
        schedule = _cosine(optimizer, count, config.schedule, steps_per_epoch)
    return optimizer, schedule, by_epoch


def _triangle(schedule, count: int, epochs: int):
    """Straight up to the peak and down, as airbench works it out."""
    peak = schedule.warmup_epochs / epochs * count
    stop = schedule.stop_epochs / epochs * count or count
    known = [0, peak, count], [schedule.warmup_factor, 1, schedule.final_factor]
    return lambda step: np.interp(step, *known) if step < stop else 0.0


def _cosine(optimizer, count: int, schedule, steps_per_epoch: int):
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    every = steps_per_epoch if schedule.unit == "epoch" else 1
    schedules = torch.optim.lr_scheduler
    if not warmup_steps:
        return schedules.CosineAnnealingLR(optimizer, count)

    def factor(step):
        first, last = schedule.warmup_factor, schedule.final_factor
        if step < warmup_steps:
            return first + (1 - first) * step / warmup_steps
        changed = max(step // every * every, warmup_steps)
        wave = 1 + np.cos(np.pi * (changed - warmup_steps) / (count - warmup_steps))
        return last + (1 - last) * wave / 2

    return schedules.LambdaLR(optimizer, factor)


def torch_loss(config, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean training loss of a config; binary cross-entropy as timm defines it."""
    train = config.train
    weights, smoothing = train.class_weights, train.label_smoothing
    weights = weights and torch.tensor(weights, dtype=logits.dtype)
    if train.loss == "cross_entropy":
        return functional.cross_entropy(logits, labels, weights, label_smoothing=smoothing)
    hot = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    shares = (1 - smoothing) * hot + smoothing / logits.shape[1]
    if train.bce_threshold is not None:
        shares = shares > train.bce_threshold
    how = {"weight": weights, "reduction": "none"}
    losses = functional.binary_cross_entropy_with_logits(logits, shares.to(logits.dtype), **how)
    return (losses.sum(-1) if train.bce_sum else losses).mean()


def parameter_groups(config, pair: Pair, plan: Plan) -> list[dict]:
    """Those of the mirror that train, by the group and factor of their rate; the others freeze."""
    state = nnx.to_flat_state(nnx.state(pair.model, nnx.Param))
    paths = {id(variable): ".".join(map(str, keys)) for keys, variable in state}
    entries = tensors.named_entries(pair.model, None)
    bare = matched(paths.values(), config.optim.decay_exclude)
    own = [*group_configs(config), config]
    groups = {}
    for name, parameter in pair.mirror.named_parameters():
        path = paths[id(entries[name].variable)]
        parameter.requires_grad_(plan.trained is None or path in plan.trained)
        if parameter.requires_grad:
            place = next((i for i, members in enumerate(plan.groups) if path in members), -1)
            key = (place, plan.factors.get(path, 1.0), path in bare)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": own[place].optim.learning_rate * factor,
            "weight_decay": 0.0 if without else own[place].optim.weight_decay,
            "schedule": own[place].schedule,
        }
        for (place, factor, without), parameters in groups.items()
    ]


class Lookahead:
    """airbench's: https://github.com/KellerJordan/cifar10-airbench, legacy/airbench94.py."""

    def __init__(self, model: torch.nn.Module, config):
        self._optim, self._model = config.optim, model
        self._slow = [tensor.clone() for tensor in self._tensors()]

    def _tensors(self) -> list[torch.Tensor]:
        return [t for t in self._model.state_dict().values() if t.is_floating_point()]

    def update(self, done: int, count: int) -> None:
        """After `done` of `count` steps: every so many of them both become their average."""
        if done % self._optim.lookahead_steps:
            return
        over = (done / count) ** self._optim.lookahead_power
        kept = (1 - self._optim.lookahead_alpha) * over
        for slow, fast in zip(self._slow, self._tensors(), strict=True):
            slow.mul_(kept).add_(fast, alpha=1 - kept)
            fast.copy_(slow)


def training(name: str, pair: Pair) -> Iterator[tuple[str, float]]:
    """Losses and final parameters after 100 steps on identical batches, without dropout."""
    config = get_recipe(name, pair.shape[0])
    plan = trainable.plan(config, leaf_paths(nnx.to_pure_dict(nnx.state(pair.model, nnx.Param))))
    tables = optim.schedule_tables(config, STEPS_PER_EPOCH)
    transform = optim.create_optimizer(config, tables, plan)
    recipe = Recipe(
        graphdef=nnx.split(pair.model, nnx.Param, ...)[0],
        optimizer=transform,
        augmentation=None,
        layout=Layout(),
        seed=0,
        batch_size=pair.shape[0],
        steps_per_epoch=STEPS_PER_EPOCH,
        loss=config.train.loss,
        label_smoothing=config.train.label_smoothing,
        bce_threshold=config.train.bce_threshold,
        bce_sum=config.train.bce_sum,
        dtype=str(pair.dtype.dtype),
        trained=plan.trained,
        average=average.create(config, tables),
    )
    averages = recipe.average is not None
    state = jax.jit(lambda model: init_state(model, transform, averages=averages))(pair.model)

    @functools.partial(jax.jit, compiler_options=xla.for_many_steps())
    def step(state, images, labels):
        grads, stats, sums = steps.gradients(
            recipe, state.params, state.stats, images, labels, None
        )
        return steps.update(recipe, state, grads, stats), sums

    optimizer, schedule, by_epoch = torch_optimizer(
        config, parameter_groups(config, pair, plan), STEPS_PER_EPOCH
    )
    pair.mirror.train()
    lookahead = Lookahead(pair.mirror, config) if config.optim.lookahead_steps else None
    for i in range(EPOCHS * STEPS_PER_EPOCH):
        images, labels = pair.batch()
        state, sums = step(state, jnp.asarray(images), jnp.asarray(labels))
        optimizer.zero_grad()
        loss = torch_loss(config, pair.mirror(to_torch(images)), torch.from_numpy(labels))
        loss.backward()
        optimizer.step()
        if lookahead:
            lookahead.update(i + 1, EPOCHS * STEPS_PER_EPOCH)
        if not by_epoch or (i + 1) % STEPS_PER_EPOCH == 0:
            schedule.step()
        error = abs(float(sums.loss) / pair.shape[0] - loss.item()) / abs(loss.item())
        yield "recipe, loss of 100 steps", error
        if i < 5:
            yield "recipe, loss of the first 5 steps", error
    ours = torch_weights.export(nnx.merge(recipe.graphdef, *state.reported))
    theirs = {name: tensor.numpy() for name, tensor in pair.mirror.state_dict().items()}
    yield "recipe, parameters after 100 steps", relative_error(ours, theirs)


def relative_error(ours: dict, theirs: dict) -> float:
    """‖difference‖ / ‖values‖ over all parameters and statistics together."""
    difference = total = 0.0
    for name, value in theirs.items():
        gap = np.asarray(ours[name] - value, np.float64)
        if not jax.config.jax_enable_x64:
            if name.endswith(_KEY_BIASES):
                continue
            if name.endswith(_FUSED_BIASES):
                gap[len(gap) // 3 : 2 * len(gap) // 3] = 0
        difference += np.square(gap).sum()
        total += np.square(np.asarray(value, np.float64)).sum()
    return float(np.sqrt(difference / total))
