"""ResNets: their sizes, and what their settings change."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_models
from tests.jax_models import small

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
