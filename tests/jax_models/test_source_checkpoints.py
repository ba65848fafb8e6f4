"""Checkpoints as the sources of the models save them: their names, and their slips."""

import re
import warnings

import numpy as np
import pytest
from flax import nnx

from jax_models import torch_weights
from tests.jax_models.small import COVERED, bits, build, build_mirror, draw_images, empty
from tests.with_torch import safetensors_torch, torch

pytestmark = pytest.mark.filterwarnings("ignore:.*of a wrapped model left out")

every_model = pytest.mark.parametrize("name", COVERED)


def weight_bias(*modules):
    return [f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")]


def linears(start, *modules):
    return [f"{start}{i}.{part}" for i in (0, 1) for part in weight_bias(*modules)]


def normed(*pairs):
    """A convolution without bias, and batch norm."""
    return [
        name
        for conv, norm in pairs
        for name in (f"{conv}.weight", *weight_bias(norm), *(f"{norm}.{s}" for s in STATISTICS))
    ]


MULTIHEAD = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
SL_ATTENTION = ("to_qkv.weight", "scale")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

# Every name that a source's own `model.state_dict()` has, with the depth of the small settings.
SOURCE_NAMES = {
    "vit": [
        "cls_token",
        "pos_embed",
        *weight_bias("patch_embed.projection", "norm", "head"),
        *linears("blocks.", "norm1", "attn.qkv", "attn.projection", "norm2", "mlp.0", "mlp.3"),
    ],
    "simple_cnn": [
        *weight_bias("fc"),
        *weight_bias(*(f"conv{n}.{i}" for n in (1, 2) for i in (0, 1, 3, 4))),
        *(f"conv{n}.{i}.{leaf}" for n in (1, 2) for i in (1, 4) for leaf in STATISTICS),
    ],
    "attention_cnn": weight_bias(
        "conv1",
        "conv2",
        "fc",
        *(f"sa{n}.{part}" for n in (1, 2) for part in ("theta", "phi", "g", "o")),
    ),
    "raster_vit": [
        "class_token",
        "positional_embedding",
        *weight_bias("patch_embedding", "fc"),
        *linears(
            "encoder.layers.", "0", "2.query", "2.key", "2.value", "2.fc_out", "3", "5", "6", "8"
        ),
    ],
    "deep_vit": [
        "class_embed",
        "pos_embed",
        *weight_bias("input", "fc1", "fc2"),
        *linears("transformer.", "norm1", "norm2", "fc1", "fc2"),
        *(f"transformer.{i}.attn.{part}" for i in (0, 1) for part in MULTIHEAD),
    ],
    "vit_tiny_patch16_224": [  # timm's
        *("cls_token", "reg_token", "pos_embed"),
        *weight_bias("patch_embed.proj", "norm", "head"),
        *linears("blocks.", "norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"),
        *(f"blocks.{i}.ls{k}.gamma" for i in (0, 1) for k in (1, 2)),
    ],
    "airbench94": [
        *weight_bias("whiten"),
        *normed(*((f"layers.{n}.conv{k}", f"layers.{n}.norm{k}") for n in (1, 2) for k in (1, 2))),
        *normed(("layers.2.conv3", "layers.2.norm3")),
        "head.weight",
    ],
    "cct_2_3x2": [
        *(f"tokenizer.conv_layers.{i}.0.weight" for i in (0, 1)),
        *(f"classifier.blocks.{i}.self_attn.qkv.weight" for i in (0, 1)),
        *linears("classifier.blocks.", "pre_norm", "self_attn.proj", "norm1", "linear1", "linear2"),
        *weight_bias(*(f"classifier.{part}" for part in ("attention_pool", "norm", "fc"))),
        "classifier.positional_emb",
    ],
    "sl_vit": [
        *("cls_token", "pos_embedding"),
        *weight_bias(*(f"to_patch_embedding.merging.{i}" for i in (1, 2))),
        *(f"transformer.layers.{i}.0.fn.{leaf}" for i in (0, 1) for leaf in SL_ATTENTION),
        *linears(
            "transformer.layers.", "0.norm", "0.fn.to_out.0", "1.norm", "1.fn.net.0", "1.fn.net.3"
        ),
        *weight_bias("mlp_head.0", "mlp_head.1"),
    ],
    "resnet18": [  # timm's
        *normed(("conv1", "bn1")),
        *normed(
            *(
                (f"layer{b}.conv{i}", f"layer{b}.bn{i}")
                for b in ("1.0", "2.0", "2.1")
                for i in (1, 2, 3)
            ),
            *((f"layer{n}.0.downsample.0", f"layer{n}.0.downsample.1") for n in (1, 2)),
        ),
        *weight_bias("fc"),
    ],
    "convnext_tiny": [  # timm's
        *weight_bias("stem.0", "stem.1", "stages.1.downsample.0", "stages.1.downsample.1"),
        *(
            f"stages.{block}.{name}"
            for block in ("0.blocks.0", "1.blocks.0", "1.blocks.1")
            for name in ("gamma", *weight_bias("conv_dw", "norm", "mlp.fc1", "mlp.fc2"))
        ),
        *weight_bias("head.norm", "head.fc"),
    ],
    "mnist_cnn": weight_bias("conv1", "conv2", "fc1", "fc2"),
    "mnist_vit": [
        "class_random",
        "position_embeddings.weight",
        *weight_bias("patch_projection", "mlp1", "mlp2", "mlp3"),
        *linears("encoder1.layers.", "linear1", "linear2", "norm1", "norm2"),
        *(f"encoder1.layers.{i}.self_attn.{part}" for i in (0, 1) for part in MULTIHEAD),
    ],
    "mlp_head_vit": [
        *(f"patch_embedding_layer.{x}" for x in ("class_parameter", "position_emb.weight")),
        *weight_bias(
            "patch_embedding_layer.projection_layer", "mlp_block.0", "mlp_block.3", "logits_layer"
        ),
        *linears(
            "transformer_layers.",
            "layer_norm_input",
            "layer_norm_1",
            "layer_norm_2",
            "ffn.0",
            "ffn.3",
        ),
        *(f"transformer_layers.{i}.attn.{part}" for i in (0, 1) for part in MULTIHEAD),
    ],
}


def through_a_file(state, folder):
    torch.save(state, folder / "source.pt")
    return torch.load(folder / "source.pt", weights_only=True)


def assert_same_state(ours, theirs):
    """Equal names, shapes, dtypes and bits."""
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        mine, other = np.asarray(ours[name]), np.asarray(value)
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape), name
        assert mine.tobytes() == other.tobytes(), name


