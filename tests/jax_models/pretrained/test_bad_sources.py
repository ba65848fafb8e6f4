"""Sources that cannot be loaded: one paragraph each, at once, and nothing is written."""

import json
import pickle
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_models import load_pretrained
from jax_models.pretrained import SourceError
from tests.jax_models.pretrained import folders

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of transformers and one of timm that can be loaded."""
    root = tmp_path_factory.mktemp("whole")
    folders.hugging_face(root / "hf")
    folders.timm(root / "timm")
    return root


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the folder of transformers, to be damaged."""
    return _copy(whole / "hf", tmp_path / "hf")


def _copy(source, target):
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def _set(folder, file="config.json", **fields):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _refused(source, *words, **how):
    before = {p: p.read_bytes() for p in source.rglob("*")} if source.is_dir() else {}
    begun = time.monotonic()
    with pytest.raises(SourceError) as error:
        load_pretrained(source, **how)
    text = str(error.value)
    assert time.monotonic() - begun < 5
    assert "\n" not in text
    assert len(text) < 1500
    missing = [word for word in words if word not in text]
    assert not missing, text
    assert before == ({p: p.read_bytes() for p in source.rglob("*")} if source.is_dir() else {})


def test_no_such_folder(tmp_path):
    _refused(tmp_path / "nowhere", "nowhere: there is no such folder or file", "hf:ORG/NAME")


def test_an_empty_folder(tmp_path):
    _refused(tmp_path, "has no config.json", "name=")


def test_a_folder_without_weights(folder):
    (folder / WEIGHTS).unlink()
    _refused(folder, "holds no weights", WEIGHTS, "pytorch_model.bin")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds no JSON object"),
        ("{}", "neither model_type"),
        pytest.param("[" * 100_000, "cannot be read as JSON", id="deep"),
        (b"\xff\xfe", "cannot be read as JSON"),
    ],
)
def test_a_config_that_is_none(folder, text, words):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / "config.json").write_bytes(content)
    _refused(folder, "config.json", words)


@pytest.mark.parametrize("kind", ["bert", "clip", 3, None])
def test_an_unknown_model_type(folder, kind):
    _set(folder, model_type=kind)
    _refused(folder, "config.json")


def test_an_unknown_architecture(whole, tmp_path):
    folder = _copy(whole / "timm", tmp_path / "timm")
    _set(folder, architecture="swin_tiny_patch4_window7_224")
    _refused(folder, "architecture='swin_tiny_patch4_window7_224'", "vit_tiny_patch16_224")


def test_an_unknown_argument_of_timm(whole, tmp_path):
    folder = _copy(whole / "timm", tmp_path / "timm")
    _set(folder, model_args=folders.VIT | {"rope": True})
    _refused(folder, "rope=True", "an argument that the models here have")
    _set(folder, model_args=folders.VIT | {"qkv_bias": False})
    _refused(folder, "qkv_bias=False", "expected True")


@pytest.mark.parametrize(
    "lie", [{"crop_pct": 1e-320}, {"crop_pct": 10**400}, {"std": [0.5, -0.5, 0.5]}, {"std": []}]
)
def test_a_preprocessing_of_timm_that_cannot_be(whole, tmp_path, lie):
    folder = _copy(whole / "timm", tmp_path / "timm")
    steps = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    _set(folder, pretrained_cfg=steps | lie)
    _refused(folder, "config.json", f"says {next(iter(lie))}=", "expected")


def test_a_ratio_that_no_mlp_can_have(whole, tmp_path):
    folder = _copy(whole / "timm", tmp_path / "timm")
    _set(folder, model_args=folders.VIT | {"mlp_ratio": 1e308})
    _refused(folder, "mlp_ratio=1e+308", "expected a number from 0 to 1,000,000")
    dinov2 = tmp_path / "dinov2"
    folders.hugging_face(dinov2, "dinov2")
    _set(dinov2, mlp_ratio=1e308)
    _refused(dinov2, "mlp_ratio=1e+308", "expected a number from 0 to 1,000,000")


@pytest.mark.parametrize(
    "lie",
    [
        {"hidden_size": 48},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"intermediate_size": 97},
        {"image_size": 64},
        {"patch_size": 16},
        {"num_channels": 1},
        {"id2label": {"0": "a", "1": "b"}},
        {"model_type": "dinov2"},
    ],
)
def test_a_config_that_lies_about_its_sizes(folder, lie):
    _set(folder, **lie)
    _refused(folder, "are not those of", "Nothing was loaded")


@pytest.mark.parametrize(
    "lie",
    [
        {"hidden_size": -1},
        {"hidden_size": "24"},
        {"hidden_size": 10**12},
        {"hidden_size": True},
        {"num_hidden_layers": 10**6},
        {"num_attention_heads": 0},
        {"image_size": [32, 48]},
        {"hidden_act": "gelu_new"},
        {"qkv_bias": False},
        {"layer_norm_eps": -1},
        {"layer_norm_eps": None, "hidden_act": "relu"},
        {"id2label": ["a"]},
        {"architectures": {"a": 1}, "hidden_size": None, "image_size": 0},
        {"id2label": {"1": "a"}},
        {"layer_norm_eps": 10**400},
    ],
)
def test_a_config_with_values_that_cannot_be(folder, lie):
    _set(folder, **lie)
    _refused(folder, "config.json", next(reversed(lie)))


