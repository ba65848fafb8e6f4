"""What tests of several files of this folder need."""

import pytest

from tests.jax_train.commands.convert_cases import source_state
from tests.with_torch import torch


@pytest.fixture
def source(tmp_path):
    """A PyTorch file of the small `raster_vit`."""
    torch.save(source_state(), tmp_path / "source.pt")
    return tmp_path / "source.pt"
