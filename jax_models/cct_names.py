"""PyTorch names of the models in cct.py, those of the source's code."""

from jax_models.tokens import sine_positions
from jax_models.torch_weights.tables import SOURCE, TorchTensor, register

_POSITIONS = "classifier.positional_emb"
_BLOCK = "classifier.blocks.{i}"
_NAMES = {
    "patch_embed.convs.{i}": "tokenizer.conv_layers.{i}.0",
    "pos_embed": TorchTensor(_POSITIONS),
    "blocks.{i}.norm1_in": f"{_BLOCK}.pre_norm",
    "blocks.{i}.attn.qkv": f"{_BLOCK}.self_attn.qkv",
    "blocks.{i}.attn.projection": f"{_BLOCK}.self_attn.proj",
    "blocks.{i}.norm1_out": f"{_BLOCK}.norm1",
    "blocks.{i}.mlp.fc{k}": f"{_BLOCK}.linear{{k}}",
    "pool.norm": "classifier.norm",
    "pool.score": "classifier.attention_pool",
    "head.layers.0": "classifier.fc",
}


def _add_sines(model, state, root):
    """Positions that do not train are in the source's state dict too."""
    if model.pos_embed is None:
        state[_POSITIONS] = sine_positions(model.places, model.patch_embed.embed_dim)


register(
    SOURCE,
    {"cct": _NAMES},
    left_out={_POSITIONS.replace(".", r"\."): "its sines are worked out"},
    before_save=_add_sines,
)
