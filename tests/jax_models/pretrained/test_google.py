"""Google's .npz files, written here as its two code bases write them."""

import numpy as np
import pytest

from jax_models import load_pretrained, torch_weights
from jax_models.pretrained import positions
from tests.jax_models.pretrained import folders, originals
from tests.jax_models.small import bits

NAME, HEADS = "vit_tiny_patch16_224", folders.VIT["num_heads"]
SIZES = {key: value for key, value in folders.VIT.items() if key != "img_size"}
GAP = {"class_token": False, "pool": "avg", "fc_norm": False}


def _google(state, numbers):
    return originals.google(state, numbers, HEADS)


@pytest.fixture(scope="module")
def model():
    return folders.build(NAME, **folders.VIT)


@pytest.mark.parametrize("form", ["old", "new", "stacked"])
@pytest.mark.parametrize("root", ["", "params/", "opt/target/", "params/img/"])
def test_a_file_of_googles_is_its_model(form, root, model, tmp_path):
    state = _google(
        torch_weights.export(model, "timm"), originals.OLD if form == "old" else originals.NEW
    )
    state = originals.stacked(state) if form == "stacked" else state
    state = {f"{root}{name}": array for name, array in state.items()}
    if root == "opt/target/":
        state["opt/state/step"] = np.zeros(())
    path = tmp_path / "google.npz"
    np.savez(path, **state)
    loaded = load_pretrained(path, name=NAME, **SIZES)
    assert bits(loaded.model) == bits(model)


# What big_vision has besides: pool 'gap' without a class token, and positions of the patches alone


def _saved(path, model, change=lambda state: state):
    np.savez(path, **change(_google(torch_weights.export(model, "timm"), originals.NEW)))
    return path


@pytest.mark.parametrize("form", ["new", "stacked"])
@pytest.mark.parametrize("root", ["", "params/", "params/img/"])
def test_a_model_that_pools_the_mean_is_told_by_its_names(form, root, tmp_path):
    model = folders.build(NAME, **folders.VIT, **GAP)
    state = _google(torch_weights.export(model, "timm"), originals.NEW)
    state = originals.stacked(state) if form == "stacked" else state
    np.savez(tmp_path / "gap.npz", **{f"{root}{name}": array for name, array in state.items()})
    loaded = load_pretrained(tmp_path / "gap.npz", name=NAME, **SIZES)
    assert {key: loaded.settings[key] for key in GAP} == GAP
    assert bits(loaded.model) == bits(model)
    again = folders.build(NAME, **folders.VIT, **GAP)
    again.head.layers[0].bias[...] = 0
    torch_weights.load_file(again, tmp_path / "gap.npz")
    assert bits(again) == bits(model)


def test_positions_may_be_those_of_the_patches_alone(tmp_path):
    model = folders.build(NAME, cover_prefix=False, **folders.VIT)
    loaded = load_pretrained(_saved(tmp_path / "tok.npz", model), name=NAME, **SIZES)
    assert loaded.settings["cover_prefix"] is False
    assert bits(loaded.model) == bits(model)


@pytest.mark.parametrize("settings", [GAP, {"cover_prefix": False}])
def test_positions_that_are_in_no_file_are_worked_out(settings, tmp_path):
    model = folders.build(NAME, **folders.VIT, **settings)

    def without(state):
        del state["pos_embedding"]
        return state

    path = _saved(tmp_path / "sincos.npz", model, without)
    loaded = load_pretrained(path, name=NAME, **SIZES)  # at the 224 pixels of the name
    assert any("fixed ones of big_vision" in note for note in loaded.notes)
    assert {key: loaded.settings[key] for key in settings} == settings
    found = np.asarray(loaded.model.pos_embed[...])[0].reshape(28, 28, 24)
    for y, x, k in [(0, 0, 0), (27, 1, 5), (2, 13, 2)]:
        angles = [place * 10_000 ** (-k / 5) for place in (x, y)]
        expected = [f(angle) for angle in angles for f in (np.sin, np.cos)]
        np.testing.assert_allclose(found[y, x, k::6], expected, atol=1e-6)


def test_attention_pooling_is_refused_in_a_paragraph(tmp_path):
    def pooled(state):
        return state | {"MAPHead_0/probe": np.ones((1, 1, 24))}

    model = folders.build(NAME, **folders.VIT, **GAP)
    path = _saved(tmp_path / "map.npz", model, pooled)
    for load in (
        lambda: load_pretrained(path, name=NAME, **SIZES),
        lambda: torch_weights.load_file(model, path),
    ):
        with pytest.raises(ValueError, match=r"MAPHead_0.*'tok' or 'gap'") as error:
            load()
        assert str(path) in str(error.value)
        assert "damaged" not in str(error.value)


def test_load_file_reads_it_too_and_leaves_pre_logits_out(model, tmp_path):
    state = _google(torch_weights.export(model, "timm"), originals.OLD)
    state |= {"pre_logits/kernel": np.ones((24, 24)), "pre_logits/bias": np.ones(24)}
    np.savez(tmp_path / "google.npz", **state)
    other = folders.build(NAME, **folders.VIT)
    other.head.layers[0].kernel[...] = 0
    with pytest.warns(UserWarning, match="pre_logits"):
        torch_weights.load_file(other, tmp_path / "google.npz")
    np.testing.assert_array_equal(
        other.head.layers[0].kernel[...], model.head.layers[0].kernel[...]
    )


def test_it_is_shown_and_resized_as_at_google(model, tmp_path):
    path = tmp_path / "google.npz"
    np.savez(path, **_google(torch_weights.export(model, "timm"), originals.NEW))
    loaded = load_pretrained(path, name=NAME, img_size=48, **SIZES)
    expected = positions.resize(np.asarray(model.pos_embed[...]), 6, positions.google)
    np.testing.assert_array_equal(loaded.model.pos_embed[...], expected)
    steps = loaded.preprocessing
    assert (steps.size, steps.resize, steps.interpolation) == (48, (48, 48), "bilinear")
    pixels = np.array([0, 255, 51], np.uint8)
    np.testing.assert_allclose(steps.normalise(pixels), pixels / 127.5 - 1, atol=1e-6)
    assert any("GELU" in note for note in loaded.notes)


def test_a_missing_part_is_told(model, tmp_path):
    state = _google(torch_weights.export(model, "timm"), originals.OLD)
    del state["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel"]
    path = tmp_path / "google.npz"
    np.savez(path, **state)
    with pytest.raises(ValueError, match=r"missing: blocks\.1\.attn\.qkv\.weight"):
        load_pretrained(path, name=NAME, **SIZES)
