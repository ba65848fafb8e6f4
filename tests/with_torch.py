"""PyTorch and the mirror, for tests; those that use it are skipped where it is not installed."""

import functools

import pytest


class _Module:
    """A module that is imported by the first test that uses it."""

    def __init__(self, name: str):
        self._name = name

    @functools.cached_property
    def _found(self):
        return pytest.importorskip(self._name)

    def __getattr__(self, name: str):
        if name.startswith(("_", "pytest")):  # pytest looks for its marks on all that it finds
            raise AttributeError(name)
        return getattr(self._found, name)


torch, torch_ref = _Module("torch"), _Module("torch_ref")
safetensors_torch = _Module("safetensors.torch")
