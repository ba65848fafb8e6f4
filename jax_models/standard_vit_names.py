"""Names of the models in standard_vit.py in timm, torchvision, Hugging Face and the originals."""

import numpy as np

from jax_models.layers import NoHead, identity
from jax_models.torch_weights.tables import TorchTensor, register
from jax_models.vit_names import as_convolution

_FAMILY = "vision_transformer"
_ORIGINALS = "facebook"

# Left out knowingly
_MASK = "it stands for hidden patches in pretraining alone"
_POOLER = "a layer on the class token that classifiers do not use"
_PRE_LOGITS = "a layer of pretraining before the head, which timm leaves out too"


# What a model is like


def _has(model, *, prefix=("cls_token",), cover=True, scaled=False, gated=False, pool="token"):
    """Whether a model has these settings and no others that show in its weights."""
    block = model.blocks[0]
    found = model.prefix, model.cover_prefix, block.ls1 is not identity, block.mlp.gated
    bare = isinstance(model.head, NoHead)
    reads = model.pool.norm is not identity if bare else model.pool.kind == pool
    return found == (prefix, cover, scaled, gated) and reads


def _is_timms(model):
    """Whether timm has such a model: its head reads no more than a token."""
    return isinstance(model.head, NoHead) or model.pool.kind != "token_and_avg"


def _never(model):
    return False


# Positions that cover the class token, and no other, where the model's cover the patches alone


def _with_class_token(model, shape):
    return shape if model.cover_prefix else (1, shape[1] + 1, shape[2])


def _convert_positions(token, positions):
    """How `token`, the class token, gets the position that is the first of `positions`."""

    def after_load(model, arrays, root):
        if not model.cover_prefix:
            own, rest = arrays[root + positions][:, :1], arrays[root + positions][:, 1:]
            cls_token = arrays[root + token]
            # Nothing is added to -0 either: what this project wrote comes back bit for bit.
            arrays[root + token] = np.where(own == 0, cls_token, cls_token + own)
            arrays[root + positions] = rest

    def before_save(model, state, root):
        if not model.cover_prefix:
            rest = state[root + positions]
            state[root + positions] = np.concatenate([np.zeros_like(rest[:, :1]), rest], axis=1)

    return {"after_load": after_load, "before_save": before_save}


def _patches(theirs):
    return {
        "patch_embed.projection.kernel": TorchTensor(f"{theirs}.weight", as_convolution),
        "patch_embed.projection": theirs,
    }


# timm

_TIMM = {
    **_patches("patch_embed.proj"),
    "blocks.{i}.norm{k}_in": "blocks.{i}.norm{k}",
    "blocks.{i}.attn.projection": "blocks.{i}.attn.proj",
    "pool.{norm}": "{norm}",
    "head.layers.0": "head",
    "head.heads.0.layers.0": "head",
    "head.heads.1.layers.0": "head_dist",
}
register("timm", {_FAMILY: _TIMM}, left_out={r"pre_logits\..*": _PRE_LOGITS}, writes=_is_timms)

# torchvision

_IN, _LAYER = "encoder.layers.encoder_layer_{i}.self_attention", "encoder.layers.encoder_layer_{i}"


def _torchvision(fc1, fc2):
    return {
        "cls_token": TorchTensor("class_token"),
        "pos_embed": TorchTensor("encoder.pos_embedding"),
        **_patches("conv_proj"),
        "blocks.{i}.norm{k}_in": f"{_LAYER}.ln_{{k}}",
        "blocks.{i}.attn.qkv.kernel": TorchTensor(f"{_IN}.in_proj_weight"),
        "blocks.{i}.attn.qkv.bias": TorchTensor(f"{_IN}.in_proj_bias"),
        "blocks.{i}.attn.projection": f"{_IN}.out_proj",
        "blocks.{i}.mlp.fc1": f"{_LAYER}.mlp.{fc1}",
        "blocks.{i}.mlp.fc2": f"{_LAYER}.mlp.{fc2}",
        "pool.norm": "encoder.ln",
        "head.layers.0": "heads.head",
    }


for _names in (("0", "3"), ("linear_1", "linear_2")):  # those of old files are never written
    register(
        "torchvision",
        {_FAMILY: _torchvision(*_names)},
        left_out={r"heads\.pre_logits\..*": _PRE_LOGITS},
        writes=_has if _names[0] == "0" else _never,
    )

# Hugging Face: the names in files, and those in memory since transformers 5.


