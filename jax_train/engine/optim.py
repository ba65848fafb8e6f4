"""The optimizers: chains of optax parts in the order PyTorch applies them, by groups."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_train.engine import muon
from jax_train.engine.checks import group_configs
from jax_train.engine.field_checks import SCHEDULE_FREE
from jax_train.engine.schedules import Schedule, at_step, schedule_tables
from jax_train.engine.state import leaf_paths, merged, part
from jax_train.engine.trainable import ALL, Paths, Plan, matched


def create_optimizer(
    config: ConfigDict, schedule: Schedule, plan: Plan = ALL, probe_steps: int = 0
) -> optax.GradientTransformation:
    """Make the optimizer of a config; its updates equal those of `torch.optim` (docs/parity.md).

    - `adamw`: decoupled weight decay, times the learning rate (https://arxiv.org/abs/1711.05101).
    - `adam`: https://arxiv.org/abs/1412.6980, weight decay added to the gradient.
    - `sgd`: with momentum, plain or Nesterov; weight decay added to the gradient.
    - `lion`: https://arxiv.org/abs/2302.06675, decoupled weight decay.
    - `lamb`: https://arxiv.org/abs/1904.00962, as timm's: the trust ratio is of parameters that
      decay, or with `always_adapt` of all.
    - `muon`: see `muon`, with decoupled weight decay, for kernels; adamw for the others.
    - `schedule_free_adamw`: https://arxiv.org/abs/2405.15682, the part that is not in `average`.

    Gradients are clipped first, before any weight decay, by the norm over all that train. The
    schedule is read by the optimizer's own count of steps and keeps its last value after its end. A
    momentum table takes the place of `config.optim.beta1` or `config.optim.momentum`.

    In float32, optax works out Adam's bias correction `1 - beta2**t` from a rounded beta2, which
    PyTorch does in float64: the updates differ by 7e-7, 7e-6 and 8e-5 of their size for beta2 0.99,
    0.999 and 0.9999.

    Args:
      config: the whole config, checked; `optim` is read.
      schedule: from `schedule_tables`.
      plan: what trains, and the groups, each by its own config. With a probe, its parameters and
        the others have a count of steps each: after the probe the second one begins, at that place
        in the schedule.
      probe_steps: those of the probe.

    Returns:
      A transformation whose `init` and `update` are given all parameters, and `update` the
      gradients of those that train. Gradients of those of the probe alone leave the others, and
      what is kept for them, as they are.
    """
    clip_norm = config.optim.clip_norm
    clip = [clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    if plan.probed is None and not plan.groups:
        return _of_part(optax.chain(*clip, *_parts(config, schedule, plan)), plan.trained)
    phases = {"": (plan.trained, 0)}
    if plan.probed is not None:
        phases = {"head": (plan.probed, 0), "rest": (plan.later, probe_steps)}
    groups = {}
    for group, own, table, members in _members(config, schedule, plan):
        for phase, (paths, begin) in phases.items():
            name = "_".join(filter(None, (phase, group)))
            inner = optax.chain(*_parts(own, table.after(begin), plan))
            groups[name] = _common(paths, members), inner
    return _in_groups(clip[0] if clip else optax.identity(), groups)


def _members(
    config: ConfigDict, schedule: Schedule, plan: Plan
) -> Iterator[tuple[str, ConfigDict, Schedule, Paths | None]]:
    """Name, config, schedule and paths of each of `config.optim.groups`, and of the others."""
    if not plan.groups:
        yield "", config, schedule, None
        return
    *grouped, others = plan.groups
    steps_per_epoch = len(schedule.learning_rate) // config.train.epochs
    for i, (own, paths) in enumerate(zip(group_configs(config), grouped, strict=True)):
        yield f"group{i}", own, schedule_tables(own, steps_per_epoch), paths
    yield "others", config, schedule, others


def _common(one: Paths | None, other: Paths | None) -> Paths | None:
    """Paths that are in both; None stands for all."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _parts(config: ConfigDict, schedule: Schedule, plan: Plan) -> list:
    """What makes steps of clipped gradients."""
    optim, decay = config.optim, []
    if optim.weight_decay > 0:
        decay = [optax.add_decayed_weights(optim.weight_decay, _decayed(optim))]
    parts = OPTIMIZERS[optim.name](optim, schedule.momentum, decay)
    parts = [*parts, optax.scale_by_learning_rate(_lookup(schedule.learning_rate))]
    if plan.factors:
        parts.append(_scale_by_path(plan.factors))
    if optim.name == "muon" and optim.muon_normalize:
        parts.append(_of_kernels(optim, muon.normalize_weights(), optax.identity()))
    return parts


def _decayed(optim: ConfigDict) -> Callable[[Any], Any]:
    return partial(decay_mask, exclude=tuple(optim.decay_exclude))


def _scale_by_path(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the steps of some parameters, decay included, as rates of PyTorch's groups do."""

    def scale(updates, params=None):
        leaves, tree = jax.tree.flatten(updates)
        paths = zip(leaf_paths(updates), leaves, strict=True)
        scaled = [leaf * factors[path] if path in factors else leaf for path, leaf in paths]
        return jax.tree.unflatten(tree, scaled)

    return optax.stateless(scale)


def _of_part(
    inner: optax.GradientTransformation, paths: Collection[str] | None
) -> optax.GradientTransformation:
    """A transformation of those parameters alone that have one of the paths; None for all."""

    def update(gradients, state, params):
        return inner.update(gradients, state, part(params, paths))

    return optax.GradientTransformation(lambda params: inner.init(part(params, paths)), update)


def _in_groups(
    clip: optax.GradientTransformation,
    groups: Mapping[str, tuple[Collection[str], optax.GradientTransformation]],
) -> optax.GradientTransformation:
    """Transformations of groups of parameters; those without gradients stay as they are."""

    def init(params):
        return {name: inner.init(part(params, paths)) for name, (paths, inner) in groups.items()}

    def update(gradients, state, params):
        gradients, _ = clip.update(gradients, clip.init(gradients))
        updates, state = {}, dict(state)
        for name, (paths, inner) in groups.items():
            if own := part(gradients, paths):
                new, state[name] = inner.update(own, state[name], part(params, paths))
                updates = merged(updates, new)
        return updates, state

    return optax.GradientTransformation(init, update)


def _adam(optim: ConfigDict, beta1: np.ndarray | None) -> optax.GradientTransformation:
    if beta1 is None:
        return optax.scale_by_adam(optim.beta1, optim.beta2, optim.eps)
    # Only beta1 is injected: the others stay Python numbers, which are not rounded before use.
    adam = optax.inject_hyperparams(
        optax.scale_by_adam, static_args=("b2", "eps", "eps_root", "mu_dtype", "nesterov")
    )
    return adam(_lookup(beta1), optim.beta2, optim.eps)


def _momentum(optim: ConfigDict, momentum: np.ndarray | None) -> optax.GradientTransformation:
    if momentum is not None:
        trace = optax.inject_hyperparams(optax.trace, static_args=("nesterov", "accumulator_dtype"))
        return trace(_lookup(momentum), nesterov=optim.nesterov)
    if optim.momentum > 0:
        return optax.trace(optim.momentum, nesterov=optim.nesterov)
    return optax.identity()


def _lion(optim: ConfigDict, beta1: np.ndarray | None) -> optax.GradientTransformation:
    if beta1 is None:
        return optax.scale_by_lion(optim.beta1, optim.beta2)
    static = ("b2", "mu_dtype", "mode", "smooth_beta")
    lion = optax.inject_hyperparams(optax.scale_by_lion, static_args=static)
    return lion(_lookup(beta1), optim.beta2)


def _trust_ratio(optim: ConfigDict) -> list:
    if optim.always_adapt:
        return [optax.scale_by_trust_ratio()]
    decays = optim.weight_decay > 0
    return [optax.masked(optax.scale_by_trust_ratio(), _decayed(optim))] if decays else []


def _muon(optim: ConfigDict, momentum: np.ndarray | None) -> optax.GradientTransformation:
    orthogonal = muon.scale_by_muon(optim.muon_steps, optim.muon_scale, optim.eps)
    kernels = optax.chain(_momentum(optim, momentum), orthogonal)
    return _of_kernels(optim, kernels, _adam(optim, momentum))


def _of_kernels(
    optim: ConfigDict, inner: optax.GradientTransformation, others: optax.GradientTransformation
) -> optax.GradientTransformation:
    """A transformation of what Muon trains, and one of the other parameters."""

    def of(tree):
        leaves = zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
        paths = {path: leaf.ndim for path, leaf in leaves}
        kernels = frozenset(p for p in matched(paths, optim.muon_match) if paths[p] > 1)
        rest = frozenset(paths) - kernels
        return _in_groups(optax.identity(), {"kernels": (kernels, inner), "others": (rest, others)})

    return optax.GradientTransformation(
        lambda params: of(params).init(params),
        lambda updates, *rest: of(updates).update(updates, *rest),
    )


def _without_momentum(optim: ConfigDict) -> optax.GradientTransformation:
    """Adam with beta1 0."""
    return optax.scale_by_rms(optim.beta2, optim.eps, eps_in_sqrt=False, bias_correction=True)


# Each (the `optim` part of a config, momentum table or None, weight decay as a list of none or one
# part) -> the parts between clipping and the learning rate. The names are in
# `field_checks.OPTIMIZERS`.
OPTIMIZERS = {
    "adamw": lambda optim, momentum, decay: [_adam(optim, momentum), *decay],
    "adam": lambda optim, momentum, decay: [*decay, _adam(optim, momentum)],
    "sgd": lambda optim, momentum, decay: [*decay, _momentum(optim, momentum)],
    "lion": lambda optim, momentum, decay: [_lion(optim, momentum), *decay],
    "lamb": lambda optim, momentum, decay: [_adam(optim, momentum), *decay, *_trust_ratio(optim)],
    "muon": lambda optim, momentum, decay: [_muon(optim, momentum), *decay],
    SCHEDULE_FREE: lambda optim, momentum, decay: [_without_momentum(optim), *decay],
}


def _lookup(table: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    return partial(at_step, table)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale all gradients down together where their global norm is above `max_norm`.

    As `torch.nn.utils.clip_grad_norm_`: the factor is `min(1, max_norm / (norm + 1e-6))`. The
    1e-6, which `optax.clip_by_global_norm` does not have, would show in a float64 comparison.
    """

    def clip(updates, params=None):
        factor = jnp.minimum(1, max_norm / (optax.tree.norm(updates) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clip)


def decay_mask(params: Any, exclude: Sequence[str]) -> Any:
    """Tell for each parameter whether weight decay applies to it.

    Args:
      params: nested dicts of arrays.
      exclude: patterns (see `trainable`) of those that it does not apply to.

    Returns:
      The same tree with True (decayed) or False in place of the arrays.
    """
    paths = leaf_paths(params)
    left_out = matched(paths, exclude)
    return jax.tree.unflatten(jax.tree.structure(params), [path not in left_out for path in paths])
