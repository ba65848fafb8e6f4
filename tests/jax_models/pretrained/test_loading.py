"""Pretrained models from local folders and files: the model, and what belongs to it."""

import json
import weakref

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file

import jax_models
from jax_models import load_pretrained, torch_weights
from jax_models.pretrained import Opened, Preprocessing, open_pretrained, positions
from jax_models.pretrained.adapt import for_channels
from jax_models.pretrained.description import Description
from jax_models.torch_weights.files import FileTensor
from tests.jax_models import small
from tests.jax_models.pretrained import folders
from tests.with_torch import torch

COUNTED = ("num_classes", "in_channels")


def _values(model):
    return {path: np.asarray(v.get_value()) for path, v in nnx.to_flat_state(nnx.state(model))}


def _same(model, other):
    one, two = _values(model), _values(other)
    assert one.keys() == two.keys()
    assert all(one[path].tobytes() == two[path].tobytes() for path in one)


def _sizes(name, settings):
    """All keywords of a model, whatever its name's own are."""
    settings = jax_models.model_keywords(name) | settings
    if "mlp_dim" in settings and not settings.get("swiglu"):
        settings["mlp_dim"] = settings["mlp_dim"] or 4 * settings["embed_dim"]
    if "head_norm_eps" in settings:
        settings["head_norm_eps"] = settings["head_norm_eps"] or settings["norm_eps"]
    return settings


@pytest.mark.parametrize("kind", folders.HUGGING_FACE)
def test_a_folder_of_transformers_is_its_model(kind, tmp_path):
    model = folders.hugging_face(tmp_path, kind)
    loaded = load_pretrained(tmp_path)
    assert loaded.class_names == tuple(folders.NAMES)
    assert loaded.source == str(tmp_path)
    assert loaded.name in jax_models.list_models()
    _same(loaded.model, model)
    name, settings, _ = folders.HUGGING_FACE[kind]
    settings = settings | {"num_classes": folders.CLASSES}
    assert _sizes(loaded.name, loaded.settings) == _sizes(name, settings)


def test_the_logits_are_those_of_the_model(tmp_path):
    model = folders.hugging_face(tmp_path)
    images = folders.images()
    np.testing.assert_array_equal(load_pretrained(tmp_path).model(images), model(images))


@pytest.mark.parametrize("name", folders.TIMM)
def test_a_folder_of_timm_is_its_model(name, tmp_path):
    model = folders.timm(tmp_path, name)
    loaded = load_pretrained(tmp_path)
    assert loaded.name == name
    assert loaded.class_names == tuple(folders.NAMES)
    _same(loaded.model, model)
    steps = loaded.preprocessing
    assert (steps.size, steps.resize, steps.interpolation) == (32, 35, "bicubic")  # 32 / 0.9
    assert steps.mean == tuple(folders.IMAGENET["mean"])
    settings = folders.TIMM[name][0] | {"num_classes": folders.CLASSES}
    assert _sizes(name, loaded.settings) == _sizes(name, settings)


def test_the_old_form_of_timms_config_is_read(tmp_path):
    model = folders.timm(tmp_path, legacy=True, test_input_size=[3, 64, 64])
    loaded = load_pretrained(tmp_path)
    _same(loaded.model, model)
    assert loaded.preprocessing.size == 32
    assert loaded.class_names[:2] == ("class 0", "class 1")


