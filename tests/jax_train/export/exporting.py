"""Small models in the form of runs, for what is exported of them."""

from jax_models.pretrained import Preprocessing, Pretrained
from jax_train.runs import pretrained
from tests.jax_models import small

# name -> (registered name, changes of its small settings): all families, and what is special.
MODELS = {name: (name, {}) for name in small.COVERED} | {
    "deit_distilled": ("vit_tiny_patch16_224", {"distilled": True, "pool": "token"}),
    "dinov2": ("vit_tiny_patch16_224", {"registers": None, "cover_prefix": True, "swiglu": False}),
    "vit_scanned": ("vit", {"scan_layers": True}),
    "vit_adapted": ("vit", {"lora_rank": 2}),
}


def run_of(name: str, **changes) -> pretrained.PretrainedRun:
    """A model of `MODELS` with random weights, as a run without data."""
    registered, own = MODELS[name]
    settings = small.SMALL[registered].settings | own | changes
    model = small.build(registered, **own, **changes)
    (side, _), channels = small.SMALL[registered].image, settings["in_channels"]
    mean, std = (0.4,) * channels, (0.3,) * channels
    steps = Preprocessing(side, None, mean=mean, std=std)
    names = tuple(f"kind {k}" for k in range(settings["num_classes"]))
    loaded = Pretrained(model, steps, names, name, registered, settings)
    return pretrained.as_run(loaded)
