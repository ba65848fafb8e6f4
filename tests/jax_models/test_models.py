"""What every registered model promises: shapes, modes, gradients, intermediates, errors."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_models
from jax_models import cpu
from tests.jax_models.small import (
    COVERED,
    RATES,
    SMALL,
    abstract,
    bits,
    build,
    count,
    draw_images,
    mirror_of,
    shared,
    whole,
)
from tests.with_torch import torch

every_model = pytest.mark.parametrize("name", COVERED)


evaluate = jax.jit(lambda model, images: model(images))  # compiled once for a model and a batch


def dropout_rngs(seed=0):
    return nnx.Rngs(dropout=jax.random.key(seed))


def test_every_family_has_a_small_setting():
    assert {jax_models.family(name) for name in COVERED} == set(jax_models.list_families())


@every_model
def test_small_settings_name_every_keyword(name):
    assert set(SMALL[name].settings) == set(jax_models.model_keywords(name))


# Calling


@every_model
@pytest.mark.parametrize("batch", [1, 7])
def test_logits_are_one_finite_row_per_image(name, batch):
    logits = evaluate(shared(name), draw_images(name, batch))
    assert logits.shape == (batch, SMALL[name].settings["num_classes"])
    assert logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all()


@every_model
def test_evaluation_is_the_default_and_repeats(name):
    images = draw_images(name)
    logits = shared(name)(images)
    np.testing.assert_array_equal(logits, shared(name)(images, train=False))
    np.testing.assert_array_equal(logits, shared(name)(images, train=False, rngs=dropout_rngs()))


def has_two_modes(name):
    """Whether the mirror has a layer that trains otherwise than it evaluates."""
    with torch.device("meta"):
        mirror = mirror_of(name, **SMALL[name].settings)
    kinds = (torch.nn.Dropout, torch.nn.BatchNorm2d)
    return any(isinstance(module, kinds) for module in mirror.modules())


@every_model
def test_training_computes_something_else_only_with_dropout_or_batch_norm(name):
    images, model = draw_images(name), build(name)
    logits, trained = model(images), model(images, train=True, rngs=dropout_rngs())
    if has_two_modes(name):
        assert jnp.abs(logits - trained).max() > 1e-3
    else:
        np.testing.assert_array_equal(logits, trained)


@every_model
def test_evaluation_changes_no_variable(name):
    model = build(name)
    before = bits(model)
    model(draw_images(name), return_intermediates=True)
    assert bits(model) == before


@every_model
def test_training_changes_no_parameter(name):
    model = build(name)
    params = nnx.state(model, nnx.Param)
    before = jax.tree.map(np.array, params)
    model(draw_images(name), train=True, rngs=dropout_rngs())
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.Param))


@every_model
def test_evaluation_treats_each_image_alone(name):
    images = draw_images(name)
    alone = jnp.concatenate([evaluate(shared(name), image[None]) for image in images])
    assert jnp.abs(alone - alone[0]).max() > 1e-3  # different images, different logits
    np.testing.assert_allclose(evaluate(shared(name), images), alone, atol=1e-5)


@every_model
def test_numpy_images_will_do(name):
    images = draw_images(name)
    np.testing.assert_array_equal(shared(name)(np.asarray(images)), shared(name)(images))


@every_model
def test_compiled_model_equals_the_plain_one(name):
    images = draw_images(name)
    np.testing.assert_allclose(evaluate(shared(name), images), shared(name)(images), atol=1e-5)


@every_model
def test_split_and_merged_model_trains_as_the_plain_one(name):
    images, model = draw_images(name), build(name)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest, images, key):
        merged = nnx.merge(graphdef, params, rest)
        logits = merged(images, train=True, rngs=nnx.Rngs(dropout=key))
        return logits, nnx.to_pure_dict(nnx.split(merged, nnx.Param, ...)[2])

    pure = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    logits, after = step(*pure, images, jax.random.key(0))
    np.testing.assert_allclose(
        logits, model(images, train=True, rngs=dropout_rngs()), atol=1e-4, rtol=1e-4
    )
    expected = nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2])
    assert jax.tree.structure(after) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after, expected)


@every_model
def test_every_parameter_learns(name):
    model, images = build(name), draw_images(name)
    weights = jax.random.normal(jax.random.key(1), (7, SMALL[name].settings["num_classes"]))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rest = nnx.to_pure_dict(rest)

    @jax.jit
    @jax.grad
    def gradient(params):
        logits = nnx.merge(graphdef, params, rest)(images, train=True, rngs=dropout_rngs())
        return (weights * logits).sum()

    gradients = {
        ".".join(map(str, path)): np.asarray(g)
        for path, g in nnx.traversals.flatten_mapping(gradient(nnx.to_pure_dict(params))).items()
    }
    assert len(gradients) == len(jax.tree.leaves(params))
    largest = max(np.abs(g).max() for g in gradients.values())
    used = set()
    for path, g in gradients.items():
        without = np.zeros_like(g, bool)
        for ending, (part, _) in SMALL[name].no_gradient.items():
            if path.endswith(ending):
                without |= part(g)
                used.add(ending)
        assert (np.abs(g[without]) < 1e-5 * largest).all(), path
        rest = np.abs(g[~without])
        assert without.all() or rest.max() > 1e-4 * largest, path
        share = 0.2 if any(word in path for word in SMALL[name].gated) else 0.9
        assert without.all() or (rest > 1e-7 * largest).mean() > share, path
    assert used == set(SMALL[name].no_gradient)


# Scanned layers

WITH_BLOCKS = [name for name in COVERED if "depth" in SMALL[name].settings]


def deep(name):
    """Settings by which the loop goes round more than once, with other rates each time."""
    return {"depth": 4} if "drop_path" in SMALL[name].settings else {}


vits = pytest.mark.parametrize("name", WITH_BLOCKS)


@pytest.mark.parametrize(
    ("name", "remat"),
    [*((name, name == "vit_tiny_patch16_224") for name in WITH_BLOCKS), ("vit", True)],
)
def test_scanned_layers_train_as_plain_ones(name, remat):
    plain = build(name, **deep(name))
    scanned = build(name, scan_layers=True, remat=remat, **deep(name))
    images = draw_images(name)

    def run(model):
        graphdef, params = nnx.split(model)

        @jax.jit
        def loss(params):
            logits = nnx.merge(graphdef, params)(images, train=True, rngs=dropout_rngs())
            return jnp.square(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(nnx.to_pure_dict(params))

    (ours, logits), (theirs, expected) = run(scanned), run(plain)
    np.testing.assert_allclose(logits, expected, atol=1e-5)  # with the same dropout masks
    by_rounding = tuple(end for end, (part, _) in SMALL[name].no_gradient.items() if part is whole)

    def compare(path, a, b):
        if not jax.tree_util.keystr(path, simple=True, separator=".").endswith(by_rounding):
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-6)

    jax.tree_util.tree_map_with_path(compare, ours, theirs)


@vits
def test_scanned_layers_give_the_same_intermediates(name):
    scanned = build(name, scan_layers=True)
    images = draw_images(name)
    logits, out = scanned(images, return_intermediates=True)
    expected, plain = shared(name)(images, return_intermediates=True)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    for kind in ("attention", "features"):
        assert len(out[kind]) == len(plain[kind])
        for a, b in zip(out[kind], plain[kind], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_scanned_layers_are_compiled_once():
    def products(scan_layers):
        model = jax_models.create_model(
            "vit",
            rngs=nnx.Rngs(0),
            **SMALL["vit"].settings | {"depth": 18},
            scan_layers=scan_layers,
        )
        program = jax.jit(lambda x: model(x)).lower(draw_images("vit")).as_text()
        return program.count("stablehlo.dot_general")

    assert 0 < products(True) < products(False) / 5  # the last block is no part of the loop


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_blocks_that_are_worked_out_again_give_the_same(name):
    images = draw_images(name)

    def run(remat):
        graphdef, params, rest = nnx.split(build(name, remat=remat), nnx.Param, ...)
        rest = nnx.to_pure_dict(rest)

        def loss(params):
            model = nnx.merge(graphdef, params, rest)
            logits = model(images, train=True, rngs=dropout_rngs())
            return jnp.square(logits).sum(), nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))

        step = jax.grad(loss, has_aux=True)
        program = str(jax.make_jaxpr(step)(nnx.to_pure_dict(params)))
        assert ("remat" in program) == remat
        return jax.jit(step)(nnx.to_pure_dict(params))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-6),
        run(True),
        run(False),
    )


def test_scanned_layers_need_blocks_that_are_alike():
    with pytest.raises(ValueError, match="scan_layers=True needs blocks that are alike"):
        jax_models.create_model("simple_cnn", rngs=nnx.Rngs(0), scan_layers=True)


# Intermediates


@every_model
def test_intermediates_have_the_promised_shapes(name):
    _, out = shared(name)(draw_images(name), return_intermediates=True)
    assert set(out) == {"attention", "features"}
    for kind, shapes in {
        "attention": SMALL[name].attention,
        "features": SMALL[name].features,
    }.items():
        assert isinstance(out[kind], tuple)
        assert [x.shape for x in out[kind]] == [(7, *shape) for shape in shapes]
        assert all(jnp.isfinite(x).all() for x in out[kind])
        assert len({np.asarray(x).tobytes() for x in out[kind]}) == len(shapes)  # all different


@every_model
def test_attention_of_every_query_sums_to_one(name):
    _, out = shared(name)(draw_images(name), return_intermediates=True)
    for attention in out["attention"]:
        assert (attention >= 0).all()
        np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)
        assert attention.std(-1).max() > 1e-4  # and is not merely 1 / keys


@every_model
@pytest.mark.parametrize("train", [False, True])
def test_intermediates_do_not_change_the_logits(name, train):
    images = draw_images(name)

    def both():
        logits = build(name)(images, train=train, rngs=dropout_rngs())
        return logits, build(name)(
            images, train=train, rngs=dropout_rngs(), return_intermediates=True
        )[0]

    np.testing.assert_allclose(*both(), atol=2e-6)  # fused attention rounds differently
    with cpu.using(False):
        np.testing.assert_allclose(*both(), atol=2e-6)


# Images that do not fit


@every_model
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda x: x[0], "got shape"),
        (lambda x: x[None], "got shape"),
        (lambda x: x[..., :1], "got shape"),
        (lambda x: jnp.concatenate([x, x], -1), "got shape"),
        (lambda x: x.transpose(0, 3, 1, 2), r"images.transpose\(0, 2, 3, 1\)"),
        (lambda x: x.astype(jnp.uint8), r"uint8: scale the pixels .* images / 255"),
        (lambda x: x.astype(jnp.int32), "int32: scale the pixels"),
        (lambda x: x > 0, "bool: scale the pixels"),
        (lambda x: np.asarray(x).astype(np.uint8), "uint8: scale the pixels"),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_images_that_do_not_fit_are_explained(name, change, hint, compiled):
    images = change(draw_images(name))
    model = shared(name)
    call = jax.jit(lambda x: model(x)) if compiled else model
    with pytest.raises(ValueError, match=hint) as error:
        call(images)
    expected = SMALL[name].settings["in_channels"]
    assert re.search(rf"takes float images \[B,.*,{expected}\]", str(error.value))
    if "shape" in hint:
        assert str(images.shape) in str(error.value)
        assert "transpose" not in str(error.value)


@pytest.mark.parametrize("name", [n for n in COVERED if "img_size" in SMALL[n].settings])
def test_images_of_another_size_are_explained(name):
    images = draw_images(name)
    for wrong in (images[:, :-1], images[:, :, 1:], jnp.concatenate([images, images], 1)):
        with pytest.raises(ValueError, match=re.escape(str(wrong.shape))) as error:
            shared(name)(wrong)
        assert "[B,{0},{0},{1}]".format(SMALL[name].image[0], images.shape[-1]) in str(error.value)


def test_images_too_small_for_the_stages_are_explained():
    model = build("simple_cnn")
    assert jax.eval_shape(model, draw_images("simple_cnn")[:, :4, :4]).shape == (7, 19)
    with pytest.raises(ValueError, match=r"4x3 pixels are too small to be halved 2 times"):
        model(draw_images("simple_cnn")[:, :4, :3])


# Constructing


def sizes(kind):
    """(name, keyword) of every setting of a kind."""
    settings = [
        (name, key, value) for name in COVERED for key, value in SMALL[name].settings.items()
    ]
    return [(name, key) for name, key, value in settings if type(value) is kind]


def may_lack_a_head(name):
    return jax_models.family(name) in ("vision_transformer", "resnet", "convnext")


@pytest.mark.parametrize(("name", "keyword"), sizes(int))
@pytest.mark.parametrize("value", [0, -3, True, 2.0, "5"])
def test_bad_sizes_are_named(name, keyword, value):
    if (keyword, value) == ("num_classes", 0) and may_lack_a_head(name):
        return
    with pytest.raises(
        ValueError, match=re.escape(f"{keyword}={value!r}: expected a whole number")
    ):
        build(name, **{keyword: value})


@pytest.mark.parametrize(("name", "keyword"), sizes(tuple))
@pytest.mark.parametrize("value", [0, -3, True, 2.0, "5"])
def test_bad_sizes_in_a_sequence_are_named(name, keyword, value):
    *others, _ = SMALL[name].settings[keyword]
    place = f"{keyword}[{len(others)}]"
    with pytest.raises(ValueError, match=re.escape(f"{place}={value!r}: expected a whole")):
        build(name, **{keyword: [*others, value]})


@pytest.mark.parametrize(("name", "keyword"), RATES)
@pytest.mark.parametrize("value", [-0.1, 1, 1.5, math.nan])
def test_bad_rates_are_named(name, keyword, value):
    with pytest.raises(ValueError, match=rf"(^|\W){re.escape(f'{keyword}={value} is not a rate')}"):
        build(name, **{keyword: value})


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [(name, *misfit) for name in COVERED for misfit in SMALL[name].misfits],
)
def test_settings_that_do_not_fit_together_are_explained(name, changes, words):
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        build(name, **changes)
    assert all(word in str(error.value) for word in words)


def test_mlp_dim_follows_the_width_unless_given():
    assert build("vit", mlp_dim=None).blocks[0].mlp.fc1.kernel.shape == (21, 84)
    assert build("vit").blocks[0].mlp.fc1.kernel.shape == (21, 17)


# Counting without allocating


@pytest.mark.parametrize("name", COVERED)
def test_abstract_model_holds_no_arrays(name):
    leaves = jax.tree.leaves(abstract(name))
    assert leaves
    assert {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}


def test_a_model_larger_than_any_memory_can_be_counted():
    model = abstract("vit", embed_dim=2**18, depth=2, num_heads=4)
    assert count(model) > 1e12


PUBLISHED_SIZES = {
    "airbench94": 1_972_792,
    "attention_cnn": 737_294,
    "cct_2_3x2": 283_723,
    "convnext_tiny": 28_589_128,
    "deep_vit": 12_862_820,
    "mlp_head_vit": 2_618_916,
    "mnist_cnn": 1_199_882,
    "mnist_vit": 3_417_816,
    "raster_vit": 159_498,
    "resnet18": 11_689_512,
    "simple_cnn": 4_694_346,
    "sl_vit": 2_729_878,
    "vit": 1_205_898,
    "vit_tiny_patch16_224": 5_717_416,
}


@pytest.mark.parametrize("name", COVERED)
def test_default_models_have_the_published_size(name):
    assert count(abstract(name)) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize(("num_classes", "parameters"), [(10, 3_328_778), (100, 3_374_948)])
def test_the_shallow_form_of_the_deep_model_has_the_published_size(num_classes, parameters):
    assert count(abstract("deep_vit", depth=6, num_classes=num_classes)) == parameters


@every_model
@pytest.mark.parametrize("setting", ["default", "small", "initial"])
def test_parameters_and_statistics_number_as_in_the_mirror(name, setting):
    settings = {"small": SMALL[name].settings, "initial": SMALL[name].initial}.get(setting, {})
    model = abstract(name, **settings)
    with torch.device("meta"):
        mirror = mirror_of(name, **settings)
    assert count(model) == sum(p.numel() for p in mirror.parameters())
    assert count(model, nnx.BatchStat) == sum(b.numel() for b in mirror.buffers())
