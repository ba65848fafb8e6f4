"""PyTorch names of the models in vit.py, as their sources' checkpoints have them."""

from jax_models.torch_weights.tables import Table, TorchTensor, register
from jax_models.vit import VisionTransformer


@register("vit")
def vit(model: VisionTransformer) -> Table:
    """Names of `vit`."""
    embed = model.patch_embed
    patch = embed.in_channels, embed.patch_size, embed.patch_size
    return {
        "patch_embed.projection.kernel": TorchTensor(
            "patch_embed.projection.weight", (embed.projection.out_features, *patch)
        ),
        "blocks.{i}.norm1_in": "blocks.{i}.norm1",
        "blocks.{i}.norm2_in": "blocks.{i}.norm2",
        "blocks.{i}.mlp.fc1": "blocks.{i}.mlp.0",
        "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.3",
        "head.layers.0": "head",
    }


@register("raster_vit")
def raster_vit(model: VisionTransformer) -> Table:
    """Names of `raster_vit`."""
    layer, parts = "encoder.layers.{i}", ("query", "key", "value")
    return {
        "cls_token": TorchTensor("class_token"),
        "pos_embed": TorchTensor("positional_embedding"),
        "patch_embed.projection": "patch_embedding",
        "blocks.{i}.norm1_in": f"{layer}.0",
        "blocks.{i}.attn.qkv.kernel": TorchTensor(tuple(f"{layer}.2.{p}.weight" for p in parts)),
        "blocks.{i}.attn.qkv.bias": TorchTensor(tuple(f"{layer}.2.{p}.bias" for p in parts)),
        "blocks.{i}.attn.projection": f"{layer}.2.fc_out",
        "blocks.{i}.norm2_in": f"{layer}.3",
        "blocks.{i}.mlp.fc1": f"{layer}.5",
        "blocks.{i}.mlp.norm": f"{layer}.6",
        "blocks.{i}.mlp.fc2": f"{layer}.8",
        "head.layers.0": "fc",
    }


@register("deep_vit")
def deep_vit(model: VisionTransformer) -> Table:
    """Names of `deep_vit`."""
    layer = "transformer.{i}"
    return {
        "cls_token": TorchTensor("class_embed"),
        "patch_embed.projection": "input",
        "blocks.{i}.norm1_in": f"{layer}.norm1",
        "blocks.{i}.norm2_in": f"{layer}.norm2",
        **_multihead(f"{layer}.attn"),
        "blocks.{i}.mlp.fc1": f"{layer}.fc1",
        "blocks.{i}.mlp.fc2": f"{layer}.fc2",
        "head.layers.0": "fc1",
        "head.layers.1": "fc2",
    }


@register("mnist_vit")
def mnist_vit(model: VisionTransformer) -> Table:
    """Names of `mnist_vit`, whose source kept the class token out of the state dict."""
    layer = "encoder1.layers.{i}"
    hint = (
        "the source keeps its class token outside the state dict: "
        "give it as torch_weights.load(…, class_random=model.class_random)"
    )
    return {
        "cls_token": TorchTensor("class_random", beside=True, hint=hint),
        "pos_embed": TorchTensor("position_embeddings.weight", model.pos_embed.shape[1:]),
        "patch_embed.projection": "patch_projection",
        **_multihead(f"{layer}.self_attn"),
        "blocks.{i}.norm1_out": f"{layer}.norm1",
        "blocks.{i}.norm2_out": f"{layer}.norm2",
        "blocks.{i}.mlp.fc1": f"{layer}.linear1",
        "blocks.{i}.mlp.fc2": f"{layer}.linear2",
        "head.layers.{i}": "mlp{n}",
    }


@register("mlp_head_vit")
def mlp_head_vit(model: VisionTransformer) -> Table:
    """Names of `mlp_head_vit`."""
    layer, embedding = "transformer_layers.{i}", "patch_embedding_layer"
    return {
        "cls_token": TorchTensor(f"{embedding}.class_parameter", per_slot=True),
        "pos_embed": TorchTensor(f"{embedding}.position_emb.weight", model.pos_embed.shape[1:]),
        "patch_embed.projection": f"{embedding}.projection_layer",
        "blocks.{i}.norm1_in": f"{layer}.layer_norm_input",
        "blocks.{i}.norm1_out": f"{layer}.layer_norm_1",
        "blocks.{i}.norm2_out": f"{layer}.layer_norm_2",
        **_multihead(f"{layer}.attn"),
        "blocks.{i}.mlp.fc1": f"{layer}.ffn.0",
        "blocks.{i}.mlp.fc2": f"{layer}.ffn.3",
        "head.layers.0": "mlp_block.0",
        "head.layers.1": "mlp_block.3",
        "head.layers.2": "logits_layer",
    }


def _multihead(theirs: str) -> Table:
    """Names of a torch.nn.MultiheadAttention."""
    return {
        "blocks.{i}.attn.qkv.kernel": TorchTensor(f"{theirs}.in_proj_weight"),
        "blocks.{i}.attn.qkv.bias": TorchTensor(f"{theirs}.in_proj_bias"),
        "blocks.{i}.attn.projection": f"{theirs}.out_proj",
    }
