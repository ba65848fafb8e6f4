"""The names of standard Vision Transformers in timm, torchvision, Hugging Face and the originals.

That these are the libraries' own names is known from the libraries, which are not installed here;
what is shown here is how they are told apart, converted and written.
"""

import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_models import torch_weights
from tests.jax_models.pretrained import originals
from tests.jax_models.pretrained.originals import rename
from tests.jax_models.small import bits, build, empty

NAME = "vit_tiny_patch16_224"
REG = {}
DINOV2 = {"registers": None, "cover_prefix": True, "swiglu": False}
VIT = DINOV2 | {"layer_scale": None, "pool": "token"}
DEIT = VIT | {"distilled": True}
# Models that can be written in a layout: settings, some of the names there.
WRITTEN = {
    ("timm", "vit"): (VIT, ["cls_token", "patch_embed.proj.weight", "head.bias"]),
    ("timm", "avg"): (VIT | {"pool": "avg"}, ["fc_norm.weight"]),
    ("timm", "distilled"): (DEIT, ["dist_token", "head_dist.weight", "norm.bias"]),
    ("timm", "registers"): (
        REG | {"pool": "token"},
        ["reg_token", "blocks.1.ls2.gamma", "blocks.0.mlp.fc1.bias"],
    ),
    ("torchvision", "vit"): (
        VIT,
        [
            "class_token",
            "encoder.pos_embedding",
            "conv_proj.weight",
            "encoder.layers.encoder_layer_1.self_attention.in_proj_bias",
            "encoder.layers.encoder_layer_1.mlp.3.weight",
            "heads.head.weight",
        ],
    ),
    ("huggingface", "vit"): (
        VIT,
        [
            "vit.embeddings.position_embeddings",
            "vit.encoder.layer.1.attention.attention.key.bias",
            "vit.encoder.layer.1.layernorm_after.weight",
            "vit.encoder.layer.0.intermediate.dense.weight",
            "vit.layernorm.bias",
            "classifier.weight",
        ],
    ),
    ("huggingface", "deit"): (
        DEIT,
        ["deit.embeddings.distillation_token", "cls_classifier.bias"],
    ),
    ("huggingface", "dinov2"): (
        DINOV2,
        ["dinov2.encoder.layer.0.layer_scale1.lambda1", "dinov2.encoder.layer.0.mlp.fc2.bias"],
    ),
    ("huggingface", "registers"): (
        REG,
        [
            "dinov2_with_registers.embeddings.register_tokens",
            "dinov2_with_registers.embeddings.mask_token",
            "dinov2_with_registers.encoder.layer.1.mlp.weights_in.weight",
        ],
    ),
}


def loaded(settings, state):
    """An empty model, filled; and the words of the warnings."""
    model = empty(NAME, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch_weights.load(model, state)
    return model, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("layout", "kind"), WRITTEN)
def test_round_trips_are_bit_for_bit(layout, kind, tmp_path):
    settings, some = WRITTEN[layout, kind]
    model = build(NAME, **settings)
    state = torch_weights.export(model, layout=layout)
    assert set(some) <= state.keys()
    assert bits(loaded(settings, state)[0]) == bits(model)
    path = tmp_path / "model.safetensors"
    torch_weights.save_safetensors(model, path, layout=layout)
    read = load_file(path)
    assert read.keys() == state.keys()
    assert all(read[key].tobytes() == state[key].tobytes() for key in state)


def test_separate_queries_keys_and_values_are_thirds_of_the_fused_ones():
    model = build(NAME, **VIT)
    fused = torch_weights.export(model, "timm")["blocks.1.attn.qkv.weight"]
    ours = torch_weights.export(model, "huggingface")
    for third, part in zip(np.split(fused, 3), ("query", "key", "value"), strict=True):
        there = ours[f"vit.encoder.layer.1.attention.attention.{part}.weight"]
        np.testing.assert_array_equal(there, third)


# How Hugging Face names in memory what it writes into files under other names.
_IN_MEMORY = [
    (r"attention\.attention\.(q|k|v)\w+\.", r"attention.\1_proj."),
    (r"attention\.output\.dense", "attention.o_proj"),
]
_VIT_IN_MEMORY = [
    *_IN_MEMORY,
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"encoder\.layer\.", "layers."),
]


def halves(state):
    """SwiGLU as Hugging Face has it in memory."""
    for name in [name for name in state if "weights_in" in name]:
        gate, up = np.split(state.pop(name), 2)
        state |= {
            name.replace("weights_in", "gate_proj"): gate,
            name.replace("weights_in", "up_proj"): up,
        }
    return rename(state, ("weights_out", "down_proj"))


