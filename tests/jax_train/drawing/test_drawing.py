"""Pictures hold what the model returned, and every model gets its pictures."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import common
from jax_models import layers
from jax_models.vit import VisionTransformer
from jax_train import data
from jax_train.__main__ import main
from jax_train.analysis import explain
from jax_train.commands.explain import check_stage
from jax_train.drawing import canvas, results
from jax_train.drawing import cnn as drawing_cnn
from jax_train.drawing import vit as drawing_vit
from jax_train.drawing.canvas import Example
from jax_train.engine import optim
from jax_train.engine import recipe as build
from jax_train.engine.parallel import Layout
from jax_train.engine.state import cast
from jax_train.errors import UserError
from jax_train.pages import pictures
from jax_train.runs.history import History
from jax_train.runs.trained import TrainedRun, open_run
from jax_train.train import train
from tests.jax_models import small

RNG = np.random.default_rng(7)


def run_of(model, name, folder, num_classes, channels):
    """A run as `open_run` would give it, without training."""
    config = common.get_config()
    config.model.name = name
    for key, value in small.SMALL[name].settings.items():
        config.model[key] = value
    config.data.mean, config.data.std = (0.4, 0.3, 0.2)[:channels], (0.2, 0.3, 0.4)[:channels]
    recipe = build.create_recipe(config, optim.schedule_tables(config, 1), Layout(), 1)
    graphdef, params, stats = nnx.split(model, nnx.Param, ...)
    recipe = dataclasses.replace(recipe, graphdef=graphdef)
    results = {"class_names": [f"class {i} of $x_{i}" for i in range(num_classes)]}
    pure = nnx.to_pure_dict
    return TrainedRun(folder, config, results, recipe, pure(params), pure(stats), 7)


def small_run(name, folder):
    settings = small.SMALL[name].settings
    return run_of(
        small.shared(name), name, folder, settings["num_classes"], settings["in_channels"]
    )


def chosen_images(name, count=2):
    shape = (count, *small.SMALL[name].image, small.SMALL[name].settings["in_channels"])
    images = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    names = tuple(f"test {i}" for i in range(count))
    return pictures.Chosen(names, images, np.arange(count), images)


def shown(axes):
    """Arrays of the images of an axes, the lowest first."""
    return [np.ma.filled(np.ma.asarray(image.get_array()), np.nan) for image in axes.images]


def tile(array, row, column, rows, columns):
    """A tile of a mosaic, cut out by the NaN around it."""
    filled_rows = np.flatnonzero(~np.isnan(array).all(axis=1))
    filled_columns = np.flatnonzero(~np.isnan(array).all(axis=0))
    own_rows = np.array_split(filled_rows, rows)[row]
    own_columns = np.array_split(filled_columns, columns)[column]
    return array[np.ix_(own_rows, own_columns)]


def example_of(pixels):
    return Example("test 3", pixels, "cat", 0.61, "dog")


# What is drawn is what was returned


@pytest.fixture(scope="module")
def pointing():
    """A ViT whose class token, in every head of block 2, attends to patch 5 alone."""
    model = small.build("vit")
    d, heads = 21, 3
    attn = model.blocks[1].attn
    kernel, bias = np.zeros((d, 3 * d), np.float32), np.zeros(3 * d, np.float32)
    # Every query is the same; a key is feature 0 of its token. No block before changes tokens.
    for head in range(heads):
        bias[head * 7] = 40
        kernel[0, d + head * 7] = 40
    attn.qkv.kernel[...], attn.qkv.bias[...] = kernel, bias
    first = model.blocks[0]
    for part in (first.attn.projection, first.mlp.fc2):
        part.kernel[...] = np.zeros_like(part.kernel[...])
        part.bias[...] = np.zeros_like(part.bias[...])
    model.patch_embed.projection.kernel[...] *= 0
    model.patch_embed.projection.bias[...] *= 0
    positions = RNG.normal(size=(1, 10, d)).astype(np.float32)
    positions[0, :, 0], positions[0, 6, 0] = -9, 9
    model.pos_embed[...], model.cls_token[...] = positions, np.zeros((1, 1, d), np.float32)
    return model


def test_attention_drawn_points_where_the_weights_point(pointing, tmp_path):
    run = run_of(pointing, "vit", tmp_path, 19, 2)
    for picture in pictures.pictures(run, chosen_images("vit", 1)):
        if picture.name == "attention_by_head_test-0":
            array = shown(picture.figure.axes[1])[0]
            for head in range(3):
                part = tile(array, 1, head, 2, 3)
                side = part.shape[0] // 3
                np.testing.assert_allclose(part[side : 2 * side, 2 * side :], 100, atol=1e-3)
                assert np.delete(part.ravel(), np.flatnonzero(part > 50)).max() < 1e-3
        if picture.name == "attention":
            overlay = shown(picture.figure.axes[2])[-1]
            assert overlay.shape == (15, 15)
            np.testing.assert_allclose(overlay[5:10, 10:], 1, atol=1e-5)
            assert overlay[:5].max() < 1e-5


def test_attention_drawn_equals_attention_returned():
    model = small.shared("vit")
    images = small.draw_images("vit", batch=2)
    _, out = model(images, return_intermediates=True)
    attention = np.stack([explain.of_patches(np.asarray(a), 9) for a in out["attention"]])
    tokens = explain.token_map(model.patch_embed)
    pixels = RNG.random((15, 15, 2))
    picture = drawing_vit.attention_by_head(example_of(pixels), attention[:, 1], tokens)
    array = shown(picture.figure.axes[1])[0]
    for block in range(2):
        for head in range(3):
            part = tile(array, block, head, 2, 3)
            side = part.shape[0] // 3
            assert part.shape == (3 * side, 3 * side)
            returned = np.asarray(out["attention"][block])[1, head, 0, 1:].reshape(3, 3)
            drawn = np.kron(returned, np.ones((side, side), np.float32))
            np.testing.assert_array_equal(part, 100 * drawn)


def test_overlays_drawn_equal_attention_and_rollout():
    tokens = explain.token_map(small.shared("vit").patch_embed)
    attention = RNG.random((2, 2, 3, 9))
    rollout = RNG.random((2, 9))
    examples = [example_of(RNG.random((15, 15, 3))) for _ in range(2)]
    picture = drawing_vit.attention_over_images(examples, attention, rollout, tokens)
    axes = np.array(picture.figure.axes).reshape(2, 4)
    for row in range(2):
        np.testing.assert_array_equal(shown(axes[row, 0])[0], examples[row].pixels)
        expected = [attention[0, row].mean(axis=0), attention[1, row].mean(axis=0), rollout[row]]
        for place, values in zip(axes[row, 1:], expected, strict=True):
            drawn = shown(place)[-1]
            assert drawn.shape == (15, 15)
            np.testing.assert_array_equal(drawn[::5, ::5].ravel(), values)
            np.testing.assert_array_equal(drawn, np.kron(values.reshape(3, 3), np.ones((5, 5))))
            assert place.get_xlabel() == f"max {100 * values.max():.3g} %"


def test_nearly_even_attention_is_drawn_dull_and_even_is_told():
    tokens = explain.token_map(small.shared("vit").patch_embed)
    even = 1 / 10  # nine patches and the class token itself
    attention = even * RNG.uniform(0.95, 1.05, (2, 1, 3, 9))
    rollout = even * RNG.uniform(0.95, 1.05, (1, 9))
    example = example_of(RNG.random((15, 15, 3)))
    picture = drawing_vit.attention_over_images([example], attention, rollout, tokens)
    for place in picture.figure.axes[1:]:
        shares = place.images[-1].norm(shown(place)[-1])
        assert shares.max() < 0.3
    assert "Even attention is 10 %" in " ".join(picture.figure.get_supxlabel().split())
    picture = drawing_vit.attention_by_head(example, attention[:, 0], tokens)
    image = picture.figure.axes[1].images[0]
    shares = image.norm(shown(picture.figure.axes[1])[0])
    assert np.nanmax(shares) < 0.55
    assert "even: 10" in picture.figure.axes[2].get_xlabel()
    maps = np.full((1, 1, 6, 4), 1 / 24)
    picture = drawing_cnn.query_attention(example, maps, [(2, 1)], [0])
    assert picture.figure.axes[1].images[-1].norm(1 / 24) == pytest.approx(0.25)
    assert "Even attention is 4.17 %" in " ".join(picture.figure.get_supxlabel().split())


def test_a_figure_of_one_row_has_no_empty_bands():
    tokens = explain.token_map(small.shared("vit").patch_embed)
    example = example_of(RNG.random((15, 15, 3)))
    found = [
        drawing_vit.attention_over_images(
            [example], RNG.random((2, 1, 3, 9)), RNG.random((1, 9)), tokens
        ),
        drawing_cnn.grad_cams([example], [RNG.random((1, 4, 4))] * 3, [0, 1, 2], [(0, 4)] * 3),
    ]
    for picture in found:
        picture.figure.draw_without_rendering()
        inches = picture.figure.get_figheight()
        for place in picture.figure.axes:
            given = place.get_position(original=True).height - place.get_position().height
            assert given * inches < 0.1


def test_names_in_pictures_keep_their_end():
    assert canvas.short_name("test/siamese cat/IMG_1234.jpg", 14) == "…/IMG_1234.jpg"
    assert canvas.short_name("test image 17", 14) == "test image 17"


def test_runs_are_drawn_on_their_own_colour():
    part = layers.PatchEmbed(8, 2, 3, 7, raster=True, rngs=nnx.Rngs(0))
    tokens = explain.token_map(part)  # 12 values, one and a half rows
    attention = RNG.random((1, 1, 2, 16))
    pixels = RNG.random((8, 8, 3))
    picture = drawing_vit.attention_over_images(
        [example_of(pixels)], attention, RNG.random((1, 16)), tokens
    )
    behind, drawn = shown(picture.figure.axes[1])
    np.testing.assert_allclose(behind, 0.3 + 0.5 * pixels.transpose(2, 0, 1).reshape(24, 8))
    np.testing.assert_array_equal(drawn.ravel(), attention[0, 0].mean(axis=0).repeat(12))
    picture = drawing_vit.attention_by_head(example_of(pixels), attention[:, 0], tokens)
    array = shown(picture.figure.axes[1])[0]
    values = array[:, np.flatnonzero(~np.isnan(array[0]))[:8]]
    values = values[~np.isnan(values).all(axis=1)]
    np.testing.assert_array_equal(values.ravel(), (100 * attention[0, 0, 0]).repeat(12))
    assert "red, green, blue" in picture.figure.get_supxlabel()


def test_grad_cam_is_drawn_where_its_values_lie():
    values = RNG.random((1, 4, 4))
    examples = [example_of(RNG.random((13, 13, 3)))]
    picture = drawing_cnn.grad_cams(examples, [values], [1], [(2, 2)])
    image = picture.figure.axes[1].images[-1]
    np.testing.assert_array_equal(shown(picture.figure.axes[1])[-1], values[0])
    assert tuple(image.get_extent()) == (1.5, 9.5, 9.5, 1.5)  # pixels 2 to 9
    assert picture.figure.axes[1].get_xlim() == (-0.5, 12.5)


def test_queries_are_drawn_with_their_mark():
    maps = RNG.random((2, 3, 6, 4))
    queries = [(2, 1), (6, 4), (10, 7)]
    pixels = RNG.random((13, 9, 3))
    picture = drawing_cnn.query_attention(example_of(pixels), maps, queries, [0, 1])
    top, *places = picture.figure.axes
    assert [line.get_xydata().tolist() for line in top.lines[1::2]] == [
        [[x, y]] for y, x in queries
    ]
    for i, place in enumerate(places):
        np.testing.assert_array_equal(shown(place)[-1], maps[i // 3, i % 3])
        assert tuple(place.images[-1].get_extent()) == (-0.5, 7.5, 11.5, -0.5)
        y, x = queries[i % 3]
        assert place.lines[-1].get_xydata().tolist() == [[x, y]]


def test_feature_maps_drawn_are_the_channels_named():
    features = [RNG.random((4, 5, 9)), RNG.random((2, 2, 3))]
    channels = [explain.strongest_channels(maps, 6) for maps in features]
    picture = drawing_cnn.feature_maps(example_of(RNG.random((8, 8, 1))), features, channels)
    array = shown(picture.figure.axes[1])[0]
    for column, channel in enumerate(channels[0]):
        part = tile(array, 0, column, 1, 6)
        scale = part.shape[0] // 4
        np.testing.assert_array_equal(part[::scale, ::scale], features[0][..., channel])
    labels = [text.get_text() for text in picture.figure.axes[2].get_xticklabels()]
    assert labels == [*(str(c) for c in channels[1]), "", "", ""]


def test_positions_and_distances_are_drawn_as_given():
    part = layers.PatchEmbed(6, 2, 1, 7, rngs=nnx.Rngs(0))
    similarity = RNG.uniform(-1, 1, (9, 9))
    picture = drawing_vit.position_similarities(similarity, part)
    array = shown(picture.figure.axes[0])[0]
    for patch in range(9):
        found = tile(array, patch // 3, patch % 3, 3, 3)
        scale = found.shape[0] // 3
        np.testing.assert_array_equal(found[::scale, ::scale].ravel(), similarity[patch])
    distances = RNG.random((4, 2)) * 5
    picture = drawing_vit.attention_distances(distances, 3.0, 128)
    lines = [line.get_ydata() for line in picture.figure.axes[0].lines]
    np.testing.assert_array_equal(lines[:2], distances.T)
    np.testing.assert_allclose(lines[2], distances.mean(axis=1))
    assert "pixels" in picture.figure.axes[0].get_ylabel()


def test_tokens_that_are_no_patches_are_left_out_and_told(tmp_path):
    name = "vit_tiny_patch16_224"  # the class token, 3 registers and 4 patches
    chosen = chosen_images(name, 1)
    run = small_run(name, tmp_path)
    seen = explain.forward(run, chosen.images)
    found = {picture.name: picture.figure for picture in pictures.pictures(run, chosen)}
    figure = found["attention_by_head_test-0"]
    texts = " ".join(text.get_text() for text in figure.findobj(match=_is_text))
    assert "goes to the 4 tokens that are no patches" in " ".join(texts.split())
    assert "even: 12.5" in texts  # of 8 tokens
    part = tile(shown(figure.axes[1])[0], 1, 0, 2, 2)
    side = part.shape[0] // 2
    returned = seen.attention[1][0, 0, 0, 4:].reshape(2, 2)
    np.testing.assert_allclose(part, 100 * np.kron(returned, np.ones((side, side))), rtol=1e-6)


def test_a_class_token_that_cannot_look_at_itself_lacks_nothing(tmp_path):
    run, chosen = small_run("sl_vit", tmp_path), chosen_images("sl_vit", 1)
    found = {picture.name: picture.figure for picture in pictures.pictures(run, chosen)}
    texts = found["attention_by_head_test-0"].findobj(match=_is_text)
    texts = " ".join(" ".join(text.get_text() for text in texts).split())
    assert "lacks" not in texts
    assert "even: 25" in texts  # of 4 patches
    texts = found["patches_test-0"].findobj(match=_is_text)
    assert any("sees 13×13" in text.get_text() for text in texts)  # patches of 7, shifted by 3


# Every model


@pytest.mark.parametrize("name", small.COVERED)
def test_every_model_is_explained(name, tmp_path):
    run = small_run(name, tmp_path)
    count = 2 if name in ("vit", "attention_cnn") else 1
    found = list(pictures.pictures(run, chosen_images(name, count)))
    names = [picture.name for picture in found]
    assert len(set(names)) == len(names)
    if "num_heads" in small.SMALL[name].settings:
        expected = {"attention", "attention_distance", "position_similarity"}
        expected.add("first_filters" if name == "cct_2_3x2" else "patch_filters")
        expected |= {f"attention_by_head_test-{i}" for i in range(count)}
        expected |= {f"patches_test-{i}" for i in range(count)}
    else:
        expected = {"grad_cam", "first_filters"}
        expected |= {f"feature_maps_test-{i}" for i in range(count)}
        if name == "attention_cnn":
            expected |= {f"queries_test-{i}" for i in range(count)}
    assert set(names) == expected
    for picture in found[::2]:  # writing takes most of the time
        with Image.open(picture.save(tmp_path / "out")) as image:
            image.load()
            assert image.width == canvas.WIDTH * canvas.DPI
            assert 300 < image.height < 10_000
            assert image.info["Description"] == picture.alt
            low, high = image.convert("L").getextrema()
            assert high - low > 100
    for picture in found:
        texts = picture.figure.findobj(match=_is_text)
        assert min(text.get_fontsize() for text in texts) >= 9
        assert len(picture.alt) > 30
    lines = pictures.remarks(run)
    assert lines
    assert all(line.startswith(name) for line in lines)


class Registers(VisionTransformer):
    """A ViT with two more tokens between the class token and the patches."""

    def embed(self, images, **how):
        x = super().embed(images, **how)
        return jnp.concatenate([x[:, :1], 0 * x[:, 1:3], x[:, 1:]], axis=1)


class Wrapped(nnx.Module):
    """No ConvNet, but with all that the pictures of one ask for."""

    def __init__(self, net):
        self.net = net

    def __getattr__(self, name):
        if name in ("stages", "after", "stage_pixels", "attention_stages", "first_filters"):
            return getattr(self.net, name)
        raise AttributeError(name)

    def __call__(self, images, **options):
        return self.net(images, **options)


def test_a_new_family_is_shown_by_what_it_has(tmp_path):
    model = small.build("vit")
    model.__class__ = Registers
    found = list(pictures.pictures(run_of(model, "vit", tmp_path, 19, 2), chosen_images("vit", 1)))
    assert [picture.name for picture in found] == [
        "attention",
        "attention_by_head_test-0",
        "patches_test-0",
        "attention_distance",
        "position_similarity",
        "patch_filters",
    ]
    run = run_of(Wrapped(small.build("simple_cnn")), "simple_cnn", tmp_path, 19, 2)
    found = list(pictures.pictures(run, chosen_images("simple_cnn", 1)))
    assert [picture.name for picture in found] == [
        "grad_cam",
        "feature_maps_test-0",
        "first_filters",
    ]
    run = run_of(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "simple_cnn", tmp_path, 19, 2)
    assert pictures.remarks(run) == ["simple_cnn has neither patches nor stages: nothing to draw."]


def test_grad_cam_computes_in_the_dtype_of_the_run(tmp_path):
    run = small_run("simple_cnn", tmp_path)
    run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, dtype="bfloat16"))
    features = explain.forward(run, chosen_images("simple_cnn", 1).images).features[0]
    model = run.recipe.merge(run.params, run.stats)
    seen = []
    after = type(model).after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(model), "after", lambda *args: (seen.append(args[-1].dtype), after(*args))[1]
        )
        found = explain.grad_cam(model, features, np.array([3]), 0)
    assert seen == ["bfloat16"]
    assert found.dtype == np.float32


def _is_text(artist):
    from matplotlib.text import Text

    return isinstance(artist, Text) and bool(artist.get_text()) and artist.get_visible()


def test_what_is_seen_is_what_evaluation_sees(tmp_path):
    run = small_run("simple_cnn", tmp_path)
    images = chosen_images("simple_cnn").images
    seen = explain.forward(run, images)
    np.testing.assert_allclose(seen.logits, run.logits(images), atol=1e-5)
    np.testing.assert_allclose(seen.pixels, images / 255, atol=1e-6)
    np.testing.assert_allclose(seen.probabilities.sum(axis=1), 1, atol=1e-6)
    assert [maps.shape[1:] for maps in seen.features] == list(small.SMALL["simple_cnn"].features)


def test_mean_distance_does_not_depend_on_the_batches(tmp_path, monkeypatch):
    run = small_run("vit", tmp_path)
    images = chosen_images("vit", 5).images
    whole = explain.mean_attention_distance(run, images)
    monkeypatch.setattr(explain, "_BATCH", 2)
    np.testing.assert_allclose(explain.mean_attention_distance(run, images), whole, rtol=1e-5)


# Texts


def test_verdicts_and_names():
    example = example_of(np.zeros((2, 2, 1)))
    assert example.verdict == "cat (61 %), truly dog"
    assert dataclasses.replace(example, truth="cat").verdict == "cat (61 %), right"
    assert dataclasses.replace(example, truth=None).verdict_lines == "cat\n61 %"
    assert canvas.short("a\nb " + 30 * "c") == "a b cccccccccccccc…"[:17] + "…"
    assert canvas.short_name("a b.jpg", 7) == "a b.jpg"
    assert canvas.short_name("a/b c.jpg", 7) == "… c.jpg"
    assert canvas.short_name(9 * "猫" + ".jpg", 14) == "…猫猫猫猫.jpg"  # each as wide as two
    names = ["a/b c.png", "test[:9] 3", "x.jpg", "x.png", "…", "Ünï.gif"]
    assert pictures.slugs(names) == ["b-c", "test-9-3", "x", "x-2", "image", "Ünï"]
    assert pictures.slugs(["X.jpg", "x.jpg"]) == ["X", "x-2"]  # one file on some systems


@pytest.mark.filterwarnings("error")  # it warns where the axes have no room left
@pytest.mark.parametrize(
    "names", [("_old", "new"), (90 * "a", 90 * "b"), (f"{60 * 'a'}1{60 * 'a'}", 121 * "a")]
)
def test_names_of_any_form_stand_in_the_legend_and_leave_room(names):
    rows = np.array([[1, 0.5, 0.5], [2, 0.4, 0.6]])
    drawn = results.curves(dict.fromkeys(names, History(rows, rows, rows[:0])))
    drawn.append(results.accuracy_by_class(dict.fromkeys(names, np.ones(3)), "abc"))
    for picture in drawn:
        axes = picture.figure.axes[0]
        picture.figure.draw_without_rendering()
        texts = [text.get_text().strip() for text in axes.get_legend().get_texts()]
        assert len(set(texts)) == 2
        place = axes.get_legend().get_window_extent()
        assert place.x0 >= 0
        assert place.x1 <= picture.figure.bbox.x1
        assert axes.get_window_extent().width > 0.3 * picture.figure.bbox.width


def test_query_positions_lie_in_the_image():
    for height, width in ((1, 1), (2, 5), (8, 8), (13, 9), (32, 32)):
        for row, column in pictures.query_positions(height, width):
            assert 0 <= row < height
            assert 0 <= column < width


# The command


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a CNN on a few digits."""
    config = common.get_config()
    config.model.name, config.model.widths = "simple_cnn", (5, 7)
    config.data.train_split, config.data.val_split = "train[:64]", ""
    config.data.test_split = "test[:9]"
    config.train.epochs, config.train.batch_size = 1, 32
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config, folder)
    return folder


