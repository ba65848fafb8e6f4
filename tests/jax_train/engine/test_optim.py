"""Schedules and optimizers against torch, in float32 and float64."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from jax_train.engine import optim
from tests.with_torch import torch

PEAK = 3e-3


def make_config(**fields):
    """A config with `section__name=value` changed."""
    config = common.get_config()
    config.optim.learning_rate = PEAK
    for field, value in fields.items():
        section, name = field.split("__")
        config[section][name] = value
    return config


# Schedules


def torch_rates(total, make_scheduler, every=1, momentum_of=None):
    """Rate (and momentum) of each step; the scheduler is stepped after every `every` steps."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    if momentum_of == "sgd":
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    scheduler = make_scheduler(optimizer)
    rates, momenta = [], []
    for step in range(1, total + 1):
        group = optimizer.param_groups[0]
        rates.append(group["lr"])
        momenta.append(group["momentum"] if momentum_of == "sgd" else group["betas"][0])
        optimizer.step()
        if step % every == 0 and step < total:
            scheduler.step()
    return np.array(rates), np.array(momenta)


def assert_same_table(got, expected):
    assert got.dtype == np.float64
    for table in (got, np.asarray(jnp.asarray(got))):  # as it is, and as jax will see it
        error = np.abs(table - expected)
        assert (error <= np.where(expected == 0, 1e-7 * PEAK, 1e-7 * expected)).all(), error.max()
    assert jnp.asarray(got).dtype == jnp.float32


@pytest.mark.parametrize("final_factor", [0.0, 0.07])
@pytest.mark.parametrize(("unit", "every"), [("step", 1), ("epoch", 97)])
def test_cosine_is_torchs(unit, every, final_factor):
    epochs, steps_per_epoch = 23, 97
    config = make_config(
        train__epochs=epochs, schedule__unit=unit, schedule__final_factor=final_factor
    )
    expected, _ = torch_rates(
        epochs * steps_per_epoch,
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, epochs * steps_per_epoch // every, eta_min=final_factor * PEAK
        ),
        every,
    )
    schedule = optim.schedule_tables(config, steps_per_epoch)
    assert_same_table(schedule.learning_rate, expected)
    assert schedule.momentum is None
    if unit == "epoch":
        assert len(np.unique(schedule.learning_rate)) == epochs


@pytest.mark.parametrize(
    ("epochs", "steps", "fields"),
    [
        (7, 23, {}),
        (19, 196, {}),
        (7, 23, {"pct_start": 0.0, "div_factor": 7.0}),
        (7, 23, {"pct_start": 1.0, "final_div_factor": 13.0}),
        (5, 31, {"pct_start": 0.17, "base_momentum": 0.61, "max_momentum": 0.89}),
        (1, 3, {"pct_start": 0.3}),
    ],
)
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_onecycle_is_torchs(name, epochs, steps, fields):
    config = make_config(train__epochs=epochs, schedule__name="onecycle", optim__name=name)
    config.schedule.update(fields)
    rates, momenta = torch_rates(
        epochs * steps,
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK, epochs * steps, **fields
        ),
        momentum_of=name,
    )
    schedule = optim.schedule_tables(config, steps)
    assert_same_table(schedule.learning_rate, rates)
    assert_same_table(schedule.momentum, momenta)


def test_onecycle_without_momentum_and_with_a_span_of_no_steps():
    fields = {"schedule__name": "onecycle", "schedule__cycle_momentum": False}
    config = make_config(train__epochs=2, schedule__pct_start=0.1, **fields)
    schedule = optim.schedule_tables(config, 5)  # torch divides 0 by 0 here
    assert schedule.momentum is None
    np.testing.assert_allclose(schedule.learning_rate[0], PEAK / 25)
    np.testing.assert_allclose(schedule.learning_rate[-1], PEAK / 25e4)
    assert np.isfinite(schedule.learning_rate).all()


def test_constant():
    config = make_config(train__epochs=3, schedule__name="constant")
    np.testing.assert_array_equal(optim.schedule_tables(config, 7).learning_rate, np.full(21, PEAK))


