"""PyTorch names of the models in airbench.py, those of the source's airbench94_muon.py."""

from jax_models.torch_weights.tables import SOURCE, register

_NAMES = {"stem.conv": "whiten"} | {
    f"stages.{{i}}.{kind}s.{k}": f"layers.{{n}}.{kind}{k + 1}"
    for kind in ("conv", "norm")
    for k in range(3)
}
register(SOURCE, {"airbench": _NAMES})
