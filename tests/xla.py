"""How XLA compiles what tests compute: the options of one `jax.jit`, and a process's flags."""

import os

# Tests compile far more than they compute.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
QUICK_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
# As users' programs are compiled: for what depends on their rounding.
AS_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_use_fusion_emitters": True,
}


def for_many_steps() -> dict | None:
    """Options of a program that runs often: a loop of convolutions is then worth some compiling."""
    quick = QUICK_FLAGS in os.environ.get("XLA_FLAGS", "")
    return {"xla_backend_optimization_level": 1} if quick else None
