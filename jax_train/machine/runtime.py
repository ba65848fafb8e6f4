"""How this process computes: compiled programs kept between runs, versions that were tested."""

import functools
import sys
import warnings

import jax

from jax_train.files import cache_root
from jax_train.printing import as_paragraph

NEWEST_TESTED = 0, 12  # the minor version of JAX; pyproject.toml has the oldest


@functools.cache  # said once
def tell_untested() -> None:
    """Print a note where JAX is of a newer minor version than was ever tested."""
    if jax.__version_info__[:2] <= NEWEST_TESTED:
        return
    newest = ".".join(map(str, NEWEST_TESTED))
    text = (
        f"note: JAX {jax.__version__} is newer than {newest}, the newest version tested here. If "
        f"something fails or figures differ: pip install 'jax<0.{NEWEST_TESTED[1] + 1}'"
    )
    print(as_paragraph(text), file=sys.stderr)


def enable_compilation_cache() -> None:
    """Keep compiled programs between runs in the user's cache folder, unless JAX was told where.

    Also tells of a JAX that was not tested, as this is what every command starts with.
    """
    tell_untested()
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_root() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A damaged program is compiled again, which is all there is to do about it.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
