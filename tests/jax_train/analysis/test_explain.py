"""What a model looks at, as arrays: against hand cases, naive loops and the models themselves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_models.cnn import ConvNet
from jax_models.conv_layers import ConvStage
from jax_models.layers import Head, PatchEmbed
from jax_models.pretrained import Preprocessing, Pretrained
from jax_train.analysis import explain
from jax_train.runs import pretrained
from tests.jax_models import small
from tests.jax_train.export.exporting import run_of

CNNS = [name for name in small.COVERED if "num_heads" not in small.SMALL[name].settings]


def draw_attention(*shape, blocks=3, seed=0):
    scores = np.random.default_rng(seed).normal(size=(blocks, *shape))
    exp = np.exp(2 * scores)
    return tuple(exp / exp.sum(axis=-1, keepdims=True))


def embed(size=6, patch=3, channels=2, *, raster=False):
    return PatchEmbed(size, patch, channels, 7, raster=raster, rngs=nnx.Rngs(0))


# Attention


def test_the_class_tokens_attention_is_the_first_row_without_the_class_token():
    attention = np.stack(draw_attention(2, 5, 7, 7))
    found = explain.of_patches(attention, 6)
    np.testing.assert_array_equal(found, attention[:, :, :, 0, 1:])


def test_pixels_are_levels_from_0_to_1_whatever_the_scale_of_the_model():
    run = run_of("simple_cnn")
    *side, channels = run.record.image_shape
    steps = Preprocessing(side[0], None, mean=(3.0,) * channels, std=(7.0,) * channels, scale=1.0)
    names, settings = run.class_names, run.description.settings
    loaded = Pretrained(run.model, steps, names, "a folder", "simple_cnn", settings)
    images = np.random.default_rng(0).integers(0, 256, (2, *side, channels), np.uint8)
    seen = explain.forward(pretrained.as_run(loaded), images)
    np.testing.assert_allclose(seen.pixels, images / 255, atol=1e-5)
    np.testing.assert_allclose(seen.logits, run.model(steps.normalise(images)), rtol=1e-4)


def test_without_a_class_token_the_mean_of_the_patches_looks():
    attention = np.stack(draw_attention(2, 5, 7, 7))
    found = explain.of_patches(attention, 6, class_token=False)
    expected = sum(attention[..., row, 1:] for row in range(1, 7)) / 6
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_pool_looks_as_its_tokens_do_by_what_they_count():
    attention = draw_attention(2, 5, 7, 7)[0]
    counts = np.random.default_rng(1).random((2, 7))
    found = explain.of_patches(attention, 6, counts=counts)
    for image in range(2):
        expected = sum(counts[image, q] * attention[image, :, q, 1:] for q in range(7))
        np.testing.assert_allclose(found[image], expected, rtol=1e-6)
    model = small.shared("cct_2_3x2")
    tokens = np.random.default_rng(2).normal(size=(2, 16, 21)).astype(np.float32)
    counts = explain.token_counts(model, tokens)
    mean = np.einsum("bt,btd->bd", counts, model.pool.norm(tokens))
    np.testing.assert_allclose(model.pool(tokens), mean, atol=1e-5)
    assert explain.token_counts(small.shared("vit"), tokens) is None


def test_rollout_equals_a_naive_loop():
    attention = draw_attention(2, 3, 5, 5, blocks=4)
    found = explain.rollout(attention)
    for image in range(2):
        expected = np.eye(5)
        for block in attention:
            mixed = np.zeros((5, 5))
            for i, j in np.ndindex(5, 5):
                mean = sum(block[image, head, i, j] for head in range(3)) / 3
                mixed[i, j] = (mean + (i == j)) / 2
            product = np.zeros((5, 5))
            for i, j, k in np.ndindex(5, 5, 5):
                product[i, j] += mixed[i, k] * expected[k, j]
            expected = product
        np.testing.assert_allclose(found[image], expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-12)


def test_rollout_by_hand():
    """Block 1: token 1 takes all of token 2. Block 2: the class token takes all of token 1."""
    first, second = np.eye(3), np.eye(3)
    first[1] = second[0] = 0
    first[1, 2] = second[0, 1] = 1
    found = explain.rollout([first[None, None], second[None, None]])[0]
    # The class token keeps half; the other half is token 1 after block 1, half of it token 2.
    np.testing.assert_allclose(found[0], [0.5, 0.25, 0.25])
    backwards = explain.rollout([second[None, None], first[None, None]])[0]
    np.testing.assert_allclose(backwards[0], [0.5, 0.5, 0])


def test_attention_distance_on_known_attention():
    centres = explain.token_centres(explain.token_map(embed(6, 2, 1)))
    assert centres[[0, 1, 3, 8]].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [4.5, 4.5]]
    itself = np.eye(10)
    even = np.full((10, 10), 0.1)
    right = np.eye(10)  # the first patch looks at the last one of its row, 4 pixels away
    right[1, 1], right[1, 3] = 0, 1
    attention = np.stack([itself, even, right])[None]
    found = explain.attention_distance([attention, attention[:, ::-1]], centres)
    pairs = [np.hypot(*(a - b)) for a, b in itertools.product(centres, centres)]
    np.testing.assert_allclose(found[0], [0, np.mean(pairs), 4 / 9], rtol=1e-12)
    np.testing.assert_array_equal(found[1], found[0, ::-1])
    assert explain.pairwise_distances(centres).mean() == pytest.approx(np.mean(pairs))


def test_attention_distance_leaves_the_class_token_and_lost_patches_out():
    attention = np.zeros((1, 1, 4, 4))
    attention[0, 0, 1:] = [0.6, 0.1, 0.3, 0]  # patches: 0.25 and 0.75 on the first and second
    centres = np.array([[0.0, 0.0], [0.0, 8.0], [np.nan, np.nan]])
    # 6 pixels from the first patch, 2 from the second.
    np.testing.assert_allclose(explain.attention_distance([attention], centres), [[4]])
    attention[0, 0, 1:] = [1, 0, 0, 0]
    np.testing.assert_array_equal(explain.attention_distance([attention], centres), [[0]])


# Tokens


def test_token_map_of_squares_is_the_order_of_the_patches():
    squares = explain.token_map(embed(6, 3, 2))
    assert squares.shape == (1, 6, 6)
    np.testing.assert_array_equal(squares[0, ::3, ::3], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(squares[0], np.kron([[0, 1], [2, 3]], np.ones((3, 3))))


def test_token_map_of_runs_by_hand():
    """32×32×3 in runs of 48: one and a half rows; the 22nd run goes over from red to green."""
    runs = explain.token_map(embed(32, 4, 3, raster=True))
    assert runs.shape == (3, 32, 32)
    assert set(runs[0, 0]) == {0}
    assert (set(runs[0, 1, :16]), set(runs[0, 1, 16:])) == ({0}, {1})
    assert (set(runs[0, 31, 16:]), set(runs[1, 0])) == ({21}, {21})
    assert runs[2, 31, 31] == 63
    centres = explain.token_centres(runs)
    assert np.flatnonzero(np.isnan(centres[:, 0])).tolist() == [21, 42]
    # 32 pixels of row 0, 16 of row 1, of columns 0 to 31 and 0 to 15.
    np.testing.assert_allclose(centres[0], [1 / 3, (32 * 15.5 + 16 * 7.5) / 48])


def test_token_map_of_convolutions_is_the_nearest_token():
    tokens = explain.token_map(small.shared("cct_2_3x2").patch_embed)
    assert tokens.shape == (1, 13, 13)
    assert (tokens[0, 0]).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    np.testing.assert_array_equal(tokens[0, :, 0], 4 * tokens[0, 0])


@pytest.mark.parametrize("raster", [False, True])
def test_patches_are_what_the_model_projects(raster):
    part = embed(15, 5, 3, raster=raster)
    images = np.random.default_rng(0).normal(size=(2, 15, 15, 3)).astype(np.float32)
    patches = part.cut(images)
    assert patches.shape == (2, 9, 75)
    if raster:
        np.testing.assert_array_equal(patches[1], images[1].transpose(2, 0, 1).reshape(9, 75))
    else:
        np.testing.assert_array_equal(explain.squares(patches[1], part)[5], images[1, 5:10, 10:15])
    tokens = patches @ part.projection.kernel[...] + part.projection.bias[...]
    np.testing.assert_allclose(tokens, part(images), atol=1e-5)


@pytest.mark.parametrize("raster", [False, True])
def test_painting_marks_the_pixels_a_token_depends_on(raster):
    """Asked of the model itself: the gradient of a token is not 0 on its own pixels alone."""
    part = embed(10, 2, 3, raster=raster)
    tokens = explain.token_map(part)
    images = jnp.zeros((1, 10, 10, 3))
    for number in (0, 8, 16, 24):
        touched = jax.grad(lambda x, n=number: jnp.square(part(x)[0, n]).sum())(images)[0] != 0
        painted = np.eye(part.num_patches)[number][..., tokens] > 0
        painted = np.broadcast_to(painted, (3, 10, 10))
        np.testing.assert_array_equal(touched.transpose(2, 0, 1), painted)


# Weights


def test_position_similarity_is_the_cosine_without_the_class_token():
    positions = np.random.default_rng(0).normal(size=(1, 5, 7))
    positions[0, 4] = -3 * positions[0, 2]
    found = explain.position_similarity(positions[0, 1:])
    assert found.shape == (4, 4)
    np.testing.assert_allclose(np.diag(found), 1)
    assert found[1, 3] == pytest.approx(-1)
    a, b = positions[0, 1], positions[0, 2]
    assert found[0, 1] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_principal_filters_find_the_directions_that_were_mixed():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(12, 2)))[0].T
    weights = rng.normal(size=(50, 2)) * [5, 1]
    kernel = (weights @ directions + rng.normal(size=12)).T  # all filters share an offset
    components, shares = explain.principal_filters(kernel, 4)
    assert components.shape == (4, 12)
    np.testing.assert_allclose(np.abs(components[:2] @ directions.T), np.eye(2), atol=0.15)
    assert shares[:2].sum() == pytest.approx(1)
    assert shares[0] > 0.9
    assert (components[:2].max(axis=1) == np.abs(components[:2]).max(axis=1)).all()


def test_squares_are_the_patches_a_filter_answers_to():
    part = embed(15, 5, 3)
    patch = np.random.default_rng(0).normal(size=(5, 5, 3))
    kernel = np.asarray(part.projection.kernel[...])
    filters = explain.squares(kernel.T, part)
    answers = patch.transpose(2, 0, 1).ravel() @ kernel
    np.testing.assert_allclose((filters * patch).sum(axis=(1, 2, 3)), answers, rtol=1e-4)


def test_squares_of_shifted_patches_are_all_that_they_see():
    part = PatchEmbed(12, 4, 2, 7, shifted=True, rngs=nnx.Rngs(0))
    image = np.random.default_rng(0).normal(size=(1, 12, 12, 2)).astype(np.float32)
    kernel = np.asarray(part.projection.kernel[...])
    filters = explain.squares(kernel.T, part)
    answers = np.asarray(part.cut(image))[0, 4] @ kernel
    seen = (filters * image[0, 2:10, 2:10]).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(seen, answers, atol=1e-5)


# Convolutional networks


def test_grad_cam_of_a_linear_head_by_hand():
    """Channel means, then a linear layer: the gradient of class k is kernel[:,k] / positions."""
    stage = ConvStage(3, (5,), rngs=nnx.Rngs(0))
    head = Head(5, 4, rngs=nnx.Rngs(1))
    model = ConvNet([stage], head, in_channels=3)
    features = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    kernel = np.asarray(head.layers[0].kernel[...])
    expected = np.stack([features[i] @ kernel[:, k] / 12 for i, k in enumerate((2, 0))])
    found = explain.grad_cam(model, features, np.array([2, 0]))
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-6)
    assert (found == 0).any()
    assert (found > 0).any()


@pytest.mark.parametrize("name", CNNS)
def test_grad_cam_weights_are_finite_differences_of_the_model(name):
    """Weights from the whole model: its stages called one by one, a feature map nudged."""
    model = small.shared(name)
    images = small.draw_images(name, batch=1)
    _, out = model(images, return_intermediates=True)
    features = np.asarray(out["features"][0])
    last = model.stages[1]

    def logit(maps):
        x = last(maps, train=False, rngs=None)[0]
        return model.head(model.pool(x), train=False, rngs=None)[0, 3]

    weights = []
    for channel in range(features.shape[-1]):
        step = 1e-2 * np.eye(features.shape[-1], dtype=np.float32)[channel]
        # Moving all positions at once sums their gradients.
        slope = (logit(features + step) - logit(features - step)) / 2e-2
        weights.append(float(slope) / features[0, ..., 0].size)
    expected = np.maximum(features[0] @ np.array(weights), 0)
    found = explain.grad_cam(model, features, np.array([3]), stage=0)[0]
    scale = np.abs(features[0]).max() * np.abs(weights).max()
    np.testing.assert_allclose(found, expected, atol=0.05 * scale)


@pytest.mark.parametrize("name", CNNS)
def test_stage_pixels_are_the_middle_of_what_a_value_sees(name):
    """Asked of the model: the pixels a value depends on lie evenly around its own."""
    model = small.shared(name)
    images = small.draw_images(name, batch=1)
    h = images.shape[1]
    for stage in range(2):

        def value(images, row, stage=stage):
            _, out = model(images, return_intermediates=True)
            return jnp.square(out["features"][stage][0, row]).sum()

        first, step = model.stage_pixels(stage)
        rows = small.SMALL[name].features[stage][0]
        assert first + (rows - 0.5) * step <= h  # the middle of the last one lies inside
        if model.stages[stage].attention is not None:
            continue  # which looks everywhere
        row = rows // 2
        seen = np.abs(jax.grad(value)(images, row)[0]).max(axis=(1, 2)) > 0
        low, high = np.flatnonzero(seen)[[0, -1]]
        own_low, own_high = first + row * step, first + (row + 1) * step - 1
        if low > 0 and high < h - 1:
            assert own_low - low == high - own_high


def test_the_strongest_channels_come_first():
    features = np.zeros((2, 3, 5))
    features[..., 3], features[..., 1], features[0, 0, 4] = -4, 2, 9
    assert explain.strongest_channels(features, 3).tolist() == [3, 1, 4]


def test_a_query_finds_its_row():
    attention = draw_attention(1, 35, 6, blocks=1)[0]  # 5×7 positions, 2×3 keys
    found = explain.query_attention(attention, 7, (2, 4))
    np.testing.assert_array_equal(found, attention[0, 18].reshape(2, 3))


def test_a_query_looks_at_what_changes_it():
    """Asked of the layer: make one key outweigh all, and every query looks there."""
    model = small.build("attention_cnn")
    part = model.stages[0].attention
    for layer in (part.theta, part.phi):
        layer.kernel[...] = jnp.ones_like(layer.kernel[...])
        layer.bias[...] = jnp.zeros_like(layer.bias[...])
    x = np.ones((1, 13, 9, 24), np.float32)
    x[0, 6, 5] = 3  # in the key of row 3, column 2
    attention = np.asarray(part(jnp.asarray(x))[1])[0]
    found = explain.query_attention(attention, 9, (11, 0))
    assert found.shape == (6, 4)
    assert np.unravel_index(found.argmax(), found.shape) == (3, 2)
    assert found.max() == pytest.approx(1)
