"""Models without a head: the features that one would read, as the mirror gives them."""

import jax
import numpy as np
import pytest
from flax import nnx

from jax_models import torch_weights
from tests.jax_models.small import SMALL, build, draw_images, mirror_of
from tests.with_torch import torch

VIT = "vit_tiny_patch16_224"
GAP = {"pool": "avg", "class_token": False, "fc_norm": False}  # of big_vision


@pytest.mark.parametrize(
    ("name", "settings", "width"),
    [
        (VIT, {}, 44),
        (VIT, {"pool": "token", "distilled": True}, 22),
        (VIT, GAP, 22),
        (VIT, GAP | {"registers": None, "fc_norm": None}, 22),
        ("resnet18", {}, 44),
        ("convnext_tiny", {}, 11),
    ],
)
def test_without_a_head_come_the_mirrors_features(name, settings, width):
    settings = settings | {"num_classes": 0}
    model, images = build(name, **settings), draw_images(name)
    features = model(images)
    assert features.shape == (len(images), width)
    assert not any("layers" in path for path, _ in nnx.to_flat_state(nnx.state(model.head)))
    mirror = mirror_of(name, **(SMALL[name].settings | settings)).eval()
    mirror.load_state_dict(
        {k: torch.from_numpy(v) for k, v in torch_weights.export(model).items()}, strict=True
    )
    with torch.no_grad():
        theirs = mirror(torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(features, theirs, atol=1e-5)


@pytest.mark.parametrize("name", [VIT, "resnet18", "convnext_tiny"])
def test_they_are_what_the_head_of_the_whole_model_reads(name):
    whole, bare = build(name), build(name, num_classes=0)
    old = dict(nnx.to_flat_state(nnx.state(whole)))
    for path, variable in nnx.to_flat_state(nnx.state(bare)):
        variable.set_value(old[path].get_value())
    images = draw_images(name, batch=2)
    logits = whole.head.layers[0](bare(images))
    np.testing.assert_allclose(logits, whole(images), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
@pytest.mark.parametrize("layout", ["timm", "torchvision", "huggingface"])
def test_their_weights_go_out_and_come_back(name, layout):
    model, again = (build(name, seed=seed, num_classes=0) for seed in (1, 2))
    state = torch_weights.export(model, layout)
    assert not {"fc.weight", "classifier.1.weight", "classifier.weight"} & state.keys()
    torch_weights.load(again, state)
    assert all(
        np.array_equal(one, other)
        for one, other in zip(
            jax.tree.leaves(nnx.state(again)), jax.tree.leaves(nnx.state(model)), strict=True
        )
    )
