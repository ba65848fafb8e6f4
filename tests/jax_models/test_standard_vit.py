"""The standard Vision Transformers: their published sizes, and what is peculiar to them."""

import jax.numpy as jnp
import numpy as np
import pytest

import jax_models
from tests.jax_models.small import abstract, build, count, draw_images

NAME = "vit_tiny_patch16_224"
# Parameters with 1000 classes and with 10.
COUNTS = {
    "vit_tiny_patch16_224": (5_717_416, 5_526_346),
    "vit_tiny_patch16_384": (5_790_376, 5_599_306),
    "vit_small_patch32_224": (22_878_952, 22_497_802),
    "vit_small_patch16_224": (22_050_664, 21_669_514),
    "vit_small_patch16_384": (22_196_584, 21_815_434),
    "vit_base_patch32_224": (88_224_232, 87_462_922),
    "vit_base_patch32_384": (88_297_192, 87_535_882),
    "vit_base_patch16_224": (86_567_656, 85_806_346),
    "vit_base_patch16_384": (86_859_496, 86_098_186),
    "vit_base_patch8_224": (86_576_872, 85_815_562),
    "vit_large_patch16_224": (304_326_632, 303_311_882),
    "vit_large_patch16_384": (304_715_752, 303_701_002),
    "deit_tiny_patch16_224": (5_717_416, 5_526_346),
    "deit_small_patch16_224": (22_050_664, 21_669_514),
    "deit_base_patch16_224": (86_567_656, 85_806_346),
    "deit_base_patch16_384": (86_859_496, 86_098_186),
    "deit_tiny_distilled_patch16_224": (5_910_800, 5_528_660),
    "deit_small_distilled_patch16_224": (22_436_432, 21_674_132),
    "deit_base_distilled_patch16_224": (87_338_192, 85_815_572),
    "deit_base_distilled_patch16_384": (87_630_032, 86_107_412),
    "deit3_small_patch16_224": (22_059_496, 21_678_346),
    "deit3_small_patch16_384": (22_205_416, 21_824_266),
    "deit3_medium_patch16_224": (38_849_512, 38_341_642),
    "deit3_base_patch16_224": (86_585_320, 85_824_010),
    "deit3_base_patch16_384": (86_877_160, 86_115_850),
    "deit3_large_patch16_224": (304_374_760, 303_360_010),
    "deit3_large_patch16_384": (304_763_880, 303_749_130),
    "vit_small_patch14_dinov2": (22_441_192, 22_060_042),
    "vit_base_patch14_dinov2": (87_348_712, 86_587_402),
    "vit_large_patch14_dinov2": (305_392_616, 304_377_866),
    "vit_giant_patch14_dinov2": (1_138_016_232, 1_136_494_602),
}
WITHOUT_HEAD = {
    "vit_small_patch14_dinov2": 22_056_192,
    "vit_base_patch14_dinov2": 86_579_712,
    "vit_large_patch14_dinov2": 304_367_616,
    "vit_giant_patch14_dinov2": 1_136_479_232,
    "vit_small_patch14_reg4_dinov2": 22_057_344,
    "vit_base_patch14_reg4_dinov2": 86_582_016,
    "vit_large_patch14_reg4_dinov2": 304_370_688,
    "vit_giant_patch14_reg4_dinov2": 1_136_483_840,
}


def test_every_name_has_its_published_sizes_here():
    assert COUNTS.keys() | WITHOUT_HEAD == set(jax_models.list_families()["vision_transformer"])


def published(name, num_classes):
    """Parameters at full depth, from two shallow models: blocks are alike."""
    one, two = (count(abstract(name, num_classes=num_classes, depth=d)) for d in (1, 2))
    return one + (jax_models.model_keywords(name)["depth"] - 1) * (two - one)


@pytest.mark.parametrize("name", COUNTS)
def test_models_have_the_published_sizes(name):
    assert tuple(published(name, num_classes) for num_classes in (1000, 10)) == COUNTS[name]


@pytest.mark.parametrize("name", WITHOUT_HEAD)
def test_models_without_a_head_have_the_published_sizes(name):
    assert published(name, num_classes=0) == WITHOUT_HEAD[name]


def test_a_whole_model_has_as_many_parameters_as_its_blocks_say():
    name = "vit_tiny_patch16_224"
    assert count(abstract(name)) == published(name, 1000)


def test_widths_of_the_mlp_follow_the_width_unless_given():
    def hidden(name, **more):
        settings = {"img_size": 28, "depth": 1, **more}
        block = abstract(name, **settings).blocks[0]
        return block.mlp.fc1.kernel.shape, block.mlp.fc2.kernel.shape

    assert hidden("vit_tiny_patch16_224", img_size=32) == ((192, 768), (768, 192))
    assert hidden("vit_giant_patch14_dinov2") == ((1536, 8192), (4096, 1536))
    small = {"embed_dim": 60, "num_heads": 5}
    assert hidden("vit_giant_patch14_dinov2", **small) == ((60, 320), (160, 60))
    assert hidden("vit_giant_patch14_dinov2", mlp_dim=7, **small) == ((60, 14), (7, 60))


def test_stochastic_depth_rises_with_the_blocks():
    model = abstract("deit3_small_patch16_224", depth=4, drop_path=0.3)
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("pool", ["token", "avg", "token_and_avg"])
def test_the_pool_leaves_out_the_tokens_that_are_not_read(pool):
    """By hand, from the tokens after the last block."""
    model, images = build(NAME, pool=pool), draw_images(NAME)
    logits, out = model(images, return_intermediates=True)
    x, norm = out["features"][-1], model.pool.norm if pool != "avg" else model.pool.fc_norm
    mean = norm(x[:, 4:].mean(1)) if pool == "avg" else norm(x)[:, 4:].mean(1)
    read = {"token": norm(x[:, 0]), "avg": mean}
    read["token_and_avg"] = jnp.concatenate([read["token"], mean], -1)
    expected = model.head(read[pool], train=False, rngs=None)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(model(images), expected, atol=1e-5)
