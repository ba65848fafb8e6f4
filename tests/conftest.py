"""Set up JAX for every test: full matmul precision, and one compilation cache for all runs.

Tests compile far more than they compute, so XLA is to compile quickly. What is held against bars in
float32 (tests/parity) and what runs at full size (tests/layouts) is compiled as users do.
"""

import gc
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "jax-vit-cnn-tests-xla")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
_QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # later ones do not know it, and end the process
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _QUICK)
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_are_freed():
    """JAX keeps every program a process compiled: gigabytes, by the end of the suite."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def compared_runs(tmp_path_factory):
    """A tiny ViT and a tiny CNN, trained by one config, with the pages on them.

    Names of classes and folders hold signs that mean something in HTML.

    Returns:
      (folder with the run folders `vit` and `simple_cnn`, what the training command prints).
    """
    from jax_train import __main__, several
    from tests.jax_train.pages import hostile

    folder = tmp_path_factory.mktemp("pages")
    config = hostile.config(hostile.write_images(folder / "R&D <b>pets"))
    text = several.train_and_compare(config, folder / "runs & <i>more")
    for model in ("vit", "simple_cnn"):
        assert __main__.main(["report", str(folder / "runs & <i>more" / model)]) == 0
    return folder / "runs & <i>more", text