def test_timms_descriptions_name_the_classes(tmp_path):
    folders.timm(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["label_descriptions"] = {"kind 1": "a bird"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_pretrained(tmp_path).class_names[:2] == ("kind 0", "a bird")


@pytest.mark.parametrize("form", ["shards", "bin", "bin shards", "bfloat16"])
def test_weights_come_in_several_forms(form, tmp_path):
    model = folders.hugging_face(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    path.unlink()
    names = sorted(state)
    if form == "bfloat16":
        rounded = {name: value.astype(jnp.bfloat16) for name, value in state.items()}
        save_file(rounded, path)
        for keys, variable in nnx.to_flat_state(nnx.state(model)):
            del keys
            variable.set_value(variable.get_value().astype(jnp.bfloat16).astype(jnp.float32))
    elif form == "bin":
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        ending = "bin" if form.startswith("bin") else "safetensors"
        weight_map = {}
        for number, part in enumerate((names[::2], names[1::2])):
            shard = f"part-{number}.{ending}"
            weight_map |= dict.fromkeys(part, shard)
            tensors = {name: state[name] for name in part}
            if ending == "bin":
                torch.save({k: torch.from_numpy(v) for k, v in tensors.items()}, tmp_path / shard)
            else:
                save_file(tensors, tmp_path / shard)
        stem = "pytorch_model" if ending == "bin" else "model"
        index = tmp_path / f"{stem}.{ending}.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    _same(load_pretrained(tmp_path).model, model)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".npz"])
def test_of_a_file_the_name_is_given_and_the_sizes_are_read(ending, tmp_path):
    model = folders.build("resnet18", **folders.RESNET)
    path = tmp_path / f"weights{ending}"
    torch_weights.files.write(torch_weights.export(model), path)
    loaded = load_pretrained(path, name="resnet18", **folders.RESNET)
    _same(loaded.model, model)
    assert len(loaded.class_names) == folders.CLASSES
    assert any("does not say how images are prepared" in note for note in loaded.notes)


@pytest.mark.parametrize("name", small.COVERED)
def test_a_file_of_any_model_is_loaded_by_its_name(name, tmp_path):
    usual = jax_models.model_keywords(name)
    sides = {key: usual[key] for key in ("img_size", "patch_size") if key in usual}
    given = {k: v for k, v in small.SMALL[name].settings.items() if k not in (*COUNTED, *sides)}
    for counts in ({"num_classes": 3, "in_channels": 3}, {"num_classes": 7, "in_channels": 1}):
        model, path = small.build(name, **sides, **counts), tmp_path / "weights.safetensors"
        torch_weights.save_safetensors(model, path)
        loaded = load_pretrained(path, name=name, **given)
        _same(loaded.model, model)
        assert {key: loaded.settings[key] for key in counts} == counts


def test_the_eps_and_the_rule_of_a_file_are_its_librarys(tmp_path):
    path = tmp_path / "weights.safetensors"
    for name, layout, rule, eps in (
        ("vit_tiny_patch16_224", "huggingface", "Hugging Face", 1e-12),
        ("vit_tiny_patch16_224", "timm", "timm", None),
        ("vit_small_patch14_dinov2", "huggingface", "Hugging Face", None),
        ("vit_small_patch14_reg4_dinov2", "huggingface", "timm", None),
        ("convnext_tiny", "huggingface", "timm", 1e-12),
        ("convnext_tiny", "timm", "timm", None),
    ):
        sizes, field = folders.VIT, "norm_eps"
        if name == "convnext_tiny":
            sizes, field = folders.CONVNEXT, "head_norm_eps"
        model = folders.build(name, **sizes, num_classes=0)
        torch_weights.save_safetensors(model, path, layout)
        found = open_pretrained(path, name=name, **sizes).description
        assert (found.rule, found.settings.get(field)) == (rule, eps)
        assert found.settings["num_classes"] == 0


def test_of_a_vits_file_the_image_size_is_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = folders.build("vit_tiny_patch16_224", **folders.VIT)
    torch_weights.save_safetensors(model, path)
    sizes = {key: value for key, value in folders.VIT.items() if key != "img_size"}
    loaded = load_pretrained(path, name="vit_tiny_patch16_224", **sizes)
    _same(loaded.model, model)
    assert loaded.preprocessing.size == folders.SIDE


def test_what_is_shown_is_prepared_as_the_source_says(tmp_path):
    folders.hugging_face(tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    found = loaded.preprocessing([tmp_path / "image.png"])
    direct = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)
    expected = (np.asarray(direct, np.float64) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert loaded.model(jnp.asarray(found)).shape == (1, folders.CLASSES)


# Other sizes


def test_other_classes_get_a_head_of_zeros(tmp_path):
    model = folders.hugging_face(tmp_path)
    loaded = load_pretrained(tmp_path, num_classes=3)
    assert loaded.class_names == ("class 0", "class 1", "class 2")
    assert not np.asarray(loaded.model(folders.images())).any()
    assert "The head for 3 classes is new, in place of that for 7: zeros." in loaded.notes
    before, after = _values(model), _values(loaded.model)
    changed = {path for path in after if after[path].tobytes() != before[path].tobytes()}
    assert {path[0] for path in changed} == {"head"}


def test_with_keys_a_new_head_starts_as_the_models_own(tmp_path):
    folders.hugging_face(tmp_path)
    loaded = load_pretrained(tmp_path, num_classes=500, rngs=nnx.Rngs(0))
    kernel = np.asarray(loaded.model.head.layers[0].kernel[...])
    assert kernel.shape == (24, 500)
    assert kernel.std() == pytest.approx(0.02, rel=0.05)
    assert any("initial weights of" in note for note in loaded.notes)


def test_the_same_number_of_classes_changes_nothing(tmp_path):
    model = folders.hugging_face(tmp_path)
    loaded = load_pretrained(tmp_path, num_classes=folders.CLASSES, img_size=folders.SIDE)
    _same(loaded.model, model)
    assert loaded.class_names == tuple(folders.NAMES)


def test_both_heads_of_a_distilled_model_are_new(tmp_path):
    folders.timm(tmp_path, "deit_tiny_distilled_patch16_224")
    values = _values(load_pretrained(tmp_path, num_classes=3).model)
    heads = [value for path, value in values.items() if path[0] == "head"]
    assert len(heads) == 4
    assert not any(value.any() for value in heads)


@pytest.mark.parametrize(
    ("make", "kind", "rule"),
    [
        (folders.hugging_face, "vit", "Hugging Face"),
        (folders.hugging_face, "dinov2", "Hugging Face"),
        (folders.hugging_face, "dinov2_with_registers", "timm"),
        (folders.timm, "vit_tiny_patch16_224", "timm"),
        (folders.timm, "deit3_small_patch16_224", "timm"),
        (folders.timm, "deit_tiny_distilled_patch16_224", "timm"),
    ],
)
@pytest.mark.parametrize("size", [48, 16])
def test_at_another_size_the_positions_are_resized_by_the_librarys_rule(
    make, kind, rule, size, tmp_path
):
    model = make(tmp_path, kind)
    loaded = load_pretrained(tmp_path, img_size=size)
    before, after = (np.asarray(m.pos_embed[...]) for m in (model, loaded.model))
    prefix = before.shape[1] - 16
    assert after[:, :prefix].tobytes() == before[:, :prefix].tobytes()
    expected = positions.resize(before, size // 8, positions.RULES[rule])
    np.testing.assert_array_equal(after, expected)
    assert loaded.preprocessing.size == size
    logits = nnx.eval_shape(lambda m, x: m(x), loaded.model, folders.images(side=size))
    assert logits.shape == (2, folders.CLASSES)
    assert any(f"{rule}'s rule" in note for note in loaded.notes)


def test_positions_of_few_patches_and_more_registers_are_resized():
    name, settings = "vit_tiny_patch16_224", {"img_size": 16, "patch_size": 8, "registers": 4}
    settings |= {"embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = jax_models.create_model(name, rngs=nnx.Rngs(0), **settings)
    assert model.pos_embed.shape[1] == 5 + 2 * 2  # as many as 3x3 patches
    steps = Preprocessing(16, None)
    loaded = Opened("here", Description(name, settings, steps), model).at(img_size=32)
    assert loaded.model.pos_embed.shape[1] == 5 + 4 * 4
    assert "from 2x2 to 4x4 patches" in " ".join(loaded.notes)
    assert loaded.model(folders.images(side=32)).shape == (2, 3)


@pytest.mark.parametrize("change", [{"img_size": 30}, {"in_channels": 1}])
def test_tokens_that_are_runs_of_memory_are_those_of_one_size(change):
    name, steps = "raster_vit", Preprocessing(15, None, mean=(0.5,) * 2, std=(0.5,) * 2)
    found = Description(name, small.SMALL[name].settings, steps)
    opened = Opened("here", found, small.shared(name))
    assert len(opened.at(num_classes=3).class_names) == 3
    with pytest.raises(ValueError, match=f"raster_vit cannot go to {min(change)}=.*Keep the size"):
        opened.at(**change)


def test_dinov2_is_shown_what_its_preprocessing_gives(tmp_path):
    given = {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}
    given |= {"image_processor_type": "BitImageProcessor", "resample": 3}
    model = folders.hugging_face(tmp_path, "dinov2", given)
    loaded = load_pretrained(tmp_path)
    assert loaded.preprocessing.size == 16
    assert any("mask_token is left out" in note for note in loaded.notes)
    expected = positions.resize(np.asarray(model.pos_embed[...]), 2, positions.hugging_face)
    np.testing.assert_array_equal(loaded.model.pos_embed[...], expected)
    at_32 = load_pretrained(tmp_path, img_size=32)
    np.testing.assert_array_equal(at_32.model.pos_embed[...], model.pos_embed[...])
    assert (at_32.preprocessing.size, at_32.preprocessing.resize) == (32, 36)


def test_a_convolutional_model_takes_any_size(tmp_path):
    model = folders.timm(tmp_path, "resnet18")
    loaded = load_pretrained(tmp_path, img_size=48)
    _same(loaded.model, model)
    assert (loaded.preprocessing.size, loaded.preprocessing.resize) == (48, 52)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_tiny"])
def test_one_channel_sees_what_three_equal_ones_would(name, tmp_path):
    model = folders.timm(tmp_path, name)
    loaded = load_pretrained(tmp_path, in_channels=1)
    grey = folders.images(channels=1)
    expected = model(jnp.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(loaded.model(grey), expected, atol=2e-5)
    assert loaded.preprocessing.mean == pytest.approx((0.449,), abs=1e-6)


def test_channels_are_taken_in_turns_and_scaled():
    kernel = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert for_channels(kernel, 1).tolist() == [[6, 9]]
    found = for_channels(kernel, 5)
    assert found == pytest.approx(kernel[[0, 1, 2, 0, 1]] * 3 / 5)


# Memory


def test_the_weights_are_read_array_by_array(tmp_path, monkeypatch):
    folders.hugging_face(tmp_path)
    read, held, most = FileTensor.__array__, 0, 0

    def counted(tensor, *args, **kwargs):
        nonlocal held, most
        array = read(tensor, *args, **kwargs)
        held += array.nbytes
        most = max(most, held)
        weakref.finalize(array if array.base is None else array.base, released, array.nbytes)
        return array

    def released(size):
        nonlocal held
        held -= size

    monkeypatch.setattr(FileTensor, "__array__", counted)
    load_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    largest = max(array.nbytes for array in load_file(path).values())
    assert largest <= most <= 3 * largest < path.stat().st_size  # three make a qkv


# What has no head, or another


def _rewritten(folder, change, **fields):
    """Change the tensors and the config of a folder."""
    state = change(load_file(folder / "model.safetensors"))
    save_file(state, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


def test_a_bare_model_gives_features_and_takes_a_head(tmp_path):
    folders.hugging_face(tmp_path)

    def bare(state):
        found = {k.removeprefix("vit."): v for k, v in state.items() if "classifier" not in k}
        return found | {"pooler.dense.weight": np.ones((24, 24), np.float32)}

    _rewritten(tmp_path, bare, architectures=["ViTModel"])
    loaded = load_pretrained(tmp_path)
    assert loaded.class_names == ()
    assert any("pooler.dense.weight is left out" in note for note in loaded.notes)
    features = nnx.eval_shape(lambda m, x: m(x), loaded.model, folders.images())
    assert features.shape == (2, 24)
    assert len(load_pretrained(tmp_path, num_classes=3).class_names) == 3


_CNNS = ["resnet", "resnet_basic", "convnext"]


@pytest.mark.parametrize("root", ["as written", ""])
@pytest.mark.parametrize("kind", _CNNS)
def test_a_bare_cnn_of_transformers_gives_features_and_takes_a_head(kind, root, tmp_path):
    model = folders.hugging_face(tmp_path, kind, num_classes=0, architectures=["AModel"])
    if root == "":
        start = f"{kind.partition('_')[0]}."
        _rewritten(tmp_path, lambda s: {k.removeprefix(start): v for k, v in s.items()})
    loaded = load_pretrained(tmp_path)
    _same(loaded.model, model)
    assert (loaded.class_names, loaded.settings["num_classes"]) == ((), 0)
    again = load_pretrained(tmp_path, num_classes=3, rngs=nnx.Rngs(0))
    assert again.model.head.layers[0].kernel[...].any()
    assert len(again.class_names) == 3


_WHOLE = ["vit_tiny_patch16_224", "resnet18", "convnext_tiny"]


@pytest.mark.parametrize("name", _WHOLE)
def test_a_head_that_is_not_wanted_is_left_out(name, tmp_path):
    folders.timm(tmp_path, name)
    loaded = load_pretrained(tmp_path, num_classes=0)
    assert loaded.class_names == ()
    assert not any("layers" in path for path in _values(loaded.model) if path[0] == "head")
    assert any("head is left out" in note for note in loaded.notes)


@pytest.mark.parametrize("name", _WHOLE)
def test_timms_folder_without_a_head(name, tmp_path):
    model = folders.timm(tmp_path, name, num_classes=0)
    loaded = load_pretrained(tmp_path)
    _same(loaded.model, model)
    assert loaded.class_names == ()


def test_deit_with_one_head_reads_its_class_token(tmp_path):
    model = folders.hugging_face(tmp_path, "deit")

    def one_head(state):
        found = {k: v for k, v in state.items() if not k.startswith("distillation_classifier")}
        return {k.replace("cls_classifier", "classifier"): v for k, v in found.items()}

    _rewritten(tmp_path, one_head, architectures=["DeiTForImageClassification"])
    loaded = load_pretrained(tmp_path)
    token, head = loaded.model.reg_token[...], loaded.model.head.layers[0]
    np.testing.assert_array_equal(token, model.dist_token[...])
    np.testing.assert_array_equal(head.kernel[...], model.head.heads[0].layers[0].kernel[...])
    assert loaded.model.pool.kind == "token"


def test_a_file_of_torchvisions_has_its_rule_and_preprocessing(tmp_path):
    path = tmp_path / "vit_b_16.pth"
    model = folders.build("vit_tiny_patch16_224", **folders.VIT)
    torch_weights.files.write(torch_weights.export(model, "torchvision"), path)
    sizes = {key: value for key, value in folders.VIT.items() if key != "img_size"}
    loaded = load_pretrained(path, name="vit_tiny_patch16_224", img_size=48, **sizes)
    expected = positions.resize(np.asarray(model.pos_embed[...]), 6, positions.torchvision)
    np.testing.assert_array_equal(loaded.model.pos_embed[...], expected)
    assert loaded.preprocessing.interpolation == "bilinear"
    assert loaded.preprocessing.mean == tuple(folders.IMAGENET["mean"])
