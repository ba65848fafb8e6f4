"""PyTorch names of sl_vit.py, those of the source's code."""

from jax_models.torch_weights.tables import SOURCE, TorchTensor, register

_ATTENTION, _MLP = "transformer.layers.{i}.0", "transformer.layers.{i}.1"
_NAMES = {
    "patch_embed.norm": "to_patch_embedding.merging.1",
    "patch_embed.projection": "to_patch_embedding.merging.2",
    "pos_embed": TorchTensor("pos_embedding"),
    "blocks.{i}.norm1_in": f"{_ATTENTION}.norm",
    "blocks.{i}.attn.qkv": f"{_ATTENTION}.fn.to_qkv",
    "blocks.{i}.attn.score_scale": TorchTensor(f"{_ATTENTION}.fn.scale"),
    "blocks.{i}.attn.projection": f"{_ATTENTION}.fn.to_out.0",
    "blocks.{i}.norm2_in": f"{_MLP}.norm",
    "blocks.{i}.mlp.fc1": f"{_MLP}.fn.net.0",
    "blocks.{i}.mlp.fc2": f"{_MLP}.fn.net.3",
    "head.norm": "mlp_head.0",
    "head.layers.0": "mlp_head.1",
}
register(SOURCE, {"sl_vit": _NAMES})
