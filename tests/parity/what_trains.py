"""Steps in which not all trains, or not all alike: the engine's beside PyTorch's, in float64."""

import functools
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jax_models import low_rank, torch_weights
from jax_train.engine import metrics, optim, seeds, steps
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import create_model, create_recipe
from jax_train.engine.state import cast, init_state
from tests import tiny
from tests.jax_models.small import SMALL, mirror_of
from tests.parity.cases import to_torch
from tests.parity.training import relative_error, torch_loss

EPOCHS, STEPS_PER_EPOCH, BATCH = 3, 2, 5

# What timm's `group_matcher`, and of ViTs BEiT's `get_num_layer_for_vit`, say of the mirror's
# names: the stem, and the blocks in their order; what is left goes with the head.
MATCHERS = {
    "vit_tiny_patch16_224": (r"cls_token|reg_token|pos_embed|patch_embed", r"blocks\.(\d+)\."),
    "resnet18": (r"conv1|bn1", r"layer(\d+)\.(\d+)\."),
    "convnext_tiny": (r"stem", r"stages\.(\d+)\.(?:downsample|blocks\.(\d+))\."),
}


def config_of(name: str, **changes):
    """A recipe of a small model, for 6 steps, in float64 and without dropout."""
    own = SMALL[name].settings
    settings = own | {key: 0.0 for key in ("dropout", "drop_path") if key in own}
    config = tiny.config("simple_cnn", **{"model.name": name, "model.widths": None})
    config.update_from_flattened_dict({f"model.{key}": value for key, value in settings.items()})
    channels = settings["in_channels"]
    config.update_from_flattened_dict(
        {
            "dtype": "float64",
            "data.mean": (0.5,) * channels,
            "data.std": (0.5,) * channels,
            "augment.crop_padding": 0,
            "train.epochs": EPOCHS,
            "train.batch_size": BATCH,
            "optim.weight_decay": 0.05,
            **changes,
        }
    )
    return config


def groups(mirror: torch.nn.Module, name: str, config) -> list[dict]:
    """PyTorch's parameter groups: a rate for each parameter by its layer and its name."""
    stem, block = MATCHERS[name]
    names = [name for name, _ in mirror.named_parameters()]

    def place(name):
        if re.match(stem, name):
            return (-1,)
        match = re.match(block, name)
        return tuple(int(n or 0) for n in match.groups()) if match else (10**9,)

    order = sorted({*map(place, names)})
    rates = config.optim.learning_rate
    found = []
    for each, parameter in mirror.named_parameters():
        scale = config.optim.layer_decay ** (len(order) - 1 - order.index(place(each)))
        for pattern, factor in config.optim.lr_scale:
            scale *= factor if re.search(pattern, each) else 1
        found.append({"params": [parameter], "lr": rates * scale})
    return found


class Sides(NamedTuple):
    """A model and its mirror with the same weights, and how each takes a step."""

    recipes: tuple  # of the probe, and of what follows
    mirror: torch.nn.Module
    state: object


def both_sides(name: str, config) -> Sides:
    """A model and its mirror on the same random weights."""
    torch.manual_seed(0)
    model = create_model(config, seeds.init_rngs(0))
    mirror = mirror_of(name, **{k: v for k, v in SMALL[name].settings.items() if "drop" not in k})
    mirror = mirror.double()
    with torch.no_grad():
        for key, tensor in mirror.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) if "var" in key else tensor * 2 + 0.1)
    nnx.update(model, cast(nnx.state(model), "float64"))
    torch_weights.load(model, mirror.state_dict())
    add_adapters(mirror, model)
    schedule = optim.schedule_tables(config, STEPS_PER_EPOCH)
    create = functools.partial(
        create_recipe, config, schedule, Layout(), STEPS_PER_EPOCH,
        class_weights=config.train.class_weights,
    )  # fmt: skip
    probing = create(probing=True) if config.train.probe_epochs else None
    recipe = create()
    return Sides((probing, recipe), mirror, init_state(model, recipe.optimizer, "float64"))