OTHERS = {
    "torchvision's old files": (
        ("torchvision", "vit"),
        lambda s: rename(s, (r"mlp\.0", "mlp.linear_1"), (r"mlp\.3", "mlp.linear_2")),
    ),
    "ViT in memory": (("huggingface", "vit"), lambda s: rename(s, *_VIT_IN_MEMORY)),
    "DeiT in memory": (("huggingface", "deit"), lambda s: rename(s, *_VIT_IN_MEMORY)),
    "DINOv2 in memory": (("huggingface", "dinov2"), lambda s: rename(s, *_IN_MEMORY)),
    "SwiGLU in memory": (("huggingface", "registers"), lambda s: halves(rename(s, *_IN_MEMORY))),
    "DeiT-3's original": (("timm", "registers"), originals.deit3),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_names_of_the_same_are_read(kind):
    (layout, written), change = OTHERS[kind]
    settings, _ = WRITTEN[layout, written]
    model = build(NAME, **settings)
    state = change(torch_weights.export(model, layout))
    assert state.keys() != torch_weights.export(model, layout).keys()
    assert bits(loaded(settings, state)[0]) == bits(model)


@pytest.mark.parametrize("registers", [3, None])
def test_dinov2s_original_gives_the_class_token_its_position(registers):
    settings = {"registers": registers, "cover_prefix": registers is None}
    model = build(NAME, **settings)
    state = originals.dinov2(torch_weights.export(model), swiglu=True)
    assert "blocks.1.mlp.w12.bias" in state
    filled, told = loaded(settings, state)
    assert told == ["mask_token is left out: it stands for hidden patches in pretraining alone."]
    assert bits(filled) == bits(model)


def test_a_bare_model_of_hugging_face_is_read_without_its_pooler():
    settings = VIT | {"num_classes": 0}
    model = build(NAME, **settings)
    state = rename(torch_weights.export(model, "huggingface"), (r"^vit\.", ""))
    assert "embeddings.cls_token" in state
    extra = {"pooler.dense.weight": np.ones((22, 22)), "pooler.dense.bias": np.ones(22)}
    filled, told = loaded(settings, state | extra)
    assert bits(filled) == bits(model)
    assert [line.partition(" ")[0] for line in told] == list(extra)


def test_layers_of_pretraining_before_the_head_are_left_out():
    model = build(NAME, **VIT)
    for layout, name in (
        ("timm", "pre_logits.fc.weight"),
        ("torchvision", "heads.pre_logits.bias"),
    ):
        state = torch_weights.export(model, layout) | {name: np.ones((22, 22))}
        filled, told = loaded(VIT, state)
        assert bits(filled) == bits(model)
        assert told == [f"{name} is left out: {told[0].partition(': ')[2]}"]


@pytest.mark.parametrize("layout", ["timm", "torchvision", "huggingface"])
def test_a_misfit_names_the_layout_it_was_taken_for(layout):
    model = build(NAME, **VIT)
    state = torch_weights.export(model, layout)
    missing, wide = list(state)[3], list(state)[-1]
    del state[missing]
    state[wide] = state[wide][None]
    state["pooler.a" if layout == "timm" else "mask_token"] = np.ones(3)
    before = bits(model)
    with pytest.raises(torch_weights.Misfit, match=f"taken for one of layout '{layout}'") as error:
        torch_weights.load(model, state)
    kinds = {problem.kind: problem.name for problem in error.value.problems}
    assert (kinds["missing"], kinds["misshapen"], len(kinds)) == (missing, wide, 3)
    assert bits(model) == before


@pytest.mark.parametrize(
    ("layout", "settings"),
    [
        ("timm", REG),
        ("torchvision", DEIT),
        ("torchvision", REG),
        ("torchvision", VIT | {"pool": "avg"}),
        ("huggingface", REG | {"pool": "token"}),
        ("huggingface", VIT | {"pool": "avg"}),
        ("torchvision", VIT | {"pool": "avg", "num_classes": 0}),
        ("huggingface", VIT | {"pool": "avg", "num_classes": 0}),
        ("facebook", REG),
        ("keras", VIT),
    ],
)
def test_what_a_library_has_no_model_for_is_not_written(layout, settings, tmp_path):
    model = build(NAME, **settings)
    with pytest.raises(
        ValueError, match=rf"layout='{layout}': .* has no names there\. It has in: "
    ):
        torch_weights.export(model, layout)
    with pytest.raises(ValueError, match="has no names there"):
        torch_weights.save_safetensors(model, tmp_path / "a.safetensors", layout)
    assert not list(tmp_path.iterdir())


def test_the_small_models_of_this_project_have_their_own_layout_alone():
    with pytest.raises(ValueError, match=r"layout='timm': vit .* It has in: source\."):
        torch_weights.export(build("vit"), "timm")
