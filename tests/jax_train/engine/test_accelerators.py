"""What a GPU or TPU would be given: no device is needed to lower a step for it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest

import jax_models
from benchmarks import tasks
from benchmarks.accelerator import flops
from jax_models import cpu
from jax_train.engine import metrics, optim, steps
from jax_train.engine import recipe as build
from jax_train.engine.parallel import Layout
from jax_train.engine.program import Program
from jax_train.engine.state import Data
from jax_train.train import fit, load
from tests import tiny
from tests.jax_models.small import COVERED

pytestmark = pytest.mark.newest
PER_EPOCH = 2
MODELS = COVERED


def step_and_shapes(name, length=PER_EPOCH, **changes):
    """Chunks of steps of a published recipe, and the shapes of their arguments."""
    config = tasks.config_of(name, **changes)
    images, _ = tasks.random_images(config, 1)
    with config.unlocked():
        config.model.in_channels = images.shape[3]
        if "img_size" in jax_models.model_keywords(name):
            config.model.img_size = config.augment.resize or images.shape[1]
        else:
            config.model.img_size = None
            known = jax_models.model_keywords(name)
            config.model.in_channels = images.shape[3] if "in_channels" in known else None
    schedule = optim.schedule_tables(config, PER_EPOCH)
    recipe = build.create_recipe(config, schedule, Layout(), PER_EPOCH)

    def shapes():
        return build.initial_state(config, recipe.optimizer), metrics.zero_train_sums()

    count = PER_EPOCH * config.train.batch_size
    data = Data(
        jax.ShapeDtypeStruct((count, *images.shape[1:]), jnp.uint8),
        jax.ShapeDtypeStruct((count,), jnp.int32),
    )
    order = jax.ShapeDtypeStruct((PER_EPOCH, 1, config.train.batch_size), jnp.int32)
    step = functools.partial(steps.train_steps, recipe, length)
    return config, step, (*jax.eval_shape(shapes), data, order)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float32") for name in MODELS), ("vit", "bfloat16"), ("simple_cnn", "bfloat16")],
)
def test_training_steps_lower_for_gpus_and_tpus(name, dtype):
    with cpu.using(False):
        _, step, shapes = step_and_shapes(name, dtype=dtype)
        exported = jax.export.export(jax.jit(step), platforms=["cuda", "tpu"])(*shapes)
    text = exported.mlir_module()
    assert "callback" not in text
    assert "@jax_models" not in text  # the CPU's custom calls
    assert ("bf16" in text) == (dtype == "bfloat16")
    assert "stablehlo.while" in text  # several steps a call


# Floating-point operations


def convolution(side, inputs, outputs, size, stride=1, padding=0) -> tuple[float, int]:
    """FLOPs of a convolution of a square map, without those by padding, and its output's side."""
    out = (side + 2 * padding - size) // stride + 1
    taps = (o * stride + k - padding for o in range(out) for k in range(size))
    return 2 * sum(0 <= tap < side for tap in taps) ** 2 * inputs * outputs, out


def formula_of_resnet(model, side) -> tuple[float, float, int]:
    """FLOPs of the first layer and of the others but for the head, and the width before that."""
    widths = model["widths"]
    first, side = convolution(side, model["in_channels"], widths[0], 3, 1, 1)
    rest, inputs = 0, widths[0]
    for stage, (depth, width) in enumerate(zip(model["depths"], widths, strict=True)):
        for i in range(depth):
            stride = 2 if stage and not i else 1
            one, half = convolution(side, inputs, width, 3, stride, 1)
            rest += one + convolution(half, width, width, 3, 1, 1)[0]
            if stride > 1:
                rest += convolution(side, inputs, width, 1, stride)[0]
            side, inputs = half, width
    return first, rest, inputs


def formula_of_airbench(model, side) -> tuple[float, float, int]:
    """The same."""
    inputs = 8 * model["in_channels"]
    first, side = convolution(side, model["in_channels"], inputs, 2)
    rest = 0
    for depth, width in zip(model["depths"], model["widths"], strict=True):
        rest += convolution(side, inputs, width, 3, 1, 1)[0]
        side //= 2
        rest += (depth - 1) * convolution(side, width, width, 3, 1, 1)[0]
        inputs = width
    return first, rest, inputs


