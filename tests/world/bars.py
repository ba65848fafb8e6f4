"""What is measured against other libraries, and how far apart it may be."""

from collections.abc import Collection

from tests.parity.ladder import BARS as LADDER

# Largest error allowed on each rung: float32, float64. None: not measured in that precision.
BARS: dict[str, tuple[float | None, float | None]] = {
    "logits": LADDER["logits"],
    "last features": LADDER["features"],
    "attention": LADDER["attention"],
    "other size": LADDER["logits"],
    "training logits": LADDER["train-mode logits"],
    "gradients": LADDER["gradients of the parameters"],
    "batch norm": LADDER["running statistics, 3 steps"],
    "round trip": (0.0, None),
}
IN_FLOAT32 = 1e-6  # in float64, where the library works something out in float32 nevertheless


def bar(rung: str, precision: str, in_float32: Collection[str] = ()) -> float | None:
    """The largest error allowed; None where there is none.

    Args:
      rung: one of `BARS`.
      precision: 'float32' or 'float64'.
      in_float32: see `case.Case`.
    """
    if precision == "float64" and rung in in_float32:
        return IN_FLOAT32
    return BARS[rung][precision == "float64"]