def explained(capsys, *arguments):
    assert main(["explain", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_command_explains_test_images_by_itself(finished, capsys):
    lines = explained(capsys, finished)
    folder = finished / "explain"
    assert lines[-1].startswith("simple_cnn has no attention: ")
    assert sorted(lines[:-1]) == sorted(str(path) for path in folder.iterdir())
    assert len(lines) == 1 + 2 + 4  # four classes


def test_the_command_takes_a_split_and_a_stage(finished, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    explained(
        capsys,
        finished,
        "--split",
        "train[:50]",
        "--index",
        49,
        3,
        "--stage",
        1,
        "--out",
        out,
    )
    assert {path.name for path in out.iterdir()} == {
        "grad_cam.png",
        "first_filters.png",
        "feature_maps_train-50-49.png",
        "feature_maps_train-50-3.png",
    }


def test_the_command_takes_image_files(finished, tmp_path, capsys):
    Image.fromarray(RNG.integers(0, 256, (40, 31, 3), np.uint8)).save(tmp_path / "a $b$.png")
    out = tmp_path / "out"
    explained(capsys, finished, tmp_path / "a $b$.png", "--out", out)
    assert (out / "feature_maps_a-b.png").exists()


def test_examples_are_of_different_classes(finished):
    run = open_run(finished)
    chosen = pictures.choose_examples(run, None)
    test = data.load_split(run.config, "test[:9]")
    assert len(set(chosen.labels.tolist())) == len(chosen.images) == 4
    for name, image, label in zip(chosen.names, chosen.images, chosen.labels, strict=True):
        number = int(name.removeprefix("test[:9] "))
        np.testing.assert_array_equal(image, test.images[number])
        assert label == test.labels[number]
        assert label not in test.labels[:number]  # the first one of its class
    assert len(chosen.more) == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--index", "9"], ["--index 9", "'test[:9]'", "0 to 8"]),
        (["--index", "-1"], ["--index -1"]),
        (["--index", *map(str, range(17))], ["17 images", "at most 16"]),
        (["--stage", "3"], ["--stage 3", "1 to 2"]),
        (["--split", "tset"], ["'tset'", "test"]),
        (["none.png"], ["none.png", "no such file"]),
        (["--out", "/dev/null/x"], ["/dev/null/x", "Choose another place"]),
    ],
)
def test_a_bad_argument_is_named(arguments, words, finished, capsys):
    assert main(["explain", str(finished), *arguments]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert all(word in error for word in words), error


def test_where_pictures_go_by_default_is_checked_before_they_are_made(
    finished, monkeypatch, capsys
):
    monkeypatch.setattr(TrainedRun, "pictures_folder", Path("/dev/null/x"))
    monkeypatch.setattr(pictures, "pictures", None)
    assert main(["explain", str(finished)]) == 2
    assert "--out /dev/null/x" in capsys.readouterr().err


def test_other_misuse_is_refused(finished, tmp_path, capsys):
    with pytest.raises(UserError, match="vit has no convolution stages"):
        check_stage(small.shared("vit"), "vit", 1)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert main(["explain", str(finished), str(tmp_path / "a.png"), "--index", "1"]) == 2
    assert "no meaning" in capsys.readouterr().err
    run = small_run("simple_cnn", tmp_path)
    bad = dataclasses.replace(run, params=cast(run.params, "float32"))
    bad.params["head"]["layers"][0]["bias"] = np.full(19, np.nan, np.float32)
    with pytest.raises(UserError, match="not finite"):
        list(pictures.pictures(bad, chosen_images("simple_cnn")))


def test_a_class_without_images_has_as_much_room_as_others():
    shares = {"vit": np.array([0.4, np.nan]), "simple_cnn": np.array([0.6, np.nan])}
    [axes] = results.accuracy_by_class(shares, ["cat", "dog"]).figure.axes
    assert axes.get_ylim() == (1.5, -0.5)
