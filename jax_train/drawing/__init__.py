"""Pictures with matplotlib."""

import os

from jax_train.files import cache_root, user_folder

if "MPLCONFIGDIR" not in os.environ and not user_folder("XDG_CONFIG_HOME", ".config"):
    os.environ["MPLCONFIGDIR"] = str(cache_root() / "matplotlib")  # else it complains at length
