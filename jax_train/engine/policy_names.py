"""The names of augmentation policies, as timm and torchvision write them; without JAX."""

import re
from typing import NamedTuple

AUTO_AUGMENT = ("cifar10", "imagenet", "svhn")
EXPECTED = (
    "timm's 'rand-m9-mstd0.5-inc1' (parts m, n, p, mstd, mmax, inc), torchvision's 'ra-n2-m9', "
    f"'ta_wide', {', '.join(map(repr, AUTO_AUGMENT))}, or '' for none"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_UNIFORM = 100  # timm: a larger deviation stands for a uniform draw


class TimmRand(NamedTuple):
    """RandAugment as `timm.data.auto_augment.rand_augment_transform` makes it of a text.

    Attributes:
      magnitude: of 10, its mean.
      layers: operations one after the other.
      probability: of each, to be done at all.
      deviation: of the magnitude; infinite: it is uniform from 0 to `magnitude`.
      most: the largest magnitude.
      increasing: whether operations that could be strong at low magnitudes grow with it instead.
    """

    magnitude: float = 10.0
    layers: int = 2
    probability: float = 0.5
    deviation: float = 0.0
    most: float = 10.0
    increasing: bool = False


class TorchRand(NamedTuple):
    """`torchvision.transforms.RandAugment`, of 31 magnitudes."""

    layers: int = 2
    magnitude: int = 9


class TrivialWide(NamedTuple):
    """`torchvision.transforms.TrivialAugmentWide`, of 31 magnitudes."""


class AutoAugment(NamedTuple):
    """`torchvision.transforms.AutoAugment` with the policy of one of `AUTO_AUGMENT`."""

    policy: str


Policy = TimmRand | TorchRand | TrivialWide | AutoAugment


def parse(name: object) -> Policy | None:
    """The policy of a name, or None where there is none of it; see `EXPECTED`."""
    if not isinstance(name, str):
        return None
    kind, *parts = name.split("-")
    if not parts and kind in AUTO_AUGMENT:
        return AutoAugment(kind)
    if not parts and kind == "ta_wide":
        return TrivialWide()
    found = {}
    for part in parts:
        match = re.fullmatch(f"(mstd|mmax|inc|[mnp]){_NUMBER}", part)
        if not match or match[1] in found:
            return None
        found[match[1]] = float(match[2])
    policy = {"rand": _timm_rand, "ra": _torch_rand}.get(kind)
    return policy(found) if policy else None


def _timm_rand(parts: dict[str, float]) -> TimmRand | None:
    policy = TimmRand(
        magnitude=parts.get("m", 10.0),
        layers=int(parts.get("n", 2)),
        probability=parts.get("p", 0.5),
        deviation=parts.get("mstd", 0.0),
        most=parts.get("mmax", 10.0),
        increasing=bool(parts.get("inc", 0)),
    )
    if policy.deviation > _UNIFORM:
        policy = policy._replace(deviation=float("inf"))
    whole = all(parts.get(key, 0).is_integer() for key in ("m", "n", "mmax", "inc") if key in parts)
    fits = 1 <= policy.layers <= 10 and policy.probability <= 1 and 0 < policy.most <= 30
    return policy if whole and fits else None


def _torch_rand(parts: dict[str, float]) -> TorchRand | None:
    layers, magnitude = parts.pop("n", 2.0), parts.pop("m", 9.0)
    whole = not parts and layers.is_integer() and magnitude.is_integer()
    if not whole or not 1 <= layers <= 10 or magnitude > 30:
        return None
    return TorchRand(int(layers), int(magnitude))