class LoraLinear(torch.nn.Module):
    """A Linear layer with an adapter, as PEFT's `lora.Linear` computes it."""

    def __init__(self, base: torch.nn.Linear, a, b, scale: float):
        super().__init__()
        self.base, self.scale = base, scale
        self.lora_a, self.lora_b = (torch.nn.Parameter(torch.tensor(np.asarray(m))) for m in (a, b))

    def forward(self, x):
        """x [..., in] -> [..., out]."""
        return self.base(x) + self.scale * (x @ self.lora_a @ self.lora_b)


def add_adapters(mirror: torch.nn.Module, model: nnx.Module) -> None:
    """Give a mirror with timm's names the adapters of a model."""
    for path, layer in low_rank.adapters(model).items():
        module, _, name = path.replace("projection", "proj").rpartition(".")
        place, adapter = mirror.get_submodule(module), (layer.lora_a[...], layer.lora_b[...])
        setattr(place, name, LoraLinear(getattr(place, name), *adapter, layer.lora_scale))


def merged_tensors(mirror: torch.nn.Module) -> dict[str, np.ndarray]:
    """The tensors of a mirror by name, adapters folded in."""
    tensors = {name: tensor.clone() for name, tensor in mirror.state_dict().items()}
    for name in [name for name in tensors if name.endswith("lora_a")]:
        module = name.removesuffix(".lora_a")
        a, b = tensors.pop(name), tensors.pop(f"{module}.lora_b")
        tensors[f"{module}.base.weight"] += mirror.get_submodule(module).scale * (a @ b).T
    return {name.replace(".base.", "."): tensor.numpy() for name, tensor in tensors.items()}


def torch_optimizer(config, parameters) -> torch.optim.Optimizer:
    """PyTorch's optimizer of a config."""
    of, decay = config.optim, {"weight_decay": config.optim.weight_decay}
    if of.name == "sgd":
        return torch.optim.SGD(parameters, momentum=of.momentum, **decay)
    return torch.optim.AdamW(parameters, betas=(of.beta1, of.beta2), eps=of.eps, **decay)


def errors(
    name: str, config, *, frozen: Callable[[str], bool] = lambda name: False,
    head: str = "head",
) -> Iterator[float]:  # fmt: skip
    """Relative errors of loss and parameters, step by step.

    Args:
      name: of the model.
      config: from `config_of`.
      frozen: whether a parameter of the mirror is.
      head: what the names of its head's begin with.
    """
    sides = both_sides(name, config)
    mirror, state = sides.mirror, sides.state
    optimizer = torch_optimizer(config, groups(mirror, name, config))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS_PER_EPOCH)
    random = np.random.default_rng(0)
    settings, weights = SMALL[name].settings, config.train.class_weights

    @jax.jit
    def step(state, images, labels, probing):
        mean_weight = weights and metrics.mean_weight(labels, weights)

        def of(recipe):
            def take(state):
                grads, stats, sums = steps.gradients(
                    recipe, state.params, state.stats, images, labels, None, mean_weight
                )
                return steps.update(recipe, state, grads, stats), sums.loss / BATCH

            return take

        if sides.recipes[0] is None:
            return of(sides.recipes[1])(state)
        return jax.lax.cond(probing, *map(of, sides.recipes), state)

    for i in range(EPOCHS * STEPS_PER_EPOCH):
        probing = i < config.train.probe_epochs * STEPS_PER_EPOCH
        images = random.normal(size=(BATCH, *SMALL[name].image, settings["in_channels"]))
        labels = random.integers(0, settings["num_classes"], BATCH)
        state, loss = step(state, jnp.asarray(images), jnp.asarray(labels), probing)
        mirror.train()
        for each, parameter in mirror.named_parameters():
            trains = not frozen(each) and (each.startswith(head) or not probing)
            parameter.requires_grad_(trains)
            parameter.grad = None
        for module in mirror.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        logits = mirror(to_torch(images))
        theirs = torch_loss(config, logits, torch.from_numpy(labels))
        theirs.backward()
        if config.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(mirror.parameters(), config.optim.clip_norm)
        optimizer.step()
        schedule.step()
        yield abs(float(loss) - theirs.item()) / abs(theirs.item())
        model = nnx.merge(sides.recipes[1].graphdef, state.params, state.stats)
        yield relative_error(torch_weights.export(model), merged_tensors(mirror))
