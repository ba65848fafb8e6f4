"""StableHLO: a program that JAX runs on CPUs, GPUs and TPUs, without the code of the model.

Source: https://docs.jax.dev/en/latest/export/export.html.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jax_train.errors import UserError
from jax_train.export.check import Runtime
from jax_train.export.graph import Graph

PLATFORMS = ("cpu", "cuda", "tpu")


def check_installed() -> None:
    """Raise a UserError where what JAX writes such files with is missing."""
    try:
        import flatbuffers  # noqa: F401
    except ImportError:
        raise UserError(
            "--to: JAX writes .stablehlo by the package flatbuffers, which is not installed: pip "
            "install flatbuffers."
        ) from None


def encode(graph: Graph, name: str, facts: Mapping[str, object]) -> bytes:
    """The file: a function of images [B,H,W,C], B free, that gives its outputs by name.

    There is no place in it for a name and for facts.
    """
    function = jax.jit(graph.plain)
    return bytes(jax.export.export(function, platforms=PLATFORMS)(graph.batch).serialize())


def open_file(path: Path) -> Runtime:
    """Read a file as its users do."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    compiled = jax.jit(exported.call)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in compiled(images).items()}

    return Runtime(f"jax {jax.__version__}", run)
