"""What exists only to be fast on CPUs; GPUs and TPUs compute in XLA's own ways.

`active` is the one switch. The rest of the package asks it where the ways part, and works without
this folder when those few lines go too.
"""

import contextlib
import contextvars

import jax

_FORCED = contextvars.ContextVar("jax_models_cpu", default=None)


def active() -> bool:
    """Whether models traced now compute in the CPU's ways: on CPUs, unless `using` says not."""
    forced = _FORCED.get()
    return jax.default_backend() == "cpu" if forced is None else forced


@contextlib.contextmanager
def using(value: bool):
    """Have models traced inside compute in the CPU's ways, or not.

    A function that is compiled already stays as it is. The CPU's ways have written gradients, so
    forward-mode differentiation (`jax.jvp`, `jax.hessian`) needs `using(False)`.
    """
    token = _FORCED.set(value)
    try:
        yield
    finally:
        _FORCED.reset(token)


def dtype(asked: str) -> str:
    """The dtype that models traced now compute in where one is asked for.

    On CPUs bfloat16 is for oneDNN on processors with instructions for it; elsewhere it would only
    be slower and less exact than float32.
    """
    from jax_models.cpu import onednn

    if asked != "bfloat16" or not active():
        return asked
    library = onednn.library()
    return asked if library and library.has_bfloat16 else "float32"


def library() -> str:
    """What computes the products of float32 models traced now: 'oneDNN' or 'XLA'."""
    from jax_models.cpu import onednn

    found = active() and jax.device_count() == 1 and onednn.library() is not None
    return "oneDNN" if found else "XLA"