def formula_of_cct(model, side) -> tuple[float, float, int]:
    """The same."""
    width, hidden = model["embed_dim"], model["mlp_dim"]
    first, side = convolution(side, model["in_channels"], 64, 3, 1, 1)
    rest, side = convolution(side // 2, 64, width, 3, 1, 1)
    t = (side // 2) ** 2
    block = 2 * t * (4 * width**2 + 2 * width * hidden) + 4 * t**2 * width
    return first, rest + model["depth"] * block + 4 * t * width, width


def formula_of_convnext(model, side) -> tuple[float, float, int]:
    """The same."""
    widths = model["widths"]
    first, side = convolution(side, model["in_channels"], widths[0], 4, 4)
    rest, inputs = 0, widths[0]
    for stage, (depth, width) in enumerate(zip(model["depths"], widths, strict=True)):
        if stage:
            one, side = convolution(side, inputs, width, 2, 2)
            rest += one
        depthwise = convolution(side, 1, width, 7, 1, 3)[0]
        rest += depth * (depthwise + 2 * side**2 * 8 * width**2)
        inputs = width
    return first, rest, inputs


def formula(name, model, image_size) -> float:
    """FLOPs of a training step on one image: thrice the forward pass, but none for the pixels."""
    if name.endswith("vit") or name == "vit_tiny_patch16_224":
        tokens = (image_size // model["patch_size"]) ** 2
        width, hidden = model["embed_dim"], model["mlp_dim"] or 4 * model["embed_dim"]
        first = 2 * tokens * model["in_channels"] * model["patch_size"] ** 2 * width
        t = tokens + 1
        block = 2 * t * (4 * width**2 + 2 * width * hidden) + 4 * t**2 * width
        # The last one for the class token alone, which attends to all.
        last = 4 * t * width**2 + 2 * (2 * width**2 + 2 * width * hidden) + 4 * t * width
        rest = (model["depth"] - 1) * block + last + head(width, model)
        if name == "sl_vit":  # five patches for one, and a norm before that trains
            first, rest = 0, rest + 5 * first
    elif name == "cct_2_3x2":
        first, rest, width = formula_of_cct(model, image_size)
        rest += head(width, model)
    elif name in ("resnet18", "convnext_tiny"):
        of = {"resnet18": formula_of_resnet, "convnext_tiny": formula_of_convnext}[name]
        first, rest, width = of(model, image_size)
        rest += head(width, model)
    elif name == "airbench94":  # the first layer's kernel does not train
        first, rest, width = formula_of_airbench(model, image_size)
        rest += head(width, model)
    elif name == "simple_cnn":
        first, rest, inputs, side = 0, 0, model["in_channels"], image_size
        for width in model["widths"]:
            one, two = (2 * (3 * side - 2) ** 2 * n * width for n in (inputs, width))
            first, rest = (first, rest + one + two) if first else (one, two)
            inputs, side = width, side // 2
        rest += head(inputs, model)
    elif name == "attention_cnn":
        first, rest, inputs, places = 0, 0, model["in_channels"], image_size**2
        for width in model["widths"]:
            conv, inner = 2 * (3 * image_size - 2) ** 2 * inputs * width, width // 8
            attention = 2 * places * 4 * width * inner + 4 * places * (places // 4) * inner
            first, rest = (first, rest + conv + attention) if first else (conv, attention)
            inputs = width
        rest += head(inputs, model)
    else:
        one, two = model["widths"]
        first = 18 * (image_size - 2) ** 2 * model["in_channels"] * one  # no padding
        rest = 18 * (image_size - 4) ** 2 * one * two
        rest += head(two * ((image_size - 4) // 2) ** 2, model)
    return 2 * first + 3 * rest


def head(width, model) -> float:
    widths = [width, *(model.get("head_dims") or ()), model["num_classes"]]
    return sum(2 * a * b for a, b in itertools.pairwise(widths))


@pytest.mark.parametrize("name", MODELS)
def test_no_model_computes_more_than_its_formula(name):
    with cpu.using(False):
        config, step, shapes = step_and_shapes(name)
        jaxpr = jax.make_jaxpr(step)(*shapes)
    images = PER_EPOCH * config.train.batch_size
    given = {k: v for k, v in config.model.items() if v is not None}
    size = config.augment.resize or shapes[2].images.shape[1]
    wanted = formula(name, jax_models.model_keywords(name) | given, size)
    resizing = 0.0
    if config.augment.resize:  # as two matrix products
        with cpu.using(False):
            batch = jax.ShapeDtypeStruct((images, *shapes[2].images.shape[1:]), jnp.uint8)
            enter = step.args[0].augmentation.evaluate
            resizing = flops.count_products(jax.make_jaxpr(enter)(batch).jaxpr) / images
    counted = flops.count_products(jaxpr.jaxpr) / images - resizing
    assert 0.99 * wanted <= counted <= 1.05 * wanted


# Compilation


def test_nothing_is_compiled_after_the_first_epoch(tmp_path):
    events, epochs = [], []

    def count(name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            events.append(seconds)

    config = tiny.config()
    config.train.epochs = 4
    jax.monitoring.register_event_duration_secs_listener(count)
    splits = load(config)
    program = Program(build.resolve(config, splits), splits.train)
    fit(program, splits, tmp_path / "run", lambda saver: epochs.append(len(events)))
    assert epochs[0] > 0
    assert epochs[1:] == epochs[:1] * 3


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_the_compiled_step_grows_with_the_depth_and_not_with_its_square(clip_norm):
    """What every parameter's update depends on must not be worked out again in each of them."""

    def lines(depth):
        changes = {
            "model.depth": depth,
            "model.embed_dim": 8,
            "model.num_heads": 2,
            "model.mlp_dim": 8,
            "train.batch_size": 2,
            "optim.clip_norm": clip_norm,
        }
        _, step, shapes = step_and_shapes("vit", length=1, **changes)
        return jax.jit(step).lower(*shapes).compile().as_text().count("\n")

    one, two, four = map(lines, (1, 2, 4))
    assert four - two < 2.1 * (two - one)
