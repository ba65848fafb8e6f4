"""ResNets: their sizes, and what their settings change."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_models
from jax_models import torch_weights
from tests.jax_models import small
from tests.jax_models.pretrained import originals

# Parameters with 1000 and with 10 classes, and values in buffers.
SIZES = {
    "resnet18": (11_689_512, 11_181_642, 9_620),
    "resnet34": (21_797_672, 21_289_802, 17_060),
    "resnet50": (25_557_032, 23_528_522, 53_173),
    "resnet101": (44_549_160, 42_520_650, 105_448),
    "resnet152": (60_192_808, 58_164_298, 151_579),
}


@pytest.mark.parametrize("name", SIZES)
def test_all_have_the_published_sizes(name):
    found = [small.count(small.abstract(name, num_classes=k)) for k in (1000, 10)]
    buffers = small.count(small.abstract(name, num_classes=10), nnx.BatchStat)
    assert (*found, buffers) == SIZES[name]


def test_there_are_no_others():
    assert jax_models.list_families()["resnet"] == sorted(SIZES)


def test_the_stem_for_small_images_has_the_size_of_its_source():
    model = small.abstract("resnet18", num_classes=10, stem="cifar")
    assert small.count(model) == 11_173_962


@pytest.mark.parametrize(("stem", "shape"), [("imagenet", (8, 6)), ("cifar", (29, 23))])
def test_only_the_stem_for_large_images_makes_them_smaller(stem, shape):
    model = small.build("resnet18", stem=stem)
    assert model.embed(small.draw_images("resnet18")).shape == (7, *shape, 5)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_block_starts_as_its_shortcut(block):
    settings = small.SMALL["resnet18"].settings | {"block": block}
    model = jax_models.create_model("resnet18", rngs=nnx.Rngs(0), **settings)
    x = np.random.default_rng(0).normal(size=(3, 7, 5, 44 if block == "bottleneck" else 11))
    y, _ = model.stages[1].blocks[1](jnp.asarray(x, jnp.float32), train=True, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(y, np.maximum(x, 0), atol=1e-6)


@pytest.mark.parametrize(
    ("block", "expected"), [("basic", [None, None, 1]), ("bottleneck", [1, None, 1])]
)
def test_shortcuts_have_weights_only_where_shapes_differ(block, expected):
    model = small.abstract("resnet18", block=block)
    first, second = (list(stage.blocks) for stage in list(model.stages)[:2])
    found = [first[0], first[1], second[0]]
    assert [b.shortcut and b.shortcut.kernel.shape[0] for b in found] == expected


def test_a_bottleneck_strides_in_its_middle():
    block = small.abstract("resnet50").stages[1].blocks[0]
    assert [conv.window.stride for conv in block.convs] == [1, 2, 1]


# Layouts: one name of each kind

NAMES = {
    ("timm", "imagenet"): [
        "conv1.weight",
        "bn1.running_var",
        "layer2.0.conv3.weight",
        "layer2.0.bn3.bias",
        "layer2.0.downsample.0.weight",
        "layer1.0.downsample.1.num_batches_tracked",
        "fc.bias",
    ],
    ("huggingface", "imagenet"): [
        "resnet.embedder.embedder.convolution.weight",
        "resnet.embedder.embedder.normalization.running_var",
        "resnet.encoder.stages.1.layers.0.layer.2.convolution.weight",
        "resnet.encoder.stages.1.layers.0.layer.2.normalization.bias",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
        "resnet.encoder.stages.0.layers.0.shortcut.normalization.num_batches_tracked",
        "classifier.1.bias",
    ],
    ("kuangliu", "cifar"): [
        "conv1.weight",
        "bn1.running_var",
        "layer2.0.conv3.weight",
        "layer2.0.bn3.bias",
        "layer2.0.shortcut.0.weight",
        "layer1.0.shortcut.1.num_batches_tracked",
        "linear.bias",
    ],
}
NAMES["torchvision", "imagenet"] = NAMES["timm", "imagenet"]


@pytest.mark.parametrize(("layout", "stem"), NAMES)
def test_weights_go_out_by_the_names_of_a_library_and_come_back(layout, stem):
    model, again = (small.build("resnet18", seed=seed, stem=stem) for seed in (1, 2))
    state = torch_weights.export(model, layout)
    assert set(NAMES[layout, stem]) <= set(state)
    torch_weights.load(again, state)
    assert small.bits(again) == small.bits(model)


def test_the_names_without_their_root_will_do():
    model, again = (small.build("resnet18", seed=seed) for seed in (1, 2))
    state = torch_weights.export(model, "huggingface")
    torch_weights.load(again, {k.removeprefix("resnet."): v for k, v in state.items()})
    assert small.bits(again) == small.bits(model)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_kuanglius_names_are_told_from_torchvisions(block):
    """Of all tensors, as the source names them."""
    model, again = (small.build("resnet18", seed=s, stem="cifar", block=block) for s in (1, 2))
    state = originals.kuangliu(torch_weights.export(model))
    assert {"linear.bias", "layer2.0.shortcut.1.running_var"} <= state.keys()
    assert not any("fc." in name or "downsample" in name for name in state)
    torch_weights.load(again, state)
    assert small.bits(again) == small.bits(model)


@pytest.mark.parametrize(
    ("layout", "stem"),
    [
        ("kuangliu", "imagenet"),
        ("huggingface", "cifar"),
        ("timm", "cifar"),
        ("torchvision", "cifar"),
    ],
)
def test_a_library_without_such_a_stem_is_refused(layout, stem):
    with pytest.raises(ValueError, match=r"no names there\. It has in: "):
        torch_weights.export(small.build("resnet18", stem=stem), layout)
