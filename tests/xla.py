"""How XLA compiles what tests compute: the options of one `jax.jit`, and a process's flags."""

import os
from importlib.metadata import version

# Later versions do not know it.
_EMITTERS = "xla_cpu_use_fusion_emitters" if version("jaxlib").startswith("0.10.") else None


def _options(level: int, few_passes: bool, emitters: bool) -> dict:
    options = {
        "xla_backend_optimization_level": level,
        "xla_llvm_disable_expensive_passes": few_passes,
    }
    return options | ({_EMITTERS: emitters} if _EMITTERS else {})


# Tests compile far more than they compute.
QUICK = _options(0, True, False)


def _flags(options: dict) -> str:
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


QUICK_FLAGS = _flags(QUICK)
# At level 0 a product and a sum become one instruction, rounded once, in some loops and not in
# others: layouts would not see the same images to the last bit.
EVEN_FLAGS = _flags(_options(1, True, False))
# As users' programs are compiled: for what depends on their rounding.
AS_USERS = _options(1, False, True)


def for_many_steps() -> dict | None:
    """Options of a program that runs often: a loop of convolutions is then worth some compiling."""
    quick = QUICK_FLAGS in os.environ.get("XLA_FLAGS", "")
    return {"xla_backend_optimization_level": 1} if quick else None