@every_model
def test_both_sides_have_the_names_of_the_source(name):
    names = SOURCE_NAMES[name]
    assert len(names) == len(set(names))
    assert sorted(build_mirror(name).state_dict()) == sorted(names)
    assert sorted(torch_weights.export(build(name))) == sorted(names)


@every_model
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_source_checkpoint_loads_and_comes_back(name, prefix, tmp_path):
    state = build_mirror(name).state_dict()
    saved = through_a_file({f"{prefix}{key}": value for key, value in state.items()}, tmp_path)
    model = build(name)
    torch_weights.load(model, saved)
    assert_same_state(torch_weights.export(model), state)


@every_model
def test_a_prefix_on_some_names_only_is_refused(name):
    state = build_mirror(name).state_dict()
    first = next(iter(state))
    mixed = {f"module.{key}" if key == first else key: value for key, value in state.items()}
    model = build(name)
    before = bits(model)
    with pytest.raises(ValueError, match="2 problems") as error:
        torch_weights.load(model, mixed)
    assert f"unexpected: module.{first}\n" in str(error.value)
    assert f"missing: {first} " in str(error.value)
    assert bits(model) == before


# mnist_vit: the class token is no part of the source's state dict


def without_token():
    state = build_mirror("mnist_vit").state_dict()
    return state, state.pop("class_random")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_missing_class_token_is_explained(prefix):
    state, _ = without_token()
    model = build("mnist_vit")
    before = bits(model)
    with pytest.raises(ValueError, match=r"1 problem(.|\n)*missing: class_random") as error:
        torch_weights.load(model, {f"{prefix}{key}": value for key, value in state.items()})
    assert "torch_weights.load(…, class_random=model.class_random)" in str(error.value)
    assert "outside the state dict" in str(error.value)
    assert bits(model) == before


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_class_token_given_beside_is_loaded(prefix, tmp_path):
    state, token = without_token()
    saved = through_a_file({f"{prefix}{key}": value for key, value in state.items()}, tmp_path)
    model = build("mnist_vit")
    torch_weights.load(model, saved, class_random=token)
    assert_same_state(torch_weights.export(model), state | {"class_random": token})
    np.testing.assert_array_equal(model.cls_token[...], token)


def test_a_class_token_beside_a_safetensors_file_is_loaded(tmp_path):

    state, token = without_token()
    safetensors_torch.save_file(state, tmp_path / "source.safetensors")
    model = build("mnist_vit")
    torch_weights.load_file(model, tmp_path / "source.safetensors", class_random=token)
    assert_same_state(torch_weights.export(model), state | {"class_random": token})


