"""ConvNeXts: their sizes, and what their settings change."""

import re

import jax.numpy as jnp
import pytest
from flax import nnx

import jax_models
from jax_models import layers, torch_weights
from tests.jax_models import small

# Parameters with 1000 and with 10 classes.
SIZES = {
    "convnext_tiny": (28_589_128, 27_827_818),
    "convnext_small": (50_223_688, 49_462_378),
    "convnext_base": (88_591_464, 87_576_714),
    "convnext_large": (197_767_336, 196_245_706),
}


@pytest.mark.parametrize("name", SIZES)
def test_all_have_the_published_sizes(name):
    assert (
        tuple(small.count(small.abstract(name, num_classes=k)) for k in (1000, 10)) == SIZES[name]
    )


def test_there_are_no_others():
    assert jax_models.list_families()["convnext"] == sorted(SIZES)


def test_the_head_may_have_an_epsilon_of_its_own():
    model = small.abstract("convnext_tiny", norm_eps=1e-3, head_norm_eps=1e-12)
    norms = [norm for _, norm in nnx.iter_modules(model) if isinstance(norm, layers.LayerNorm)]
    assert model.head.norm.epsilon == 1e-12
    assert {norm.epsilon for norm in norms if norm is not model.head.norm} == {1e-3}


@pytest.mark.parametrize("value", [0.0, -1e-6, float("nan"), "1e-6"])
@pytest.mark.parametrize("keyword", ["norm_eps", "head_norm_eps"])
def test_a_bad_epsilon_is_named(keyword, value):
    with pytest.raises(ValueError, match=rf"^{keyword}={value!r}: expected a number above 0"):
        small.build("convnext_tiny", **{keyword: value})


def test_what_is_left_over_of_an_image_is_cut_off():
    model, images = small.shared("convnext_tiny"), small.draw_images("convnext_tiny")
    cut = model.embed(images[:, :40, :32])
    assert (model.embed(images) == cut).all()


def test_images_too_small_to_be_halved_are_explained():
    model, images = small.shared("convnext_tiny"), jnp.zeros((1, 7, 9, 2))
    with pytest.raises(
        ValueError, match=re.escape("7x9 pixels are too small to be halved 3 times")
    ):
        model(images)
    assert model(jnp.zeros((1, 8, 9, 2))).shape == (1, 19)


# Layouts: each tensor of a stage that has all

NAMES = {
    "timm": ["stem.0", "stem.1", "stages.1.downsample.0", "stages.1.downsample.1"]
    + [f"stages.1.blocks.1.{part}" for part in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")]
    + ["stages.1.blocks.1.gamma", "head.norm", "head.fc"],
    "torchvision": ["features.0.0", "features.0.1", "features.2.0", "features.2.1"]
    + [f"features.3.1.block.{part}" for part in (0, 2, 3, 5)]
    + ["features.3.1.layer_scale", "classifier.0", "classifier.2"],
    "huggingface": ["embeddings.patch_embeddings", "embeddings.layernorm"]
    + [f"encoder.stages.1.downsampling_layer.{i}" for i in (0, 1)]
    + [f"encoder.stages.1.layers.1.{n}" for n in ("dwconv", "layernorm", "pwconv1", "pwconv2")]
    + ["encoder.stages.1.layers.1.layer_scale_parameter", "layernorm", "classifier"],
    "facebook": [f"downsample_layers.{i}.{j}" for i in (0, 1) for j in (0, 1)]
    + [f"stages.1.1.{part}" for part in ("dwconv", "norm", "pwconv1", "pwconv2")]
    + ["stages.1.1.gamma", "norm", "head"],
}


@pytest.mark.parametrize("layout", NAMES)
def test_weights_go_out_by_the_names_of_a_library_and_come_back(layout):
    model, again = (small.build("convnext_tiny", seed=seed) for seed in (1, 2))
    again.stages[1].blocks[1].gamma[...] *= 2
    state = torch_weights.export(model, layout)
    modules = {name.removesuffix(".weight").removesuffix(".bias") for name in state}
    assert set(NAMES[layout]) <= {name.removeprefix("convnext.") for name in modules}
    (scale,) = (name for name in state if name.removeprefix("convnext.") == NAMES[layout][-3])
    assert state[scale].shape == ((11, 1, 1) if layout == "torchvision" else (11,))
    torch_weights.load(again, state)
    assert small.bits(again) == small.bits(model)
