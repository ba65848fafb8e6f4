"""How this process computes: devices, compiled programs kept between runs, versions tested."""

import functools
import warnings

import jax
from jax.extend import backend

from jax_train.errors import UserError
from jax_train.files import cache_root
from jax_train.printing import note

NEWEST_TESTED = 0, 12  # the minor version of JAX; pyproject.toml has the oldest


@functools.cache  # said once
def tell_untested() -> None:
    """Print a note where JAX is of a newer minor version than was ever tested."""
    if jax.__version_info__[:2] <= NEWEST_TESTED:
        return
    newest = ".".join(map(str, NEWEST_TESTED))
    note(
        f"JAX {jax.__version__} is newer than {newest}, the newest version tested here. If "
        f"something fails or figures differ: pip install 'jax<0.{NEWEST_TESTED[1] + 1}'"
    )


def prepare() -> None:
    """Make this process ready to compute.

    Compiled programs are kept in the user's cache folder, unless JAX was told where. A JAX that was
    not tested is told of.

    Raises:
      UserError: JAX was told to use a platform that is not there.
    """
    tell_untested()
    check_devices()
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_root() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # A damaged program is compiled again, which is all there is to do about it.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache")


def check_devices() -> None:
    """See that there are devices of a platform that JAX was told to use.

    Raises:
      UserError: there are none; says what was asked for and what there is.
    """
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, or a bare AssertionError
        asked, reason = jax.config.jax_platforms, " ".join(str(error).split())
        reason = reason.split(" (set JAX_PLATFORMS")[0].rstrip(".")[:200]
        raise UserError(
            f"JAX_PLATFORMS={asked}: there is no such device on this machine, or JAX is installed "
            f"without support for it{f' ({reason})' * bool(reason)}. There is: {_platforms()}. "
            "Unset JAX_PLATFORMS or set it to that, or install JAX for the device, such as "
            "pip install -e '.[cuda12]'."
        ) from error


def _platforms() -> str:
    """The platforms that JAX finds when it may choose."""
    asked = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", None)
        return ", ".join(sorted({device.platform for device in jax.devices()}))
    except Exception:  # as above
        return "none"
    finally:
        jax.config.update("jax_platforms", asked)
        backend.clear_backends()  # or the next computation would run elsewhere than was asked
