"""Files of the original code bases, known by their names, are timm's twins bit for bit."""

import pytest

from jax_models import load_pretrained, model_keywords, torch_weights
from tests.jax_models.pretrained import folders, originals
from tests.jax_models.small import bits
from tests.with_torch import torch

SIZES = {key: value for key, value in folders.VIT.items() if key != "img_size"}
_GIANT = "vit_giant_patch14_reg4_dinov2"
# name -> settings that the name does not have, f(state by timm's names), key around the state
ORIGINALS = {
    "deit3_small_patch16_224": (SIZES, originals.deit3, "model"),
    "vit_small_patch14_dinov2": (SIZES, originals.dinov2, None),
    "vit_small_patch14_reg4_dinov2": (SIZES, originals.dinov2, None),
    _GIANT: (SIZES, lambda state: originals.dinov2(state, swiglu=True), None),
    "resnet18": (folders.RESNET | {"stem": "cifar"}, originals.kuangliu, "net"),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_an_original_file_is_its_twin_by_timms_names(name, tmp_path):
    sizes, rename, key = ORIGINALS[name]
    side = {"img_size": folders.SIDE} if sizes is SIZES else {}
    state = torch_weights.export(folders.build(name, **sizes, **side))
    found = []
    for file, values in {"theirs.pth": rename(state), "timm.pth": state}.items():
        values = {name: torch.from_numpy(value) for name, value in values.items()}
        torch.save({key: values} if key else values, tmp_path / file)
        found.append(load_pretrained(tmp_path / file, name=name, **sizes))
    assert rename(state).keys() != state.keys()
    theirs, twin = found
    assert bits(theirs.model) == bits(twin.model)
    own = model_keywords(name)
    assert own | theirs.settings == own | twin.settings
    assert theirs.preprocessing == twin.preprocessing
