"""Names of ConvNeXts in PyTorch."""

from jax_models.torch_weights.tables import Table, TorchTensor, register

_BLOCK = "stages.{i}.blocks.{j}"


def _by_channel(model, shape):
    return *shape, 1, 1


def _torchvision() -> Table:
    """Its stages and what halves the maps between them are numbered together."""
    table = {
        "stem.conv": "features.0.0",
        "stem.norm": "features.0.1",
        "head.norm": "classifier.0",
        "head.layers.0": "classifier.2",
    }
    for i in range(4):
        block = f"features.{2 * i + 1}.{{j}}"
        theirs = {"conv": "block.0", "norm": "block.2", "mlp.fc1": "block.3", "mlp.fc2": "block.5"}
        table |= {
            f"stages.{i}.downsample.norm": f"features.{2 * i}.0",
            f"stages.{i}.downsample.conv": f"features.{2 * i}.1",
            f"stages.{i}.blocks.{{j}}.gamma": TorchTensor(f"{block}.layer_scale", _by_channel),
        }
        for ours, name in theirs.items():
            table[f"stages.{i}.blocks.{{j}}.{ours}"] = f"{block}.{name}"
    return table


_TIMM = {
    "stem.conv": "stem.0",
    "stem.norm": "stem.1",
    "stages.{i}.downsample.norm": "stages.{i}.downsample.0",
    "stages.{i}.downsample.conv": "stages.{i}.downsample.1",
    f"{_BLOCK}.conv": f"{_BLOCK}.conv_dw",
    "head.layers.0": "head.fc",
}
_FACEBOOK = {
    "stem.conv": "downsample_layers.0.0",
    "stem.norm": "downsample_layers.0.1",
    "stages.{i}.downsample.norm": "downsample_layers.{i}.0",
    "stages.{i}.downsample.conv": "downsample_layers.{i}.1",
    f"{_BLOCK}.conv": "stages.{i}.{j}.dwconv",
    f"{_BLOCK}.norm": "stages.{i}.{j}.norm",
    f"{_BLOCK}.mlp.fc{{k}}": "stages.{i}.{j}.pwconv{k}",
    f"{_BLOCK}.gamma": TorchTensor("stages.{i}.{j}.gamma"),
    "head.norm": "norm",
    "head.layers.0": "head",
}
_STEM, _LAYER = "{root}embeddings", "{root}encoder.stages.{i}.layers.{j}"
_HUGGING_FACE = {
    "stem.conv": f"{_STEM}.patch_embeddings",
    "stem.norm": f"{_STEM}.layernorm",
    "stages.{i}.downsample.norm": "{root}encoder.stages.{i}.downsampling_layer.0",
    "stages.{i}.downsample.conv": "{root}encoder.stages.{i}.downsampling_layer.1",
    f"{_BLOCK}.conv": f"{_LAYER}.dwconv",
    f"{_BLOCK}.norm": f"{_LAYER}.layernorm",
    f"{_BLOCK}.mlp.fc{{k}}": f"{_LAYER}.pwconv{{k}}",
    f"{_BLOCK}.gamma": TorchTensor(f"{_LAYER}.layer_scale_parameter"),
    "head.norm": "{root}layernorm",
    "head.layers.0": "classifier",
}
register("timm", {"convnext": _TIMM})
register("torchvision", {"convnext": _torchvision()})
register("huggingface", {"convnext": _HUGGING_FACE}, root="convnext.")
register("facebook", {"convnext": _FACEBOOK})
