"""Optimizers that are not in torch against their papers, Muon and groups against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from jax_train.engine import average, optim, steps, trainable
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import Recipe
from jax_train.engine.state import TrainState, Weights, leaf_paths
from tests import xla
from tests.jax_train.engine.optimizer_references import REFERENCES
from tests.with_torch import torch

EPOCHS, PER_EPOCH = 4, 25


def config_of(**changes):
    config = common.get_config()
    config.train.epochs, config.optim.learning_rate = EPOCHS, 3e-3
    config.update_from_flattened_dict(changes)
    return config


def random_params(seed=7):
    """A network's few arrays in nested dicts, float64."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(0, 0.05, shape)  # noqa: E731
    return {
        "conv": {"kernel": draw(3, 2, 5, 7), "bias": draw(7)},
        "blocks": {0: {"fc": {"kernel": draw(31, 17), "bias": draw(17)}}, 1: {"scale": draw(13)}},
        "head": {"kernel": draw(13, 5), "bias": draw(5)},
    }


class Problem:
    """Noisy gradients of a quadratic loss, whose size differs by place, for jax and NumPy."""

    def __init__(self, params):
        rng = np.random.default_rng(11)
        self.tree = jax.tree.structure(params)
        shapes = [p.shape for p in jax.tree.leaves(params)]
        self.curves = [10 ** rng.uniform(-4, 0, shape) for shape in shapes]
        self.noise = [rng.normal(size=(EPOCHS * PER_EPOCH, *shape)) for shape in shapes]

    def gradient(self, leaves, step):
        """One array for each parameter."""
        three = zip(leaves, self.curves, self.noise, strict=True)
        return [c * (p + jnp.asarray(n)[step]) for p, c, n in three]

    def numpy_gradient(self, leaves, step):
        """The same without jax."""
        three = zip(leaves, self.curves, self.noise, strict=True)
        return [c * (p + n[step]) for p, c, n in three]


def run_ours(config, params, problem, count=EPOCHS * PER_EPOCH):
    """The reported parameters after steps by `steps.update`."""
    plan = trainable.plan(config, leaf_paths(params))
    schedule = optim.schedule_tables(config, PER_EPOCH)
    recipe = Recipe(
        graphdef=None, augmentation=None, layout=Layout(), seed=0, batch_size=1,
        optimizer=optim.create_optimizer(config, schedule, plan), steps_per_epoch=PER_EPOCH,
        average=average.create(config, schedule),
    )  # fmt: skip
    params = jax.tree.map(jnp.asarray, params)
    averaged = Weights(params, {}) if recipe.average else None
    state = TrainState(jnp.int32(0), params, {}, averaged, recipe.optimizer.init(params))

    @functools.partial(jax.jit, compiler_options=xla.QUICK)
    def step(state):
        leaves = jax.tree.leaves(average.gradient_params(recipe.average, state))
        gradients = problem.tree.unflatten(problem.gradient(leaves, state.step))
        return steps.update(recipe, state, gradients, {})

    for _ in range(count):
        state = step(state)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.reported.params)]


def assert_close(got, expected, start, tolerance=1e-12):
    norm = lambda arrays: np.sqrt(sum(np.square(a).sum() for a in arrays))  # noqa: E731
    error = norm([np.asarray(a) - b for a, b in zip(got, expected, strict=True)])
    moved = norm([a - b for a, b in zip(expected, start, strict=True)])
    assert {a.dtype for a in got} == {np.dtype(np.float64)}
    assert moved > 1e-2 * norm(start)
    assert error <= tolerance * moved, error / moved


