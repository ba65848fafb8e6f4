"""Averages of the weights: what is averaged, which weights are evaluated, and the state's size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_train.engine import average, metrics, optim, steps
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import create_recipe, initial_state, step_tables
from jax_train.engine.schedules import Schedule
from jax_train.engine.state import leaf_paths
from jax_train.errors import UserError
from tests import tiny, xla
from tests.jax_train.engine.test_trainable import batch, config_of

DECAY = 0.7


def start(config):
    recipe = create_recipe(config, optim.schedule_tables(config, 2), Layout(), 2)
    return recipe, initial_state(config, recipe.optimizer)


def compiled(config):
    """The step of a config as (state, seed of the batch) -> state and sums; and the first state."""
    recipe, state = start(config)
    step = jax.jit(functools.partial(steps.train_on_batch, recipe), compiler_options=xla.QUICK)
    return lambda state, seed: step(state, metrics.zero_train_sums(), batch(seed)), state


def states(config, count=3):
    """The state before and after each of some steps."""
    step, state = compiled(config)
    found = [state]
    for seed in range(count):
        found.append(step(found[-1], seed)[0])
    return found


def same(tree, other):
    return all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (tree, other)), strict=True)
    )


def test_ema_is_of_weights_and_batch_statistics_and_is_what_is_reported():
    changes = {"train.ema_decay": DECAY, "train.freeze": (r"^stages\.0",)}
    step, state = compiled(config_of("simple_cnn", **changes, **{"train.on_nonfinite": "skip"}))
    assert same(state.averaged, (state.params, state.stats))
    expected = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.averaged)]
    for seed in range(3):
        state, _ = step(state, seed)
        assert state.reported is state.averaged
        now = jax.tree.leaves((state.params, state.stats))
        expected = [DECAY * a + (1 - DECAY) * b for a, b in zip(expected, now, strict=True)]
    for path, leaf, value, end in zip(
        leaf_paths(state.averaged), jax.tree.leaves(state.averaged), expected, now, strict=True
    ):
        if "stages.0" in path:  # frozen
            assert np.array_equal(leaf, end)
        elif path.endswith("num_batches_tracked"):
            assert leaf == end == 3
        else:
            np.testing.assert_allclose(leaf, value, rtol=1e-5, atol=1e-7)
            assert not np.array_equal(leaf, end)
    # A step that is not finite leaves the average as it is.
    bad = state._replace(params=jax.tree.map(lambda p: p * jnp.nan, state.params))
    after, sums = step(bad, 0)
    assert int(sums.skipped) == 1
    assert same(after.averaged, state.averaged)


@pytest.mark.parametrize(
    ("warmup", "kept"),
    [
        ("none", [DECAY] * 100),
        ("tf", [min(DECAY, (1 + t) / (10 + t)) for t in range(100)]),
        # ModelEmaV3.get_decay of timm, which is given the number of updates, from 1 on
        ("timm", [0.0] + [min(DECAY, 1 - (1 + t) ** (-2 / 3)) for t in range(1, 100)]),
    ],
)
def test_warm_ups_of_ema(warmup, kept):
    config = config_of(**{"train.ema_decay": DECAY, "train.ema_warmup": warmup})
    schedule = optim.Schedule(np.ones(100))
    np.testing.assert_allclose(1 - average.create(config, schedule).shares, kept, atol=1e-15)


def test_lookahead_that_would_never_look_is_refused():
    config, schedule = config_of("simple_cnn", **{"optim.lookahead_steps": 9}), Schedule(np.ones(8))
    with pytest.raises(UserError, match="lookahead_steps=9: expected at most 8, the steps of the"):
        average.create(config, schedule)
    config.optim.lookahead_steps = 8
    assert average.create(config, schedule).shares[-1] > 0


def test_lookahead_goes_on_from_the_average_of_weights_and_statistics():
    changes = {"optim.lookahead_steps": 2, "optim.lookahead_alpha": 0.3}
    first, one, two, three = states(config_of("simple_cnn", **changes))
    assert same(one.averaged.params, first.params)
    assert not same(one.params, first.params)
    assert same(two.averaged, (two.params, two.stats))
    assert not same(two.averaged, first.averaged)
    assert same(three.averaged.params, two.params)
    assert not same(three.params, two.params)


def test_schedule_free_takes_gradients_between_and_keeps_the_newest_statistics():
    changes = {"optim.name": "schedule_free_adamw", "schedule.name": "constant"}
    *_, last = states(config_of("simple_cnn", **changes))
    recipe, _ = start(config_of("simple_cnn", **changes))
    assert same(last.averaged.stats, last.stats)
    between = average.gradient_params(recipe.average, last)
    for x, y, z in zip(
        *map(jax.tree.leaves, (last.averaged.params, between, last.params)), strict=True
    ):
        np.testing.assert_allclose(y, 0.9 * x + 0.1 * z, rtol=1e-5, atol=1e-7)
    assert not same(last.averaged.params, last.params)
    # Three equal rates: the average of the three steps.
    np.testing.assert_allclose(recipe.average.shares[:3], [1, 1 / 2, 1 / 3])


def test_without_an_average_the_state_holds_none():
    recipe, state = start(config_of())
    assert recipe.average is state.averaged is None
    assert average.gradient_params(None, state) is state.params
    assert state.reported.params is state.params


def test_all_that_follows_from_the_step_is_in_the_tables():
    groups = (("bias$", {"schedule.name": "onecycle"}), ("^head", {"learning_rate": 1.0}))
    config = tiny.config(**{"optim.groups": groups, "train.ema_decay": DECAY})
    tables = step_tables(config, 4)
    assert [len(table) for table in tables] == [12] * 5  # one with momenta, and the shares
    assert tables[3][0] == 1.0
    np.testing.assert_allclose(tables[4], 1 - DECAY)
