"""What trains: frozen parameters, a probe of the head, rates by layer."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_models import cpu, layer_numbers, list_families
from jax_train.engine import metrics, optim, seeds, steps, trainable
from jax_train.engine.parallel import Layout
from jax_train.engine.recipe import abstract_weights, class_weights, create_model, create_recipe
from jax_train.engine.state import Data, init_state, leaf_paths
from jax_train.errors import UserError
from tests import tiny, xla
from tests.jax_models.small import abstract

BATCH, PER_EPOCH = 8, 2
ALL_BUT_HEAD = (r"^(?!head)",)


def config_of(name="vit", **changes):
    sizes = {"model.in_channels": 1, "model.num_classes": 10, "data.mean": (0.3,)}
    sizes |= {"data.std": (0.4,), "train.batch_size": BATCH, "train.epochs": 4}
    if name == "vit":
        sizes |= {"model.img_size": 8, "model.depth": 3, "model.dropout": 0.0}
    return tiny.config(name, **(sizes | changes))


def recipe_of(config, **how):
    schedule = optim.schedule_tables(config, PER_EPOCH)
    return create_recipe(config, schedule, Layout(), PER_EPOCH, **how)


def start(config, recipe):
    return init_state(create_model(config, seeds.init_rngs(0)), recipe.optimizer)


def batch(seed=0, parts=1):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (parts, BATCH // parts, 8, 8, 1), np.uint8)
    return Data(jnp.asarray(images), jnp.asarray(random.integers(0, 10, images.shape[:2])))


def trained(config, count=2, **how):
    """State before and after some steps."""
    recipe = recipe_of(config, **how)
    state = first = start(config, recipe)
    step = jax.jit(functools.partial(steps.train_on_batch, recipe))
    for seed in range(count):
        data = batch(seed, config.train.accumulate_steps)
        state, _ = step(state, metrics.zero_train_sums(), data)
    return first, state


def changed(before, after):
    """Paths of the leaves whose bits differ."""
    leaves = zip(leaf_paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return {path for path, a, b in leaves if np.asarray(a).tobytes() != np.asarray(b).tobytes()}


def flops(function, *args):
    with cpu.using(False):  # XLA does not see into the CPU's own kernels
        lowered = jax.jit(function).lower(*args)
    return lowered.compile(compiler_options=xla.QUICK).cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("changes", "least", "most"),
    [
        ({}, 2.7, 3.2),
        ({"train.freeze": ALL_BUT_HEAD}, 1, 1.1),
        ({"train.freeze": ALL_BUT_HEAD, "model.remat": True}, 1, 1.1),
        ({"train.freeze": ALL_BUT_HEAD, "model.scan_layers": True}, 1, 1.1),
        # Without the products for gradients of the kernels.
        ({"model.lora_rank": 1}, 1.7, 2.2),
        # The last of three blocks, which is worked out for the class token alone.
        ({"train.freeze": (r"^(?!head|norm|blocks\.2)",)}, 1.1, 1.6),
    ],
)
def test_there_is_no_backward_pass_through_what_is_frozen(changes, least, most):
    config = config_of(**{"model.embed_dim": 32, "model.patch_size": 2} | changes)
    recipe = recipe_of(config)
    state = jax.eval_shape(functools.partial(start, config, recipe))
    images, labels = jnp.zeros((BATCH, 8, 8, 1)), jnp.zeros(BATCH, jnp.int32)
    forward = flops(
        lambda params, images: recipe.merge(params, {})(images, train=True), state.params, images
    )
    backward = flops(
        lambda *args: steps.gradients(recipe, *args, None)[0],
        state.params, state.stats, images, labels,
    )  # fmt: skip
    assert least < backward / forward < most


@pytest.mark.parametrize(
    ("name", "freeze", "calls"),
    [
        ("vit", (), {"kernel_gradient", "input_gradient"}),
        ("vit", ("kernel$",), {"input_gradient"}),  # biases and norms train
        ("vit", ALL_BUT_HEAD, {"kernel_gradient"}),
        ("simple_cnn", ("kernel$",), {"convolution_input_gradient", "input_gradient"}),
    ],
)
def test_no_custom_call_works_out_what_is_not_wanted(name, freeze, calls, monkeypatch):
    from jax_models.cpu import onednn

    if onednn.library() is None:
        pytest.skip("needs the package onednn-cpu-gomp")
    monkeypatch.setattr(onednn, "LEAST_FLOPS", 1)
    config = config_of(name, **{"train.freeze": freeze})
    if name == "vit":
        config.model.update({"embed_dim": 16, "depth": 1})
    recipe = recipe_of(config)
    state = start(config, recipe)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 8, 1)), jnp.float32)
    function = functools.partial(steps.gradients, recipe)
    args = state.params, state.stats, images, batch().labels[0], None
    compiled = jax.jit(lambda *args: function(*args)[0]).lower(*args).compile()
    found = {kind for kind in KINDS if f'"jax_models_{kind}"' in compiled.as_text()}
    assert found == calls
    with cpu.using(False):
        expected = jax.jit(lambda *args: function(*args)[0])(*args)
    for ours, theirs in zip(*map(jax.tree.leaves, (compiled(*args), expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


KINDS = ("kernel_gradient", "input_gradient")
KINDS += tuple(f"convolution_{kind}" for kind in KINDS)


def test_frozen_parameters_and_their_batch_norm_stay_bit_for_bit():
    fields = {"train.freeze": (r"^stages\.0",), "train.accumulate_steps": 2}
    before, after = trained(config_of("simple_cnn", **fields))
    moved = changed(before.params, after.params)
    assert moved
    assert not any(path.startswith("stages.0") for path in moved)
    assert not any("stages.0" in path for path in leaf_paths(after.opt_state))
    statistics = changed(before.stats, after.stats)
    assert len(statistics) == 6
    assert all(path.startswith("stages.1") for path in statistics)


def test_batch_norm_of_which_a_part_trains_goes_on():
    config = config_of("simple_cnn", **{"train.freeze": (r"scale$", r"stages\.1\.norms\.0\.bias")})
    recipe = recipe_of(config)
    state = start(config, recipe)
    model = nnx.merge(recipe.graphdef, state.params, state.stats)
    assert [[norm.frozen for norm in stage.norms] for stage in model.stages] == [
        [False, False],
        [True, False],
    ]


def test_a_probe_changes_the_head_alone_and_its_own_part_of_the_state():
    config = config_of("simple_cnn", **{"train.probe_epochs": 1})
    before, probed = trained(config, probing=True)
    assert changed(before.params, probed.params) == {"head.layers.0.bias", "head.layers.0.kernel"}
    assert not changed(before.stats, probed.stats)
    paths = changed(before.opt_state, probed.opt_state)
    assert paths
    assert all(path.startswith("head.") for path in paths)


def test_after_a_probe_the_others_begin_at_its_place_in_the_schedule():
    config = config_of(**{"train.probe_epochs": 1, "optim.name": "sgd"})
    schedule = optim.Schedule(np.array([1.0, 2.0, 3.0, 4.0]))
    weights = {"head": {"kernel": jnp.zeros(1)}, "norm": {"scale": jnp.zeros(1)}}
    plan = trainable.Plan(None, frozenset({"head.kernel"}), frozenset({"norm.scale"}))
    optimizer = optim.create_optimizer(config, schedule, plan, probe_steps=2)
    state, rates = optimizer.init(weights), []
    for i in range(4):
        gradients = jax.tree.map(jnp.ones_like, weights if i >= 2 else {"head": weights["head"]})
        updates, state = optimizer.update(gradients, state, weights)
        rates.append([-float(leaf[0]) for leaf in jax.tree.leaves(updates)])
    assert rates == [[1], [2], [3, 3], [4, 4]]


def test_beside_adapters_the_head_trains_alone():
    config = config_of(**{"model.lora_rank": 2, "train.freeze": (r"blocks\.0\.",)})
    paths = leaf_paths(abstract_weights(config).params)
    found = trainable.plan(config, paths).trained
    adapters = {
        f"blocks.{block}.attn.{layer}.lora_{letter}"
        for block in (1, 2)
        for layer in ("qkv", "projection")
        for letter in "ab"
    }
    assert found == adapters | {"head.layers.0.kernel", "head.layers.0.bias"}


# Class weights


def test_parts_of_a_batch_are_divided_by_the_weight_of_the_whole():
    fields = {"train.class_weights": tuple(0.1 + i for i in range(10)), "optim.name": "sgd"}
    fields |= {"augment.crop_padding": 0, "optim.learning_rate": 1.0}
    weights = fields["train.class_weights"]

    def one_step(parts):
        config = config_of(**fields, **{"train.accumulate_steps": parts})
        recipe = recipe_of(config, class_weights=weights)
        step = jax.jit(functools.partial(steps.train_on_batch, recipe))
        state = start(config, recipe)
        return state, *step(state, metrics.zero_train_sums(), batch(parts=parts))

    before, whole, sums = one_step(1)
    _, parts, sums_of_parts = one_step(4)
    np.testing.assert_allclose(sums_of_parts.loss, sums.loss, rtol=1e-5)
    for a, b in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    assert len(changed(before.params, whole.params)) == len(leaf_paths(before.params))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (("balanced",), (6 / (3 * 1), 6 / (3 * 2), 6 / (3 * 3))),
        ((1.0, 2.0, 4), (1.0, 2.0, 4.0)),
        (None, None),
    ],
)
def test_class_weights(weights, expected):
    config = config_of(**{"train.class_weights": weights})
    assert class_weights(config, split([0, 1, 1, 2, 2, 2])) == expected


def split(labels, classes=3):
    return types.SimpleNamespace(
        labels=np.array(labels), class_names=tuple("abcdef"[:classes]), num_classes=classes,
        split="train[:6]",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "labels", "message"),
    [
        ((1.0, 2.0), [0, 1, 2], r"class_weights=\(1.0, 2.0\): expected a weight for each of 3 cla"),
        (("balanced",), [0, 0, 2], r"='balanced': .*'train\[:6\]' has none of b\. Add images, cho"),
    ],
)
def test_class_weights_that_are_refused(weights, labels, message):
    with pytest.raises(UserError, match=message):
        class_weights(config_of(**{"train.class_weights": weights}), split(labels))


# Layers


@pytest.mark.parametrize(
    ("name", "settings", "first", "last", "some"),
    [
        (
            "vit_tiny_patch16_224",
            {"depth": 2, "registers": 3},
            {"cls_token", "reg_token", "pos_embed", "patch_embed.projection.bias"},
            {"head.layers.0.bias", "pool.norm.scale"},
            {"blocks.0.attn.qkv.kernel": 1, "blocks.1.mlp.fc1.bias": 2},
        ),
        ("vit", {"depth": 11}, {"cls_token"}, {"norm.bias"}, {"blocks.10.mlp.fc1.bias": 11}),
        (
            "resnet18",
            {},
            {"stem.norm.scale"},
            {"head.layers.0.kernel"},
            {"stages.0.blocks.1.convs.0.kernel": 2, "stages.3.blocks.0.shortcut.kernel": 7},
        ),
        (
            "convnext_tiny",
            {"depths": (1, 3), "widths": (3, 5)},
            {"stem.conv.bias"},
            {"head.norm.scale"},
            {"stages.1.downsample.conv.bias": 2, "stages.1.blocks.0.gamma": 2}
            | {"stages.1.blocks.2.mlp.fc1.bias": 4},
        ),
        ("attention_cnn", {}, set(), {"head.layers.0.bias"}, {"stages.4.attention.phi.bias": 5}),
    ],
)
def test_layers_are_numbered_from_the_images_to_the_head(name, settings, first, last, some):
    params = nnx.to_pure_dict(nnx.state(abstract(name, **settings), nnx.Param))
    paths = leaf_paths(params)
    numbers = dict(zip(paths, layer_numbers.numbers(name, paths), strict=True))
    assert {numbers[path] for path in first} <= {0}
    highest = max(numbers.values())
    assert {numbers[path] for path in last} == {highest}
    assert {path: numbers[path] for path in some} == some
    assert max(some.values()) < highest
    heads = {path for path in paths if layer_numbers.in_head(name, path)}
    assert heads == {path for path in paths if path.startswith("head.")}


def test_every_family_says_how_its_layers_stand():
    for names in list_families().values():
        assert layer_numbers.of_family(names[0])


def test_rates_fall_geometrically_and_patterns_multiply():
    config = config_of(**{"optim.layer_decay": 0.5, "optim.lr_scale": (("bias$", 3.0),)})
    paths = leaf_paths(abstract_weights(config).params)
    factors = trainable.plan(config, paths).factors
    assert factors["patch_embed.projection.kernel"] == factors["cls_token"] == 0.5**4
    assert factors["blocks.2.mlp.fc1.kernel"] == 0.5
    assert factors["blocks.0.mlp.fc1.bias"] == 3 * 0.5**3
    assert factors["head.layers.0.bias"] == 3
    assert "head.layers.0.kernel" not in factors
    assert "norm.scale" not in factors
