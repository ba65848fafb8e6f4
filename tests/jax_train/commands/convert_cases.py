"""Small models for `convert`: their settings, a PyTorch state dict of each, running the command."""

import numpy as np
import safetensors.numpy

from jax_train import __main__
from tests.with_torch import torch, torch_ref

RASTER = {
    "img_size": 10,
    "in_channels": 2,
    "num_classes": 19,
    "patch_size": 5,
    "embed_dim": 21,
    "depth": 2,
    "num_heads": 3,
    "mlp_dim": 17,
}
CNN = {"in_channels": 2, "num_classes": 19, "widths": (5, 11)}
MNIST = {
    "img_size": 14,
    "in_channels": 2,
    "num_classes": 13,
    "patch_size": 7,
    "embed_dim": 15,
    "depth": 1,
    "num_heads": 3,
    "mlp_dim": 23,
    "head_dims": (17, 11),
}
MLP_HEAD = MNIST | {"embed_dim": 21}
SETTINGS = {
    "raster_vit": RASTER,
    "simple_cnn": CNN,
    "mnist_vit": MNIST,
    "mlp_head_vit": MLP_HEAD,
}


def source_state(name="raster_vit"):
    torch.manual_seed(5)
    state = torch_ref.create_model(name, **SETTINGS[name]).state_dict()
    for key, tensor in state.items():
        tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else len(key))
        if key.endswith("running_var"):
            tensor.abs_()
    return state


def run(source, target, *more, name="raster_vit", settings=None):
    """Run the command in this process; return its exit code."""
    settings = SETTINGS.get(name, {}) if settings is None else settings
    given = [f"--set={key}={value!r}" for key, value in settings.items()]
    paths = ["--from", str(source), "--to", str(target)]
    return __main__.main(["convert", "--model", name, *paths, *given, *more])


def read(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    return torch.load(path, weights_only=True)


def assert_same_state(ours, theirs):
    assert list(ours) == list(theirs) or set(ours) == set(theirs)
    for key, value in theirs.items():
        mine, other = np.asarray(ours[key]), np.asarray(value)
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape), key
        assert mine.tobytes() == other.tobytes(), key


def assert_refused(capsys, folder, *words):
    """One paragraph on stderr, and no new file."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert "\n\n" not in err
    text = " ".join(err.split())
    for word in words:
        assert word in text
    assert not [path for path in folder.iterdir() if path.name.startswith("out")]