def test_heads_that_do_not_divide_the_width(folder):
    _set(folder, num_attention_heads=5)
    _refused(folder, "num_heads=5", "embed_dim=24")


@pytest.mark.parametrize(
    "lie",
    [
        {"size": "big"},
        {"size": {"width": 3}},
        {"size": {"shortest_edge": 0}},
        {"resample": 9},
        {"resample": [3]},
        {"size": {"height": 32, "width": 48}},
        {"do_center_crop": True, "crop_size": -1},
        {"image_std": [0.5, 0.0, 0.5]},
        {"image_std": [0.5]},
        {"image_std": [0.5, -0.5, 0.5]},
        {"image_std": [], "image_mean": []},
        {"image_mean": [0.5, 10**400, 0.5]},
        {"rescale_factor": 10**400},
        {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 1e-320},
        {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0},
        {"image_mean": "0.5"},
        {"do_center_crop": True, "crop_size": {"height": 3, "width": 4}},
        {"do_resize": "yes"},
    ],
)
def test_a_preprocessor_with_values_that_cannot_be(folder, lie):
    _set(folder, "preprocessor_config.json", **lie)
    _refused(folder, "preprocessor_config.json")


def test_wrong_shapes(folder):
    state = load_file(folder / WEIGHTS)
    name = next(key for key in state if key.endswith("classifier.weight"))
    save_file(state | {name: np.zeros((7, 25), np.float32)}, folder / WEIGHTS)
    _refused(folder, "misshapen: classifier.weight is [7, 25], the model has [7, 24]")


def test_missing_and_unknown_tensors(folder):
    state = load_file(folder / WEIGHTS)
    state["extra"] = state.pop("classifier.bias")
    save_file(state, folder / WEIGHTS)
    _refused(folder, "missing: classifier.bias", "unexpected: extra")


def test_values_that_are_no_numbers(folder):
    state = load_file(folder / WEIGHTS)
    state["classifier.bias"][3] = np.nan
    save_file(state, folder / WEIGHTS)
    _refused(folder, "not finite: classifier.bias has 1 of 7 values NaN")


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a file was run')",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", WEIGHTS])
def test_a_pickle_is_not_run(folder, name):
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps({"weight": Evil()}))
    _refused(folder, name)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, -1])
def test_a_truncated_file(folder, kept):
    content = (folder / WEIGHTS).read_bytes()
    kept = int(len(content) * kept) if isinstance(kept, float) else kept
    (folder / WEIGHTS).write_bytes(content[:kept])
    _refused(folder, WEIGHTS, "cut short")


def test_an_index_that_names_a_missing_shard(folder):
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    save_file(state, folder / "one.safetensors")
    index = {"weight_map": dict.fromkeys(state, "one.safetensors") | {"x": "two.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    _refused(folder, "index.json names two.safetensors, which is not there")


@pytest.mark.parametrize("shard", ["../hf/one.safetensors", "/etc/passwd", "one.txt", "", 3])
def test_an_index_that_leads_elsewhere(folder, shard):
    (folder / WEIGHTS).rename(folder / "one.safetensors")
    index = {"weight_map": {"a": shard}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    _refused(folder, "weight_map", "names of files of weights beside it")


def test_a_file_without_the_name_of_its_model(folder):
    _refused(folder / WEIGHTS, "is a file of weights", 'name="vit_base_patch16_224"')


def test_a_file_with_a_name_that_is_none(folder):
    _refused(folder / WEIGHTS, "Unknown model 'vit_huge'", name="vit_huge")
    _refused(folder / WEIGHTS, "no keyword 'width'", name="vit_tiny_patch16_224", width=3)


def test_a_folder_says_its_model_by_itself(folder):
    _refused(folder, "is a folder, whose config.json says the model", name="vit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["weights.txt", "weights"])
def test_a_file_of_another_kind(folder, name):
    (folder / WEIGHTS).rename(folder / name)
    _refused(folder / name, name, "ending", name="vit_tiny_patch16_224")


@pytest.mark.parametrize("size", [0, -3, 2.5, "32", True])
def test_an_image_size_that_cannot_be_is_refused_of_a_cnn_too(tmp_path, size):
    folders.hugging_face(tmp_path, "resnet")
    with pytest.raises(ValueError, match=f"img_size={size!r}: expected a whole number"):
        load_pretrained(tmp_path, img_size=size)


def test_sizes_that_cannot_be_are_refused_after_loading(folder):
    for wrong in ({"img_size": 33}, {"num_classes": -1}, {"in_channels": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            load_pretrained(folder, **wrong)
