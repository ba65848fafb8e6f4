"""What models give without their heads: last tokens or maps, and what the head reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.jax_models import small
from tests.xla import QUICK


def _seen(model, images):
    """Logits, intermediates, last features and pooled ones."""
    graphdef, state = nnx.split(model)

    def run(state, images):
        model = nnx.merge(graphdef, state)
        logits, seen = model(images, return_intermediates=True)
        return logits, seen, model.forward_features(images), model.pooled_features(images)

    return jax.jit(run, compiler_options=QUICK)(state, images)


# One with each kind of head and pooling.
@pytest.mark.parametrize(
    "name", ["vit", "mlp_head_vit", "vit_tiny_patch16_224", "mnist_cnn", "convnext_tiny"]
)
def test_the_layers_of_the_head_make_logits_of_what_is_pooled(name):
    model, images = small.shared(name), small.draw_images(name, batch=3)
    logits, seen, last, pooled = _seen(model, images)
    head = nnx.clone(model.head)
    head.norm = lambda x: x  # it is in what is pooled
    np.testing.assert_allclose(head(pooled, train=False, rngs=None), logits, atol=1e-5)
    assert last.shape == seen["features"][-1].shape


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pool": "token"}, lambda x: x[:, 0]),
        ({"pool": "avg", "fc_norm": False}, lambda x: x[:, 4:].mean(axis=1)),
        ({"pool": "token_and_avg"}, lambda x: jnp.hstack([x[:, 0], x[:, 4:].mean(axis=1)])),
        ({"pool": "token", "distilled": True}, lambda x: (x[:, 0] + x[:, 1]) / 2),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_a_standard_vit_pools_of_its_last_tokens(settings, expected):
    name = "vit_tiny_patch16_224"  # with three registers
    model = small.build(name, **settings, drop_path=0.0)
    _, seen, last, pooled = _seen(model, small.draw_images(name, batch=3))
    np.testing.assert_allclose(pooled, expected(last), atol=1e-5)
    np.testing.assert_allclose(last, model.pool.norm(seen["features"][-1]), atol=1e-5)
    assert np.abs(np.asarray(last - seen["features"][-1])).max() > 0.01


def test_the_last_features_of_a_cnn_are_the_map_of_its_last_stage():
    model, images = small.shared("resnet18"), small.draw_images("resnet18", batch=3)
    _, seen, last, pooled = _seen(model, images)
    np.testing.assert_array_equal(last, seen["features"][-1])
    np.testing.assert_allclose(pooled, last.mean(axis=(1, 2)), atol=1e-6)
