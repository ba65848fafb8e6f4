"""PyTorch names of the models in vit.py."""

from jax_models.torch_weights.tables import SOURCE, TorchTensor, register


def _multihead(theirs):
    """Names of a torch.nn.MultiheadAttention."""
    return {
        "blocks.{i}.attn.qkv.kernel": TorchTensor(f"{theirs}.in_proj_weight"),
        "blocks.{i}.attn.qkv.bias": TorchTensor(f"{theirs}.in_proj_bias"),
        "blocks.{i}.attn.projection": f"{theirs}.out_proj",
    }


def _in_three(leaf):
    return TorchTensor(
        tuple(f"encoder.layers.{{i}}.2.{p}.{leaf}" for p in ("query", "key", "value"))
    )


def as_convolution(model, shape):
    """The shape of a patch projection [D,C·P·P] as that of a convolution."""
    side = model.patch_embed.patch_size
    return shape[0], model.patch_embed.in_channels, side, side


def _as_embedding(model, shape):
    return shape[1:]


_VIT = {
    "patch_embed.projection.kernel": TorchTensor("patch_embed.projection.weight", as_convolution),
    "blocks.{i}.norm{k}_in": "blocks.{i}.norm{k}",
    "blocks.{i}.mlp.fc1": "blocks.{i}.mlp.0",
    "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.3",
    "head.layers.0": "head",
}
_RASTER_VIT = {
    "cls_token": TorchTensor("class_token"),
    "pos_embed": TorchTensor("positional_embedding"),
    "patch_embed.projection": "patch_embedding",
    "blocks.{i}.norm1_in": "encoder.layers.{i}.0",
    "blocks.{i}.attn.qkv.kernel": _in_three("weight"),
    "blocks.{i}.attn.qkv.bias": _in_three("bias"),
    "blocks.{i}.attn.projection": "encoder.layers.{i}.2.fc_out",
    "blocks.{i}.norm2_in": "encoder.layers.{i}.3",
    "blocks.{i}.mlp.fc1": "encoder.layers.{i}.5",
    "blocks.{i}.mlp.norm": "encoder.layers.{i}.6",
    "blocks.{i}.mlp.fc2": "encoder.layers.{i}.8",
    "head.layers.0": "fc",
}
_DEEP_VIT = {
    "cls_token": TorchTensor("class_embed"),
    "patch_embed.projection": "input",
    "blocks.{i}.norm{k}_in": "transformer.{i}.norm{k}",
    **_multihead("transformer.{i}.attn"),
    "blocks.{i}.mlp.fc{k}": "transformer.{i}.fc{k}",
    "head.layers.{i}": "fc{n}",
}
_CLASS_TOKEN_HINT = (
    "the source keeps its class token outside the state dict: "
    "give it as torch_weights.load(…, class_random=model.class_random)"
)
_MNIST_VIT = {
    "cls_token": TorchTensor("class_random", beside=True, hint=_CLASS_TOKEN_HINT),
    "pos_embed": TorchTensor("position_embeddings.weight", _as_embedding),
    "patch_embed.projection": "patch_projection",
    **_multihead("encoder1.layers.{i}.self_attn"),
    "blocks.{i}.norm{k}_out": "encoder1.layers.{i}.norm{k}",
    "blocks.{i}.mlp.fc{k}": "encoder1.layers.{i}.linear{k}",
    "head.layers.{i}": "mlp{n}",
}
_MLP_HEAD_VIT = {
    "cls_token": TorchTensor("patch_embedding_layer.class_parameter", per_slot=True),
    "pos_embed": TorchTensor("patch_embedding_layer.position_emb.weight", _as_embedding),
    "patch_embed.projection": "patch_embedding_layer.projection_layer",
    "blocks.{i}.norm1_in": "transformer_layers.{i}.layer_norm_input",
    "blocks.{i}.norm{k}_out": "transformer_layers.{i}.layer_norm_{k}",
    **_multihead("transformer_layers.{i}.attn"),
    "blocks.{i}.mlp.fc1": "transformer_layers.{i}.ffn.0",
    "blocks.{i}.mlp.fc2": "transformer_layers.{i}.ffn.3",
    "head.layers.0": "mlp_block.0",
    "head.layers.1": "mlp_block.3",
    "head.layers.2": "logits_layer",
}
register(SOURCE, {"vit": _VIT, "raster_vit": _RASTER_VIT, "deep_vit": _DEEP_VIT})
register(SOURCE, {"mnist_vit": _MNIST_VIT, "mlp_head_vit": _MLP_HEAD_VIT})