def test_warm_up_then_cosine_per_step_is_optaxs():
    config = make_config(train__epochs=11, schedule__warmup_epochs=2.0, schedule__final_factor=0.05)
    rates = optim.schedule_tables(config, 7).learning_rate
    reference = optax.warmup_cosine_decay_schedule(0.0, PEAK, 14, 77, 0.05 * PEAK)
    np.testing.assert_allclose(rates, reference(np.arange(77)), rtol=1e-5, atol=1e-7 * PEAK)


@pytest.mark.parametrize(("unit", "every"), [("step", 1), ("epoch", 7)])
def test_linear_is_torchs(unit, every):
    fields = {"schedule__name": "linear", "schedule__unit": unit, "schedule__final_factor": 0.2}
    config = make_config(train__epochs=5, **fields)
    expected, _ = torch_rates(
        35,
        lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.2, 35 // every),
        every,
    )
    assert_same_table(optim.schedule_tables(config, 7).learning_rate, expected)


def test_linear_after_a_warm_up_is_airbenchs_triangle():
    fields = {"schedule__name": "linear", "schedule__final_factor": 0.07}
    fields |= {"schedule__warmup_epochs": 2.3, "schedule__warmup_factor": 0.2}
    rates = optim.schedule_tables(make_config(train__epochs=10, **fields), 10).learning_rate
    expected = np.interp(np.arange(100), [0, 23, 100], [0.2, 1, 0.07])
    np.testing.assert_allclose(rates, PEAK * expected, rtol=1e-12)


@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_trapezoid(unit):
    fields = {"schedule__name": "trapezoid", "schedule__unit": unit, "schedule__final_factor": 0.1}
    fields |= {"schedule__warmup_epochs": 1.0, "schedule__cooldown_epochs": 4.0}
    rates = optim.schedule_tables(make_config(train__epochs=10, **fields), 10).learning_rate
    steps = np.arange(100) if unit == "step" else np.arange(100) // 10 * 10
    expected = np.interp(steps, [0, 10, 60, 100], [0, 1, 1, 0.1])
    expected[:10] = np.arange(10) / 10  # the warm-up is by step
    np.testing.assert_allclose(rates, PEAK * expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "linear", "trapezoid"])
def test_a_shorter_schedule_stays_at_its_end_and_stops(name):
    fields = {"schedule__name": name, "schedule__final_factor": 0.1}
    fields |= {"schedule__cooldown_epochs": 0.5, "schedule__warmup_epochs": 0.3}
    short = optim.schedule_tables(make_config(train__epochs=2, **fields), 10).learning_rate
    fields |= {"schedule__length_epochs": 2.0, "schedule__stop_epochs": 4.0}
    rates = optim.schedule_tables(make_config(train__epochs=5, **fields), 10).learning_rate
    np.testing.assert_array_equal(rates[:20], short)
    np.testing.assert_allclose(rates[20:40], 0.1 * PEAK, rtol=1e-12)
    assert (rates[40:] == 0).all()


@pytest.mark.parametrize("name", ["cosine", "constant"])
def test_warm_up_rises_every_step_whatever_the_unit(name):
    config = make_config(
        train__epochs=7,
        schedule__name=name,
        schedule__unit="epoch",
        schedule__warmup_epochs=1.5,
    )
    rates = optim.schedule_tables(config, 10).learning_rate
    np.testing.assert_allclose(rates[:16], PEAK * np.arange(16) / 15)
    epochs = rates[20:].reshape(5, 10)
    assert (epochs == epochs[:, :1]).all()
    expected = (1 + np.cos(np.pi * (np.arange(2, 7) - 1.5) / 5.5)) / 2 if name == "cosine" else 1.0
    np.testing.assert_allclose(epochs[:, 0], PEAK * np.broadcast_to(expected, 5))


# Optimizers


def random_params(dtype, rng):
    """Small tensors of a network's usual sizes and magnitudes, in nested dicts."""
    draw = lambda *shape: rng.normal(0, 0.05, shape).astype(dtype)  # noqa: E731
    return {
        "blocks": {
            0: {
                "mlp": {"kernel": draw(31, 17), "bias": draw(17)},
                "norm1": {"scale": 1 + draw(31)},
            },
            1: {
                "mlp": {"kernel": draw(17, 13), "bias": draw(13)},
                "norm1": {"scale": 1 + draw(17)},
            },
        },
        "head": {"kernel": draw(13, 5), "bias": draw(5)},
    }


