"""Folders of transformers and timm that are written here: what was read comes back."""

import json
from dataclasses import replace

import pytest

import jax_models
from jax_models.pretrained import Preprocessing, writing
from jax_models.pretrained.description import Description
from tests.jax_models import small
from tests.jax_models.pretrained import folders


def read(folder):
    opened = jax_models.open_pretrained(folder)
    return opened.model, opened.description


def rewritten(model, found, format, folder):
    """What is read of the JSON files that are written of a model, beside the weights it had."""
    for name, fields in writing.files(model, found, format).items():
        (folder / name).write_text(json.dumps(fields))
    return read(folder)[1]


def assert_same(back, found):
    keywords = jax_models.model_keywords(found.name)
    wanted, there = keywords | found.settings, keywords | back.settings
    hidden = {"mlp_dim", "head_norm_eps", "fc_norm", "layer_scale"}
    hidden = {key for key in hidden if None in (wanted.get(key), there.get(key))}
    assert {k: v for k, v in there.items() if k not in hidden} == {
        k: v for k, v in wanted.items() if k not in hidden
    }
    assert back.name == found.name
    assert back.class_names == found.class_names
    assert back.preprocessing == replace(
        found.preprocessing, rounds_up=back.preprocessing.rounds_up
    )


@pytest.mark.parametrize("num_classes", [folders.CLASSES, 0])
@pytest.mark.parametrize("kind", folders.HUGGING_FACE)
def test_a_folder_of_transformers_is_written_as_it_was_read(kind, num_classes, tmp_path):
    bare = {"architectures": None, "id2label": None} if not num_classes else {}
    if not num_classes and kind.startswith("deit"):
        pytest.skip("a bare one has two tokens and no class that reads both")
    folders.hugging_face(tmp_path, kind, num_classes=num_classes, **bare)
    model, found = read(tmp_path)
    assert "huggingface" in writing.formats_of(model)
    assert_same(rewritten(model, found, "huggingface", tmp_path), found)


@pytest.mark.parametrize("name", [name for name in folders.TIMM if name != "resnet18"])
def test_a_folder_of_timm_is_written_as_it_was_read(name, tmp_path):
    folders.timm(tmp_path, name)
    model, found = read(tmp_path)
    assert "timm" in writing.formats_of(model)
    assert_same(rewritten(model, found, "timm", tmp_path), found)
    told = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["classifier"]
    several = ["head", "head_dist"] if "distilled" in name else "head"  # what timm leaves out
    assert told == ("head.fc" if name == "convnext_tiny" else several)


@pytest.mark.parametrize("resize", [None, 32, 37, (32, 32)])
@pytest.mark.parametrize("format", writing.FORMATS)
def test_what_is_done_to_images_comes_back(format, resize, tmp_path):
    folders.hugging_face(tmp_path)
    model, found = read(tmp_path)
    found.settings["norm_eps"] = 1e-6
    steps = replace(found.preprocessing, resize=resize, interpolation="lanczos")
    found.preprocessing = replace(steps, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    back = rewritten(model, found, format, tmp_path).preprocessing
    wanted = found.preprocessing
    if format == "timm" and resize is None:  # which always resizes
        wanted = replace(wanted, resize=32)
    assert back == replace(wanted, rounds_up=back.rounds_up)


def test_timm_resizes_to_squares(tmp_path):
    folders.timm(tmp_path)
    model, found = read(tmp_path)
    found.preprocessing = replace(found.preprocessing, resize=(37, 41))
    with pytest.raises(writing.Unwritable, match="to squares, not to 37x41"):
        writing.files(model, found, "timm")


def test_timm_rounds_the_ratio_of_an_mlp_to_its_width():
    settings = {"embed_dim": 88, "num_heads": 8, "mlp_dim": 120}
    assert int(88 * (120 / 88)) == 119
    model = small.abstract("vit_tiny_patch16_224", **settings)
    found = Description("vit_tiny_patch16_224", settings, Preprocessing(224, None))
    config = writing.files(model, found, "timm")["config.json"]
    assert int(88 * config["model_args"]["mlp_ratio"]) == 120


def test_a_library_without_the_model_is_told():
    for name, there in (("vit", []), ("resnet18", ["huggingface", "timm"])):
        assert writing.formats_of(small.shared(name)) == there
    changed = small.build("resnet18", stem="cifar")
    assert writing.formats_of(changed) == []
    found = Description("resnet18", {"stem": "cifar"}, Preprocessing(32, None))
    with pytest.raises(writing.Unwritable, match="timm has no such model"):
        writing.files(changed, found, "timm")


def test_timms_resnets_begin_with_64_channels(tmp_path):
    folders.timm(tmp_path, "resnet18")
    model, found = read(tmp_path)
    with pytest.raises(writing.Unwritable, match="64 channels"):
        writing.files(model, found, "timm")
    assert writing.files(model, found, "huggingface")["config.json"]["embedding_size"] == 8
    found.settings["widths"] = (64, 12, 20, 28)
    config = writing.files(model, found, "timm")["config.json"]
    assert config["model_args"] == {"layers": [1, 2, 1, 1], "channels": [64, 12, 20, 28]}