def _huggingface(block, norms, attention, mlp):
    """Names of `block`s with (before attention, before MLP), (q, k, v, out) and `mlp`'s own."""
    *three, out = (f"{block}.attention.{name}" for name in attention)
    return {
        "cls_token": TorchTensor("{root}embeddings.cls_token"),
        "dist_token": TorchTensor("{root}embeddings.distillation_token"),
        "reg_token": TorchTensor("{root}embeddings.register_tokens"),
        "pos_embed": TorchTensor("{root}embeddings.position_embeddings"),
        **_patches("{root}embeddings.patch_embeddings.projection"),
        "blocks.{i}.norm1_in": f"{block}.{norms[0]}",
        "blocks.{i}.norm2_in": f"{block}.{norms[1]}",
        "blocks.{i}.attn.qkv.kernel": TorchTensor(tuple(f"{name}.weight" for name in three)),
        "blocks.{i}.attn.qkv.bias": TorchTensor(tuple(f"{name}.bias" for name in three)),
        "blocks.{i}.attn.projection": out,
        "blocks.{i}.ls{k}.gamma": TorchTensor(f"{block}.layer_scale{{k}}.lambda1"),
        **{f"blocks.{{i}}.mlp.{ours}": theirs for ours, theirs in mlp(block).items()},
        "pool.norm": "{root}layernorm",
        "head.layers.0": "classifier",
        "head.heads.0.layers.0": "cls_classifier",
        "head.heads.1.layers.0": "distillation_classifier",
    }


def _layers(fc1, fc2):
    return lambda block: {"fc1": f"{block}.{fc1}", "fc2": f"{block}.{fc2}"}


def _gate_and_up(block):
    halves = f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"
    return {
        "fc1.kernel": TorchTensor(tuple(f"{half}.weight" for half in halves)),
        "fc1.bias": TorchTensor(tuple(f"{half}.bias" for half in halves)),
        "fc2": f"{block}.mlp.down_proj",
    }


_IN_FILES = ("attention.query", "attention.key", "attention.value", "output.dense")
_IN_MEMORY = ("q_proj", "k_proj", "v_proj", "o_proj")
_OLD, _NEW = "{root}encoder.layer.{i}", "{root}layers.{i}"
_AROUND, _NORMS = ("layernorm_before", "layernorm_after"), ("norm1", "norm2")
_MLP = _layers("mlp.fc1", "mlp.fc2")
_HIDDEN = {r"pooler\..*": _POOLER, r"embeddings\.mask_token": _MASK}


def _used(like, in_files):
    """Of a table of names in files or in memory, which models have them there."""
    return {"writes": like} if in_files else {"writes": _never, "in_memory": like}


_VIT_FILES = _huggingface(_OLD, _AROUND, _IN_FILES, _layers("intermediate.dense", "output.dense"))
_VIT_MEMORY = _huggingface(_NEW, _AROUND, _IN_MEMORY, _MLP)
for _root, _prefix in {"vit.": ("cls_token",), "deit.": ("cls_token", "dist_token")}.items():
    for _table in (_VIT_FILES, _VIT_MEMORY):
        register(
            "huggingface",
            {_FAMILY: _table},
            root=_root,
            left_out=_HIDDEN,
            **_used(lambda m, p=_prefix: _has(m, prefix=p), in_files=_table is _VIT_FILES),
        )


def _dinov2(attention, mlp, root, used):
    table = _huggingface(_OLD, _NORMS, attention, mlp)
    place = TorchTensor(table["pos_embed"].name, _with_class_token, converted=True)
    token = "embeddings.cls_token"
    convert = _convert_positions(token, "embeddings.position_embeddings")

    def before_save(model, state, root):
        convert["before_save"](model, state, root)
        # Its classes have one, used or not; all zeros is how they start.
        state[f"{root}embeddings.mask_token"] = np.zeros_like(state[root + token][0])

    register(
        "huggingface",
        {_FAMILY: table | {"pos_embed": place}},
        root=root,
        left_out=_HIDDEN,
        **used | convert | {"before_save": before_save},
    )


_READ_BOTH = {"scaled": True, "pool": "token_and_avg"}
_WITH_REGISTERS = {"prefix": ("cls_token", "reg_token"), "cover": False}
_IN_AND_OUT = _layers("mlp.weights_in", "mlp.weights_out")
for _root, _tokens in {"dinov2.": {}, "dinov2_with_registers.": _WITH_REGISTERS}.items():
    for _names, _gated_mlp in ((_IN_FILES, _IN_AND_OUT), (_IN_MEMORY, _gate_and_up)):
        for _mlp, _gated in ((_MLP, False), (_gated_mlp, True)):
            _like = _READ_BOTH | _tokens | {"gated": _gated}
            _used_by = _used(lambda m, like=_like: _has(m, **like), in_files=_names is _IN_FILES)
            _dinov2(_names, _mlp, _root, _used_by)

# The originals of DeiT-3 and DINOv2

_GAMMA = {"blocks.{i}.ls{k}.gamma": TorchTensor("blocks.{i}.gamma_{k}")}
register(_ORIGINALS, {_FAMILY: _TIMM | _GAMMA}, writes=_never)

_DINOV2 = _TIMM | {
    "reg_token": TorchTensor("register_tokens"),
    "pos_embed": TorchTensor("pos_embed", _with_class_token, converted=True),
}
_W = {"blocks.{i}.mlp.fc1": "blocks.{i}.mlp.w12", "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.w3"}
for _table in (_DINOV2, _DINOV2 | _W):
    register(
        _ORIGINALS,
        {_FAMILY: _table},
        left_out={"mask_token": _MASK},
        writes=_never,
        **_convert_positions("cls_token", "pos_embed"),
    )