EXCLUDED = ("bias$", "scale$")
WARM = {"schedule.name": "constant", "schedule.warmup_epochs": 0.5, "schedule.warmup_factor": 0.1}
CASES = {
    "lion": ("lion", {"optim.name": "lion", "optim.beta2": 0.98, "optim.weight_decay": 0.3}),
    "lamb": ("lamb", {"optim.name": "lamb", "optim.eps": 1e-6, "optim.weight_decay": 0.02}),
    "lamb, always": (
        "lamb",
        {"optim.name": "lamb", "optim.weight_decay": 0.02, "optim.always_adapt": True},
    ),
    "schedule-free": (
        "schedule_free_adamw",
        {"optim.name": "schedule_free_adamw", "optim.weight_decay": 0.02, **WARM},
    ),
    "lookahead": (
        "lookahead_sgd",
        {"optim.name": "sgd", "optim.learning_rate": 0.3, "optim.lookahead_steps": 7},
    ),
    "lookahead of airbench": (
        "lookahead_sgd",
        {"optim.name": "sgd", "optim.learning_rate": 0.3, "optim.lookahead_steps": 5}
        | {"optim.lookahead_alpha": 1 - 0.95**5, "optim.lookahead_power": 3},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_are_the_papers(case):
    name, changes = CASES[case]
    config = config_of(**{"optim.decay_exclude": EXCLUDED, **changes})
    params = random_params()
    problem, start = Problem(params), jax.tree.leaves(params)
    decays = [path.endswith("kernel") for path in leaf_paths(params)]
    rates = optim.schedule_tables(config, PER_EPOCH).learning_rate
    expected = REFERENCES[name](
        [p.copy() for p in start], problem.numpy_gradient, rates, config.optim, decays
    )
    with jax.enable_x64(True):
        got = run_ours(config, params, problem)
    assert_close(got, expected, start)


# torch


@pytest.fixture
def one_thread():
    """Small products of torch take thirty times as long on several."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


def run_torch(problem, params, create, factors):
    """`create` makes optimizers of {path: parameter}; `factors` scale their rates by step."""
    leaves = jax.tree.leaves(params)
    tensors = [torch.nn.Parameter(torch.tensor(_to_torch(p))) for p in leaves]
    optimizers = create(dict(zip(leaf_paths(params), tensors, strict=True)))
    rates = [[group["lr"] for group in one.param_groups] for one in optimizers]
    for step in range(EPOCHS * PER_EPOCH):
        own = [_from_torch(t.detach().numpy(), p) for t, p in zip(tensors, leaves, strict=True)]
        gradients = problem.numpy_gradient(own, step)
        for tensor, g in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(_to_torch(g))
        for one, starts in zip(optimizers, rates, strict=True):
            for group, rate in zip(one.param_groups, starts, strict=True):
                group["lr"] = rate * factors[group.get("schedule", "cosine")][step]
            one.step()
    return [_from_torch(t.detach().numpy(), p) for t, p in zip(tensors, leaves, strict=True)]


def _to_torch(array):
    """A kernel [..., inputs, outputs] as torch's matrix [outputs, all inputs]."""
    return array if array.ndim < 2 else array.reshape(-1, array.shape[-1]).T.copy()


def _from_torch(array, like):
    return array if array.ndim < 2 else array.T.reshape(like.shape)


_DONE = np.arange(EPOCHS * PER_EPOCH) / (EPOCHS * PER_EPOCH)
FACTORS = {"cosine": (1 + np.cos(np.pi * _DONE)) / 2, "linear": 1 - 0.9 * _DONE}


@pytest.mark.parametrize(
    ("nesterov", "scale", "adjusted"),
    [(True, "shape", "original"), (False, "rms", "match_rms_adamw")],
)
def test_muon_and_adamw_beside_it_are_torchs(nesterov, scale, adjusted, monkeypatch, one_thread):
    # torch rounds the matrices to bfloat16 on the way.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    config = config_of(
        **{"optim.name": "muon", "optim.momentum": 0.9, "optim.nesterov": nesterov},
        **{"optim.weight_decay": 0.05, "optim.muon_scale": scale, "optim.eps": 1e-15},
    )

    def create(tensors):
        kernels = [t for path, t in tensors.items() if path.endswith("kernel")]
        others = [t for path, t in tensors.items() if not path.endswith("kernel")]
        return (
            torch.optim.Muon(kernels, 3e-3, 0.05, 0.9, nesterov, eps=1e-15, adjust_lr_fn=adjusted),
            torch.optim.AdamW(others, 3e-3, eps=1e-15, weight_decay=0.05),
        )

    params = random_params()
    problem = Problem(params)
    expected = run_torch(problem, params, create, FACTORS)
    with jax.enable_x64(True):
        got = run_ours(config, params, problem)
    assert_close(got, expected, jax.tree.leaves(params), 1e-11)


def test_muon_makes_matrices_orthogonal_and_brings_weights_to_a_norm():
    config = config_of(
        **{"optim.name": "muon", "optim.momentum": 0.6, "optim.muon_scale": "none"},
        **{"optim.muon_normalize": True, "optim.muon_match": (r"conv.kernel$",)},
        **{"schedule.name": "constant"},
    )
    params = random_params()
    problem, start = Problem(params), params["conv"]["kernel"]
    with jax.enable_x64(True):
        got = dict(zip(leaf_paths(params), run_ours(config, params, problem, 1), strict=True))
    scaled = start * 7**0.5 / np.linalg.norm(start)
    step = (scaled - got["conv.kernel"]).reshape(-1, 7) / 3e-3
    values = np.linalg.svd(step, compute_uv=False)
    assert ((values > 0.6) & (values < 1.3)).all()
    steps_of_adam = np.abs(got["head.kernel"] - params["head"]["kernel"])
    np.testing.assert_allclose(np.median(steps_of_adam), 3e-3, rtol=1e-3)


def test_groups_are_torchs_with_rate_decay_optimizer_and_schedule_of_their_own(one_thread):
    groups = (
        ("^head", {"learning_rate": 0.02, "weight_decay": 0.3, "schedule.name": "linear"}),
        ("bias$", {"name": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0}),
    )
    changes = {"optim.groups": groups, "optim.weight_decay": 0.05, "schedule.final_factor": 0.0}
    groups[0][1]["schedule.final_factor"] = 0.1
    config = config_of(**changes, **{"optim.lr_scale": ((r"^conv", 0.5),)})

    def create(tensors):
        def those(test):
            return [tensor for path, tensor in tensors.items() if test(path)]

        def bias(path):
            return path.endswith("bias") and not path.startswith("head")

        head = {"params": those(lambda p: p.startswith("head")), "lr": 0.02, "weight_decay": 0.3}
        conv = {"params": [tensors["conv.kernel"]], "lr": 1.5e-3}
        rest = {"params": [tensors["blocks.0.fc.kernel"], tensors["blocks.1.scale"]]}
        adamw = torch.optim.AdamW(
            [head | {"schedule": "linear"}, conv, rest], 3e-3, weight_decay=0.05
        )
        sgd = [{"params": [tensors["conv.bias"]], "lr": 1.5e-3}]
        sgd.append({"params": those(lambda p: bias(p) and not p.startswith("conv"))})
        return adamw, torch.optim.SGD(sgd, 3e-3, momentum=0.8, nesterov=True)

    params = random_params()
    problem = Problem(params)
    expected = run_torch(problem, params, create, FACTORS)
    with jax.enable_x64(True):
        got = run_ours(config, params, problem)
    assert_close(got, expected, jax.tree.leaves(params))


def test_with_a_probe_each_group_has_a_part_of_its_own():
    config = config_of(**{"optim.groups": (("bias$", {"name": "sgd"}),)})
    params = random_params()
    paths = leaf_paths(params)
    head = frozenset(path for path in paths if path.startswith("head"))
    groups = trainable.plan(config, paths).groups
    assert groups[0] == {path for path in paths if path.endswith("bias")}
    plan = trainable.Plan(None, head, frozenset(paths) - head, {}, groups)
    schedule = optim.schedule_tables(config, PER_EPOCH)
    rates = schedule.learning_rate
    optimizer = optim.create_optimizer(config, schedule, plan, probe_steps=3)
    state = optimizer.init(params)
    assert set(state) == {"head_group0", "head_others", "rest_group0", "rest_others"}
    ones = jax.tree.map(jnp.ones_like, params)
    updates, after = optimizer.update({"head": ones["head"]}, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure({"head": ones["head"]})
    np.testing.assert_allclose(updates["head"]["bias"], -rates[0], rtol=1e-6)
    updates, _ = optimizer.update(ones, after, params)
    np.testing.assert_allclose(updates["head"]["bias"], -rates[1], rtol=1e-6)
    np.testing.assert_allclose(updates["conv"]["bias"], -rates[3], rtol=1e-6)
