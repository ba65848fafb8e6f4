"""The page of the server: one file, which asks nobody else."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from jax_train.pages import page
from jax_train.printing import listing
from jax_train.serving.uploads import Limits


def render(models: Sequence[dict[str, Any]], limits: Limits) -> str:
    """The page of some models, of which `ServedModel.facts` tells."""
    script = resources.files("jax_train.pages").joinpath("templates/serve.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    names = [model["name"] for model in models]
    return page.render(
        "serve.html",
        title=listing(names, 60),
        models=models,
        limits=limits,
        script=Markup(script),  # ours; the policy of the page runs no other
        digest=digest,
    )