def random_gradients(params, rng):
    """Gradients from 1e-7 to 1, so that eps matters for some."""
    return jax.tree.map(
        lambda p: (rng.normal(size=p.shape) * 10 ** rng.uniform(-7, 0, p.shape)).astype(p.dtype),
        params,
    )


ONECYCLE = {"schedule__name": "onecycle"}
SGD = {"optim__name": "sgd"}
# Fields of the config, the torch optimizer with the same meaning.
CASES = {
    "adamw": (
        {"optim__weight_decay": 0.05, "optim__beta1": 0.87, "optim__eps": 1e-6},
        lambda p: torch.optim.AdamW(p, PEAK, betas=(0.87, 0.999), weight_decay=0.05, eps=1e-6),
    ),
    "adamw onecycle": (
        {"optim__weight_decay": 0.03, **ONECYCLE},
        lambda p: torch.optim.AdamW(p, PEAK, weight_decay=0.03),
    ),
    "adam": (
        {"optim__name": "adam", "optim__weight_decay": 0.02, "optim__beta2": 0.97},
        lambda p: torch.optim.Adam(p, PEAK, betas=(0.9, 0.97), weight_decay=0.02),
    ),
    "adam onecycle": ({"optim__name": "adam", **ONECYCLE}, lambda p: torch.optim.Adam(p, PEAK)),
    "sgd": (SGD, lambda p: torch.optim.SGD(p, PEAK)),
    "sgd momentum": (
        {"optim__momentum": 0.9, "optim__weight_decay": 0.04, **SGD},
        lambda p: torch.optim.SGD(p, PEAK, momentum=0.9, weight_decay=0.04),
    ),
    "sgd nesterov clipped": (
        {
            "optim__momentum": 0.8,
            "optim__nesterov": True,
            "optim__weight_decay": 0.04,
            "optim__clip_norm": 3.0,
            **SGD,
        },
        lambda p: torch.optim.SGD(p, PEAK, momentum=0.8, nesterov=True, weight_decay=0.04),
    ),
    "sgd onecycle": ({**SGD, **ONECYCLE}, lambda p: torch.optim.SGD(p, PEAK, momentum=0.5)),
}


def run_ours(config, schedule, params, gradients):
    optimizer = optim.create_optimizer(config, schedule)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, gradient)
    return jax.tree.leaves(params)


def run_torch(config, make_optimizer, params, gradients):
    params = [torch.nn.Parameter(torch.tensor(p)) for p in jax.tree.leaves(params)]
    optimizer = make_optimizer(params)
    if config.schedule.name == "onecycle":
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, len(gradients))
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(gradients))
    for index, gradient in enumerate(gradients):
        for param, g in zip(params, jax.tree.leaves(gradient), strict=True):
            param.grad = torch.tensor(g)
        if config.optim.clip_norm:
            torch.nn.utils.clip_grad_norm_(params, config.optim.clip_norm)
        optimizer.step()
        if index + 1 < len(gradients):
            scheduler.step()
    return [p.detach().numpy() for p in params]


def norm(tensors):
    return np.sqrt(sum(np.sum(np.square(t, dtype=np.float64)) for t in tensors))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_are_torchs(case, dtype, tolerance):
    fields, make_optimizer = CASES[case]
    config = make_config(train__epochs=4, **fields)
    rng = np.random.default_rng(7)
    params = random_params(dtype, rng)
    gradients = [random_gradients(params, rng) for _ in range(100)]
    expected = run_torch(config, make_optimizer, params, gradients)
    with jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext():
        got = run_ours(config, optim.schedule_tables(config, 25), params, gradients)
    assert {p.dtype for p in got} == {np.dtype(dtype)}
    start = jax.tree.leaves(params)
    error = norm([np.asarray(a) - b for a, b in zip(got, expected, strict=True)])
    # The way that was gone is shorter than the parameters are long: a stricter measure.
    moved = norm([a - b for a, b in zip(expected, start, strict=True)])
    print(
        f"{case} {dtype.__name__}: {error / norm(expected):.1e} of the parameters, "
        f"{error / moved:.1e} of the way"
    )
    assert moved > 1e-3 * norm(start)
    assert error <= tolerance * norm(expected)
    assert error <= tolerance * moved


