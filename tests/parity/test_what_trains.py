"""Layer-wise rates, frozen parameters and a probe of the head are PyTorch's, step by step."""

import jax
import pytest

from tests.parity import what_trains

pytest.importorskip("torch")

LAYERWISE = {"optim.layer_decay": 0.6, "optim.lr_scale": (("bias$", 2.0),)}
SGD = {"optim.name": "sgd", "optim.momentum": 0.9, "optim.learning_rate": 0.1}
CLIPPED = {"optim.clip_norm": 0.3}
WEIGHTED = {
    "train.label_smoothing": 0.1,
    "train.class_weights": tuple(0.3 + 0.1 * i for i in range(19)),
}
BINARY = {"train.loss": "binary_cross_entropy", "train.bce_sum": True, "train.label_smoothing": 0.2}
PROBED = {"train.probe_epochs": 1}


def first_block(name):
    return "blocks.0." in name


def all_but_adapters_and_head(name):
    return "lora_" not in name and not name.startswith("head")


def stem_and_first_stage(name):
    return name.startswith(("conv1", "bn1", "layer1."))


@pytest.mark.parametrize(
    ("name", "changes", "how"),
    [
        (
            "vit_tiny_patch16_224",
            LAYERWISE | PROBED | {"train.freeze": (r"^blocks\.0\.",)},
            {"frozen": first_block},
        ),
        (
            "resnet18",
            LAYERWISE
            | SGD
            | CLIPPED
            | PROBED
            | BINARY
            | {"train.freeze": (r"^stem\.", r"^stages\.0")},
            {"head": "fc", "frozen": stem_and_first_stage},
        ),
        (
            "vit_tiny_patch16_224",
            PROBED | CLIPPED | {"model.lora_rank": 3, "model.lora_alpha": 7.0},
            {"frozen": all_but_adapters_and_head},
        ),
        ("convnext_tiny", LAYERWISE | CLIPPED | WEIGHTED, {}),
    ],
)
def test_steps_are_torchs(name, changes, how):
    with jax.enable_x64(True):
        found = list(what_trains.errors(name, what_trains.config_of(name, **changes), **how))
    print(f"{name}: {max(found):.1e}")
    assert max(found) < 1e-10
