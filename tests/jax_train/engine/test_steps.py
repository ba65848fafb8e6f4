"""The compiled functions: order of examples, keys, chunks of steps, evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_models.rngs import ExampleRngs
from jax_train.engine import metrics, optim, seeds, steps
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import create_model, create_recipe
from jax_train.engine.state import Data, init_state
from tests import tiny

EXAMPLES, BATCH = 53, 8


def tiny_config(name="vit"):
    changes = {
        "model.in_channels": 1,
        "model.num_classes": 10,
        "data.mean": (0.3,),
        "data.std": (0.4,),
        "train.epochs": 2,
        "train.batch_size": BATCH,
    }
    if name == "vit":
        changes |= {"model.img_size": 8, "model.depth": 2, "model.dropout": 0.2}
    return tiny.config(name, **changes)


def make_recipe(config, seed=0):
    per_epoch = EXAMPLES // BATCH
    config = config.copy_and_resolve_references()
    config.seed = seed
    return create_recipe(config, optim.schedule_tables(config, per_epoch), Layout(), per_epoch)


def random_data():
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (EXAMPLES, 8, 8, 1), dtype=np.uint8)
    return Data(jnp.asarray(images), jnp.asarray(random.integers(0, 10, EXAMPLES)))


def run(config, recipe, num_steps, per_call=1):
    state = init_state(create_model(config, seeds.init_rngs(0)), recipe.optimizer)
    order = steps.epoch_order(recipe, 0, EXAMPLES)
    step = jax.jit(functools.partial(steps.train_steps, recipe, per_call))
    sums = metrics.zero_train_sums()
    for _ in range(num_steps // per_call):
        state, sums = step(state, sums, random_data(), order)
    return state, sums


def test_initial_weights_are_drawn_with_the_keys_of_nnx_rngs():
    ours = seeds.init_rngs(3)
    theirs = nnx.Rngs(jax.random.fold_in(jax.random.key(3), seeds.WEIGHTS))
    for _ in range(5):
        assert (jax.random.key_data(ours.params()) == jax.random.key_data(theirs.params())).all()


def test_an_epoch_shows_each_example_at_most_once():
    recipe = make_recipe(tiny_config())
    order = np.asarray(steps.epoch_order(recipe, 0, EXAMPLES))
    assert order.shape == (EXAMPLES // BATCH, 1, BATCH)
    assert len(np.unique(order)) == order.size
    assert order.max() < EXAMPLES


def test_order_depends_on_epoch_and_seed_alone():
    recipe = make_recipe(tiny_config())
    first = steps.epoch_order(recipe, 0, EXAMPLES)
    np.testing.assert_array_equal(first, steps.epoch_order(recipe, 0, EXAMPLES))
    assert (first != steps.epoch_order(recipe, 1, EXAMPLES)).any()
    assert (first != steps.epoch_order(make_recipe(tiny_config(), 1), 0, EXAMPLES)).any()


@pytest.mark.parametrize("repeats", [2, 3, 8])
def test_a_batch_repeats_its_images_and_no_pair_is_of_one(repeats):
    config = tiny_config()
    config.augment.repeats = repeats
    plain = np.asarray(steps.epoch_order(make_recipe(tiny_config()), 0, EXAMPLES)).ravel()
    order = np.asarray(steps.epoch_order(make_recipe(config), 0, EXAMPLES)).reshape(-1, BATCH)
    shown = plain[: -(-plain.size // repeats)]
    assert set(order.ravel()) == set(shown)  # as many steps, of so many fewer images
    counts = np.unique(order, return_counts=True)[1]
    assert (np.sort(counts)[1:] == repeats).all()
    batches = [len(set(batch)) for batch in order]
    assert max(batches) <= BATCH // repeats + (BATCH % repeats > 0) + (BATCH % repeats > 1)
    if repeats < BATCH:
        assert (order[:, ::2] != order[:, 1::2]).all()


def test_all_examples_are_shown_over_the_epochs():
    recipe = make_recipe(tiny_config())
    orders = [steps.epoch_order(recipe, epoch, EXAMPLES) for epoch in range(9)]
    assert len(np.unique(np.stack(orders))) == EXAMPLES


def test_example_keys_differ_by_call_and_by_place():
    rngs = ExampleRngs(jax.random.split(jax.random.key(0), 5))
    words = np.concatenate([jax.random.key_data(rngs.dropout()) for _ in range(3)])
    assert len(np.unique(words, axis=0)) == 15


@pytest.mark.parametrize("name", ["vit", "simple_cnn"])
def test_several_steps_in_one_call_are_the_same_steps(name):
    config = tiny_config(name)
    # Adam would turn the rounding in gradients that are zero in theory into whole steps.
    config.optim.name, config.optim.learning_rate = "sgd", 0.1
    recipe = make_recipe(config)
    plain, plain_sums = run(config, recipe, 6)
    chunked, chunked_sums = run(config, recipe, 6, per_call=3)
    assert int(plain.step) == int(chunked.step) == 6
    assert float(chunked_sums.loss) == pytest.approx(float(plain_sums.loss), rel=1e-4)
    for a, b in zip(jax.tree.leaves(plain.params), jax.tree.leaves(chunked.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_training_is_a_function_of_the_seed():
    config = tiny_config()
    first, _ = run(config, make_recipe(config), 4)
    again, _ = run(config, make_recipe(config), 4)
    other, _ = run(config, make_recipe(config, seed=1), 4)
    leaves = [jax.tree.leaves(state.params) for state in (first, again, other)]
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[1], strict=True))
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[2], strict=True))


def test_batch_statistics_change_in_training_and_not_in_evaluation():
    config = tiny_config("simple_cnn")
    recipe = make_recipe(config)
    state, _ = run(config, recipe, 2)
    assert int(state.stats["stages"][0]["norms"][0]["num_batches_tracked"]) == 2
    before = jax.tree.map(np.array, state.stats)
    steps.eval_step(
        recipe, BATCH, state.params, state.stats, metrics.zero_eval_sums(10), random_data(), 0
    )
    after = jax.tree.map(np.array, state.stats)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 53, 64])
def test_evaluation_counts_every_example_once(batch_size):
    config = tiny_config()
    recipe = make_recipe(config)
    model = create_model(config, seeds.init_rngs(0))
    state = init_state(model, recipe.optimizer)
    data = random_data()
    sums = metrics.zero_eval_sums(10)
    step = jax.jit(functools.partial(steps.eval_step, recipe, batch_size))
    for start in range(0, EXAMPLES, batch_size):
        sums = step(state.params, state.stats, sums, data, start)
    logits = model(recipe.augmentation.evaluate(data.images))
    figures = metrics.eval_figures(sums)
    assert int(sums.confusion.sum()) == EXAMPLES
    assert figures["top1"] == pytest.approx(float((logits.argmax(-1) == data.labels).mean()))
    expected = float(metrics.cross_entropy(logits, data.labels).mean())
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)


def test_accumulation_shows_batch_norm_one_part_after_the_other():
    config = tiny_config("simple_cnn")
    config.train.accumulate_steps, config.augment.crop_padding = 2, 0
    config.optim.name = "sgd"  # Adam would make much of rounded zeros
    recipe = make_recipe(config)
    state = init_state(create_model(config, seeds.init_rngs(0)), recipe.optimizer)
    images, labels = (array[:BATCH].reshape(2, -1, *array.shape[1:]) for array in random_data()[:2])
    zero = metrics.zero_train_sums()
    trained, sums = steps.train_on_batch(recipe, state, zero, Data(images, labels))

    def losses(params):
        model = nnx.merge(recipe.graphdef, params, state.stats)
        parts = [
            metrics.cross_entropy(model(recipe.augmentation.evaluate(x), train=True), y, 0.0).mean()
            for x, y in zip(images, labels, strict=True)
        ]
        return sum(parts) / 2, nnx.state(model, nnx.BatchStat)

    (loss, stats), grads = jax.value_and_grad(losses, has_aux=True)(state.params)
    np.testing.assert_allclose(sums.loss / BATCH, loss, rtol=1e-6)
    expected = steps.update(recipe, state, grads, stats)
    for ours, theirs in zip(
        jax.tree.leaves((trained.params, trained.stats)),
        jax.tree.leaves((expected.params, expected.stats)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


MIXED = {
    "augment.flip": True,
    "augment.flip_mode": "alternating",
    "augment.crop_mode": "reflect",
    "augment.erase_probability": 0.5,
    "augment.mixup": 0.8,
    "augment.cutmix": 1.0,
    "augment.mix_mode": "elem",
    "augment.mix_off_epoch": 1,
    "train.label_smoothing": 0.1,
}


def test_a_batch_in_parts_is_mixed_as_a_whole():
    """What is drawn of it, and which example it is, follows an image into its part."""
    images, labels = (array[:BATCH] for array in random_data()[:2])
    index, found = jnp.arange(BATCH) * 5, []
    for parts in (1, 2):
        config = tiny_config()
        config.update_from_flattened_dict(MIXED | {"optim.name": "sgd", "model.dropout": 0.0})
        config.train.accumulate_steps = parts
        recipe = make_recipe(config)
        state = init_state(create_model(config, seeds.init_rngs(0)), recipe.optimizer)
        batch = Data(*(x.reshape(parts, -1, *x.shape[1:]) for x in (images, labels, index)))
        step = jax.jit(functools.partial(steps.train_on_batch, recipe))
        found.append(step(state, metrics.zero_train_sums(), batch))
    (whole, sums), (state, other) = found
    assert float(other.loss) == pytest.approx(float(sums.loss), rel=1e-5)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_without_new_augmentation_the_step_is_given_no_more_than_before():
    recipe = make_recipe(tiny_config())
    state = init_state(create_model(tiny_config(), seeds.init_rngs(0)), recipe.optimizer)
    images, labels = (array[None, :BATCH] for array in random_data()[:2])
    step = functools.partial(steps.train_on_batch, recipe, state, metrics.zero_train_sums())
    without = jax.make_jaxpr(step)(Data(images, labels))
    index = jnp.zeros((1, BATCH), int)
    with_index = jax.make_jaxpr(lambda batch: step(batch._replace(index=index)))(
        Data(images, labels)
    )
    assert str(without.jaxpr.eqns) == str(with_index.jaxpr.eqns)