@pytest.mark.parametrize("case", CASES)
def test_every_optimizer_learns(case):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(61, 5)).astype(np.float32)
    targets = inputs @ rng.normal(size=(5, 3)).astype(np.float32)
    config = make_config(train__epochs=8, **CASES[case][0])
    config.optim.learning_rate = 0.2
    config.optim.weight_decay *= 0.1
    optimizer = optim.create_optimizer(config, optim.schedule_tables(config, 25))
    params = {"kernel": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)}
    loss = lambda params: jnp.mean((inputs @ params["kernel"] - targets) ** 2)  # noqa: E731

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=200)
    assert losses[0] > 1
    assert loss(params) < 1e-3 * losses[0]


def test_the_rate_follows_the_table_and_then_stays():
    config = make_config(train__epochs=2, schedule__final_factor=0.1, **SGD)
    schedule = optim.schedule_tables(config, 3)
    optimizer = optim.create_optimizer(config, schedule)
    params = {"kernel": jnp.zeros(2)}
    state, rates = optimizer.init(params), []
    for _ in range(9):
        updates, state = optimizer.update({"kernel": jnp.array([1.0, -2.0])}, state, params)
        rates.append(-updates["kernel"][0])
    expected = np.append(schedule.learning_rate, [schedule.learning_rate[-1]] * 3)
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    assert rates[-1] > 0


@pytest.mark.parametrize(
    ("case", "moments", "scalars"),
    [("adamw", 2, 2), ("adamw onecycle", 2, 5), ("sgd", 0, 1), ("sgd momentum", 1, 1)],
)
def test_the_state_is_small(case, moments, scalars):
    config = make_config(**CASES[case][0])
    params = random_params(np.float32, np.random.default_rng(0))
    state = optim.create_optimizer(config, optim.schedule_tables(config, 7)).init(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sum(sizes) == moments * sum(p.size for p in jax.tree.leaves(params))
    assert sum(leaf.ndim == 0 for leaf in jax.tree.leaves(state)) == scalars


@pytest.mark.parametrize("scale", [1e-3, 0.9999, 1.0, 1.7, 1e4])
def test_clipping_is_torchs(scale):
    rng = np.random.default_rng(11)
    gradients = [rng.normal(size=shape) for shape in [(7, 5), (13,)]]
    largest = 2.3
    gradients = [g * scale * largest / norm(gradients) for g in gradients]
    params = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
    for param, gradient in zip(params, gradients, strict=True):
        param.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_(params, largest)
    with jax.enable_x64(True):
        got, _ = optim.clip_by_global_norm(largest).update(gradients, optax.EmptyState())
    for param, gradient in zip(params, got, strict=True):
        np.testing.assert_allclose(gradient, param.grad.numpy(), rtol=1e-13)
    assert norm(got) <= largest


# Which parameters decay


def test_decay_mask():
    params = random_params(np.float32, np.random.default_rng(0))
    block = {"mlp": {"kernel": True, "bias": False}, "norm1": {"scale": False}}
    expected = {"blocks": {0: block, 1: block}, "head": {"kernel": True, "bias": False}}
    assert optim.decay_mask(params, (r"bias$", "norm")) == expected
    only_second = jax.tree.map(lambda _: True, params)
    only_second["blocks"][1]["norm1"]["scale"] = False
    assert optim.decay_mask(params, (r"^blocks\.1\.norm1\.scale$",)) == only_second
    assert all(jax.tree.leaves(optim.decay_mask(params, ())))


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_excluded_parameters_do_not_decay(name):
    config = make_config(
        optim__name=name, optim__weight_decay=0.3, optim__decay_exclude=(r"bias$", "norm")
    )
    params = random_params(np.float32, np.random.default_rng(0))
    optimizer = optim.create_optimizer(config, optim.schedule_tables(config, 7))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    moved = jax.tree.map(lambda u: bool((u != 0).all()), updates)
    assert moved == optim.decay_mask(params, (r"bias$", "norm"))
    if name != "adam":  # adam turns a gradient of any size into a step of about the rate
        decay = 1 if name == "lamb" else 0.3  # a step as long as the parameters are
        np.testing.assert_allclose(
            updates["head"]["kernel"], -PEAK * decay * params["head"]["kernel"], rtol=1e-6
        )
