"""PyTorch names of the models in cnn.py and attention_cnn.py, as their sources have them."""

from jax_models.cnn import ConvNet
from jax_models.torch_weights.tables import Table, TorchTensor, register


@register("simple_cnn")
def simple_cnn(model: ConvNet) -> Table:
    """Names of `simple_cnn`."""
    return {
        "stages.{i}.convs.0": "conv{n}.0",
        "stages.{i}.norms.0": "conv{n}.1",
        "stages.{i}.convs.1": "conv{n}.3",
        "stages.{i}.norms.1": "conv{n}.4",
        "head.layers.0": "fc",
    }


@register("mnist_cnn")
def mnist_cnn(model: ConvNet) -> Table:
    """Names of `mnist_cnn`."""
    return {"stages.{i}.convs.0": "conv{n}", "head.layers.{i}": "fc{n}"}


@register("attention_cnn")
def attention_cnn(model: ConvNet) -> Table:
    """Names of `attention_cnn`: its matrix products are 1×1 convolutions in PyTorch."""
    names = {"stages.{i}.convs.0": "conv{n}", "head.layers.0": "fc"}
    for i, stage in enumerate(model.stages):
        for part in ("theta", "phi", "g", "o"):
            inputs, outputs = getattr(stage.attention, part).kernel.shape
            ours, theirs = f"stages.{i}.attention.{part}", f"sa{i + 1}.{part}"
            names[f"{ours}.kernel"] = TorchTensor(f"{theirs}.weight", (outputs, inputs, 1, 1))
            names[ours] = theirs
    return names
