"""How this process computes: compiled programs kept between runs."""

import warnings

import jax

from jax_train.files import cache_root


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs in the user's cache folder, unless JAX was told where."""
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_root() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A damaged program is compiled again, which is all there is to do about it.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
