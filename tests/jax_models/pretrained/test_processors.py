"""Files of preprocessing of transformers and timm: what the libraries make of them."""

import json

import pytest

from jax_models.pretrained import huggingface, timm
from jax_models.pretrained.description import Fields, read_fields

HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406)


def _steps(kind, given, tmp_path, side=224):
    """(size, resize, interpolation, mean) of a preprocessor_config.json, and notes."""
    notes, fields = [], None
    if given is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
        fields = read_fields(tmp_path / "preprocessor_config.json")
    steps = huggingface.preprocessing(kind, fields, side, 3, notes)
    assert steps.rounds_up is False
    return (steps.size, steps.resize, steps.interpolation, steps.mean), steps, notes


IMAGE_MEAN = {"image_mean": list(IMAGENET), "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        # google/vit-base-patch16-224
        (
            "vit",
            {
                "do_normalize": True,
                "do_resize": True,
                "image_processor_type": "ViTImageProcessor",
                "image_mean": list(HALF),
                "image_std": list(HALF),
                "resample": 2,
                "size": {"height": 224, "width": 224},
            },
            (224, (224, 224), "bilinear", HALF),
        ),
        # of old: a number, and the name of then
        (
            "vit",
            {"feature_extractor_type": "ViTFeatureExtractor", "size": 384, "resample": 3},
            (384, (384, 384), "bicubic", HALF),
        ),
        (
            "deit",
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224}
            | {"do_center_crop": True}
            | IMAGE_MEAN,
            (224, (256, 256), "bicubic", IMAGENET),
        ),
        # facebook/dinov2-base
        (
            "dinov2",
            {
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "image_processor_type": "BitImageProcessor",
                "resample": 3,
                "size": {"shortest_edge": 256},
            }
            | IMAGE_MEAN,
            (224, 256, "bicubic", IMAGENET),
        ),
        # microsoft/resnet-50: int(224 / 0.875) = 256
        (
            "resnet",
            {"crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "size": 224}
            | IMAGE_MEAN,
            (224, 256, "bicubic", IMAGENET),
        ),
        # from 384 pixels on both sides are resized
        (
            "convnext",
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
            (384, (384, 384), "bicubic", HALF),
        ),
        ("vit", {"image_processor_type": "ViTImageProcessor", "do_resize": False},
         (224, None, "bilinear", HALF)),
    ],
)  # fmt: skip
def test_a_processor_of_transformers(kind, given, expected, tmp_path):
    assert _steps(kind, given, tmp_path)[0] == expected


def test_steps_that_are_left_out(tmp_path):
    given = {"do_rescale": False, "do_normalize": False}
    _, steps, _ = _steps("vit", given, tmp_path)
    assert (steps.scale, steps.mean, steps.std) == (1.0, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    ("kind", "side", "expected"),
    [
        ("vit", 384, (384, (384, 384), "bilinear", HALF)),
        ("deit", 224, (224, (256, 256), "bicubic", IMAGENET)),
        ("dinov2", 518, (224, 256, "bicubic", IMAGENET)),
        ("resnet", 224, (224, 256, "bicubic", IMAGENET)),
        ("convnext", 224, (224, 256, "bicubic", IMAGENET)),
    ],
)
def test_without_a_file_it_is_what_the_kind_usually_takes_and_told(kind, side, expected, tmp_path):
    found, _, notes = _steps(kind, None, tmp_path, side)
    assert found == expected
    assert "no preprocessor_config.json" in notes[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (224, 256, "bicubic")),  # timm's own defaults: 224 / 0.875
        ({"input_size": [3, 224, 224], "crop_pct": 0.9}, (224, 248, "bicubic")),
        ({"input_size": [3, 384, 384], "crop_pct": 1.0}, (384, 384, "bicubic")),
        ({"crop_pct": 0.95, "interpolation": "bilinear"}, (224, 235, "bilinear")),
        ({"crop_pct": 0.9, "crop_mode": "squash"}, (224, (248, 248), "bicubic")),
    ],
)
def test_a_pretrained_cfg_of_timm(given, expected, tmp_path):
    steps = timm.preprocessing(Fields(tmp_path, given), 3)
    assert (steps.size, steps.resize, steps.interpolation) == expected
    assert steps.mean == IMAGENET
    assert steps.rounds_up