def test_a_class_token_of_another_shape_is_refused():
    state, token = without_token()
    model = build("mnist_vit")
    message = r"misshapen: class_random is \[1, 15\], the model has \[1, 1, 15\]"
    with pytest.raises(ValueError, match=message):
        torch_weights.load(model, state, class_random=token[0])


# mlp_head_vit: the source has a class token for each place in the batch

SLOTS = "patch_embedding_layer.class_parameter"


def slots(*values):
    state = build_mirror("mlp_head_vit").state_dict()
    return state, {**state, SLOTS: torch.cat([state[SLOTS] + value for value in values])}


def test_the_first_of_different_class_tokens_is_taken_with_a_warning(tmp_path):
    state, source = slots(0, 3, 5)
    model = build("mlp_head_vit")
    with pytest.warns(UserWarning, match=re.escape(f"{SLOTS} differs between the 3 places")):
        torch_weights.load(model, through_a_file(source, tmp_path))
    assert_same_state(torch_weights.export(model), state)


@pytest.mark.parametrize("count", [1, 2, 13])
def test_equal_class_tokens_are_taken_without_a_warning(count, tmp_path):
    state, source = slots(*[0] * count)
    model = build("mlp_head_vit")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch_weights.load(model, through_a_file(source, tmp_path))
    assert_same_state(torch_weights.export(model), state)


@pytest.mark.parametrize("shape", [(0, 1, 14), (5, 1, 13), (5, 2, 14), (5, 14), (1, 5, 1, 14)])
def test_class_tokens_of_another_shape_are_refused(shape):
    state, _ = slots(0)
    model = build("mlp_head_vit")
    with pytest.raises(ValueError, match=re.escape(f"misshapen: {SLOTS} is {list(shape)}")):
        torch_weights.load(model, state | {SLOTS: torch.zeros(shape)})


# raster_vit: queries, keys and values are three layers in the source and one here


def test_queries_keys_and_values_are_stacked_in_order():
    state = build_mirror("raster_vit").state_dict()
    for block in (0, 1):
        for number, part in enumerate(("query", "key", "value")):
            for leaf in ("weight", "bias"):
                tensor = state[f"encoder.layers.{block}.2.{part}.{leaf}"]
                rows = torch.arange(21.0)[:, None] if leaf == "weight" else torch.arange(21.0)
                tensor.copy_((1000 * block + 100 * number + rows).expand(tensor.shape))
    # Columns differ too, so that a transposed kernel shows.
    state["encoder.layers.0.2.key.weight"][:, 5] += 0.5
    model = build("raster_vit")
    torch_weights.load(model, state)
    for block in (0, 1):
        rows = 1000.0 * block + np.concatenate([100 * part + np.arange(21) for part in range(3)])
        kernel = np.broadcast_to(rows, (21, 63)).copy()
        if block == 0:
            kernel[5, 21:42] += 0.5
        np.testing.assert_array_equal(model.blocks[block].attn.qkv.kernel[...], kernel)
        np.testing.assert_array_equal(model.blocks[block].attn.qkv.bias[...], rows)
    assert_same_state(torch_weights.export(model), state)


@pytest.mark.parametrize("part", ["query", "key", "value"])
def test_a_missing_part_of_the_stack_is_named(part):
    state = build_mirror("raster_vit").state_dict()
    missing = f"encoder.layers.1.2.{part}.weight"
    del state[missing]
    model = build("raster_vit")
    before = bits(model)
    with pytest.raises(ValueError, match=re.escape(f"missing: {missing} [21, 21]")):
        torch_weights.load(model, state)
    assert bits(model) == before


# From a file to logits


@every_model
def test_logits_of_a_source_checkpoint_are_the_sources(name, tmp_path):
    """Unlike the mirror's constant offsets elsewhere, weights here have both signs."""
    mirror, images = build_mirror(name).eval(), draw_images(name, batch=3)
    generator = torch.Generator().manual_seed(7)
    for key, tensor in mirror.state_dict().items():
        if tensor.is_floating_point() and not key.endswith("running_var"):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / 3)
    model = empty(name)
    torch_weights.load(model, through_a_file(mirror.state_dict(), tmp_path))
    with torch.no_grad():
        logits = mirror(torch.from_numpy(np.asarray(images).transpose(0, 3, 1, 2).copy()))
    assert logits.std(0).max() > 1e-3
    ours = nnx.jit(lambda model, images: model(images))(model, images)
    np.testing.assert_allclose(ours, logits, atol=1e-4, rtol=1e-4)
