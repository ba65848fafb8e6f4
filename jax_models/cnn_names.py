"""PyTorch names of the models in cnn.py and attention_cnn.py."""

from jax_models.torch_weights.tables import SOURCE, TorchTensor, register


def _as_convolution(model, shape):
    return *shape, 1, 1


_SIMPLE_CNN = {
    "stages.{i}.convs.0": "conv{n}.0",
    "stages.{i}.norms.0": "conv{n}.1",
    "stages.{i}.convs.1": "conv{n}.3",
    "stages.{i}.norms.1": "conv{n}.4",
    "head.layers.0": "fc",
}
_MNIST_CNN = {"stages.{i}.convs.0": "conv{n}", "head.layers.{i}": "fc{n}"}
_ATTENTION_CNN = {
    "stages.{i}.convs.0": "conv{n}",
    "stages.{i}.attention.{p}.kernel": TorchTensor("sa{n}.{p}.weight", _as_convolution),
    "stages.{i}.attention.{p}": "sa{n}.{p}",
    "head.layers.0": "fc",
}
register(SOURCE, {"simple_cnn": _SIMPLE_CNN, "mnist_cnn": _MNIST_CNN})
register(SOURCE, {"attention_cnn": _ATTENTION_CNN})
