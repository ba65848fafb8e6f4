"""Names of ResNets in PyTorch."""

from jax_models.torch_weights.tables import Table, register


def _table(block: str, shortcut: tuple[str, str], head: str) -> Table:
    """That of the libraries that go by torchvision, but for some of the names."""
    numbered = {
        f"stages.{{i}}.blocks.{{j}}.{kind}.{k}": f"{block}.{name}{k + 1}"
        for kind, name in (("convs", "conv"), ("norms", "bn"))
        for k in range(3)
    }
    return numbered | {
        "stem.conv": "conv1",
        "stem.norm": "bn1",
        "stages.{i}.blocks.{j}.shortcut": f"{block}.{shortcut[0]}",
        "stages.{i}.blocks.{j}.shortcut_norm": f"{block}.{shortcut[1]}",
        "head.layers.0": head,
    }


_TORCHVISION = _table("layer{n}.{j}", ("downsample.0", "downsample.1"), "fc")
_KUANGLIU = _table("layer{n}.{j}", ("shortcut.0", "shortcut.1"), "linear")
_STEM, _BLOCK = "{root}embedder.embedder", "{root}encoder.stages.{i}.layers.{j}"
_HUGGING_FACE = {
    "stem.conv": f"{_STEM}.convolution",
    "stem.norm": f"{_STEM}.normalization",
    "stages.{i}.blocks.{j}.convs.{k}": f"{_BLOCK}.layer.{{k}}.convolution",
    "stages.{i}.blocks.{j}.norms.{k}": f"{_BLOCK}.layer.{{k}}.normalization",
    "stages.{i}.blocks.{j}.shortcut": f"{_BLOCK}.shortcut.convolution",
    "stages.{i}.blocks.{j}.shortcut_norm": f"{_BLOCK}.shortcut.normalization",
    "head.layers.0": "classifier.1",
}


def _is_for_small_images(model):
    return not model.stem.pool


def _is_for_large_images(model):
    return not _is_for_small_images(model)


register("timm", {"resnet": _TORCHVISION}, writes=_is_for_large_images)
register("torchvision", {"resnet": _TORCHVISION}, writes=_is_for_large_images)
register("huggingface", {"resnet": _HUGGING_FACE}, root="resnet.", writes=_is_for_large_images)
register("kuangliu", {"resnet": _KUANGLIU}, writes=_is_for_small_images)
